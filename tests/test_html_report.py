"""The page of a job: what it shows, that it needs nothing, and how a real browser takes it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from coordinator.results.html_report import html_report
from coordinator.results.page import svg
from coordinator.results.page.bars import Bar, bars
from coordinator.results.page.scale import Scale, decades, from_zero, number
from coordinator.results.page.section import ReportData
from coordinator.results.roofline import standings
from protos.records import (
    MIXED,
    DeviceLimits,
    EngineResult,
    History,
    HistoryRecord,
    Job,
    JobState,
    MeasurementStatus,
    OutputError,
    RegionResult,
    Shape,
    TaskProgress,
    ThreadResult,
    TrialCounts,
)
from tests.browser import Browser, browser
from tests.test_results_report import JOB

NASTY = "<script>alert('x')</script>&\"quoted\"<img src=https://example.org/x>"

HISTORY = History(
    (
        HistoryRecord(100.0, "k2", "u", MeasurementStatus.OK, 300.0, 1.0, "d", True, False),
        HistoryRecord(110.0, "k2", "a", MeasurementStatus.OK, 60.0, 2.0, NASTY),
        HistoryRecord(130.0, "k2", "b", MeasurementStatus.CRASHED, None, 3.0, NASTY),
        HistoryRecord(160.0, "k2", "c", MeasurementStatus.OK, 10.0, 60.0, NASTY),
    ),
    {"k1": 50.0},
)


LIMITS = DeviceLimits("board", 100.0, 10.0, 50.0, 1 << 20)

WITH_FLOPS = replace(
    JOB,
    tasks=(
        replace(JOB.tasks[0], flops=1e5, moved_bytes=1_000_000),
        replace(JOB.tasks[1], flops=1e6, moved_bytes=4_000),
        replace(JOB.tasks[2], moved_bytes=9),
        TaskProgress("reshape", "k4", 1, 2.0, 2.0, moved_bytes=2 << 20),
    ),
)


def data(
    job: Job = JOB, history: History = HISTORY, limits: DeviceLimits | None = None
) -> ReportData:
    return ReportData(job, "sqlite:///log.db", history, limits)


def nasty_job() -> Job:
    """Everything that comes from outside is an attempt to break the page."""
    assert JOB.result is not None
    tasks = [replace(task, name=f"{NASTY}{task.name}") for task in JOB.tasks]
    many = [
        TaskProgress(f"op{i}", f"x{i}", 1, 5.0 + i, 4.0, 1, flops=1e4 * i, moved_bytes=5000 + i)
        for i in range(30)
    ]
    engines = (
        EngineResult(NASTY, NASTY, 2.0, 1.9, 2.2),
        EngineResult("openvino", NASTY, error=NASTY),
    )
    return replace(
        JOB,
        job_id=NASTY,
        stage=NASTY,
        error=NASTY,
        state=JobState.FAILED,
        spec=replace(JOB.spec, model_name=NASTY, target_json=NASTY, shapes={NASTY: Shape((1, 2))}),
        tasks=(*tasks, *many),
        result=replace(
            JOB.result,
            engines=engines,
            engine=NASTY,
            left_to_engine=(NASTY,),
            package_filename=NASTY,
            threads=tuple(ThreadResult(NASTY, n, 2.0, 1.9, 2.1, 1 << 20) for n in (1, 2)),
            outputs=(OutputError(NASTY, 1.0, 1.0),),
            mixed_ms=3.0,
            regions=(RegionResult(NASTY, NASTY, NASTY, {NASTY: 1.0}),),
            labels={"price-per-hour": "0.35", "watts": "7.5"},
        ),
        stage_s={NASTY: 1.0},
        tuning_ended=NASTY,
    )


class Reader(HTMLParser):
    """Collects the elements, and complains of one that is not closed in its turn."""

    VOID = ("meta", "line", "rect", "circle", "path")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag != "meta":
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def pictures(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(text) for text in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


# ------------------------------------------------------------------------- what it says


def test_the_page_has_the_numbers_of_the_job() -> None:
    text = Reader(html_report(data(), 0.0)).text
    for words in (
        "The package runs ONNX Runtime: 0.900 ms per inference, 13.3 times as fast",
        "0.980 to 1.010",
        "it crashed",
        "went from 1.00 to 0.130 ms in 3 trials and 60 s",
        "device time of the measurements1.10 min",
        "Made by tunefarm",
        "1970-01-01 00:00 UTC",
    ):
        assert words in text


def test_every_picture_says_what_it_shows() -> None:
    page = html_report(data(), 0.0)
    found = pictures(page)
    assert len(found) == 3
    identifiers = [e.get("id") for p in found for e in p.iter() if e.get("id")]
    assert len(identifiers) == len(set(identifiers))
    for picture in found:
        title, description = picture[0], picture[1]
        assert picture.get("role") == "img"
        assert picture.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
        assert title.text
        assert description.text


def test_what_comes_from_outside_is_only_words() -> None:
    page = html_report(data(nasty_job(), limits=replace(LIMITS, device=NASTY)), 0.0)
    reader = Reader(page)
    assert NASTY in "".join(reader.words)
    assert not [tag for tag, _ in reader.elements if tag in ("script", "img", "link", "iframe")]
    names = {name for _, attributes in reader.elements for name in attributes}
    assert not names & {"src", "style", "onload", "onclick"}
    links = [attributes["href"] for tag, attributes in reader.elements if tag == "a"]
    assert all(str(link).startswith("#") for link in links)


@pytest.mark.parametrize(
    ("job", "history", "words"),
    [
        (replace(JOB, state=JobState.QUEUED, result=None, tasks=()), History(), "job is queued."),
        (
            replace(JOB, state=JobState.FAILED, error="no such luck", result=None),
            HISTORY,
            "This job is failed: no such luck",
        ),
        (JOB, History(), "all its 63 trials were in the tuning log already"),
        (
            replace(JOB, trials=TrialCounts()),
            replace(HISTORY, records=HISTORY.records[:1]),
            "No candidate was tried yet",
        ),
    ],
)
def test_what_is_not_known_is_left_out_with_a_word(job: Job, history: History, words: str) -> None:
    page = html_report(data(job, history), 0.0)
    assert words in Reader(page).text
    assert ("latency-picture" in page) == (job.result is not None)
    assert ("curve-picture" in page) == (history is HISTORY)
    assert "nan" not in page


def test_more_operators_than_the_picture_shows_share_a_row() -> None:
    page = html_report(data(nasty_job()), 0.0)
    operators = next(p for p in pictures(page) if "operator" in (p[0].text or ""))
    labels = [e.text for e in operators.iter("text") if e.get("class") == "label"]
    assert len(labels) == 21
    assert labels[-1] == "13 others"


def test_a_mixture_is_shown_by_its_regions() -> None:
    assert JOB.result is not None
    regions = (
        RegionResult(
            *("first", "middle", "tunefarm"),
            {"tunefarm": 0.2, "openvino": 0.3},
            {"tunefarm": 0.1, "openvino": 0.25},
        ),
        RegionResult(NASTY, "last", "openvino", {"openvino": 0.4}, {"openvino": 0.3}),
    )
    result = replace(JOB.result, engine=MIXED, mixed_ms=0.65, regions=regions)
    page = html_report(data(replace(JOB, result=result)), 0.0)
    text = Reader(page).text
    assert "The package runs a mixture of our code and other engines: 0.650 ms" in text
    assert "cut into 2 regions" in text
    assert "Mixture0.650–1.00" in text
    assert "with 1 in tunefarm and 1 in OpenVINO. That mixture is packaged" in text
    picture = next(p for p in pictures(page) if "region" in (p[0].text or ""))
    assert "0.100 ms, 25.0 %" in (picture[1].text or "")
    chosen = [e.text for e in picture.iter("text") if e.get("class") == "label chosen"]
    assert chosen == ["1. tunefarm", "2. OpenVINO"]


def test_threads_memory_and_differences_are_shown_where_they_are_known() -> None:
    assert JOB.result is not None
    threads = (
        ThreadResult("untuned", 2, 12.0, 11.5, 12.5, 90 << 20),
        ThreadResult("tunefarm", 2, 1.0, 0.98, 1.01, 100 << 20),
        ThreadResult("onnxruntime", 2, 0.9, 0.89, 0.92, 150 << 20),
        ThreadResult("onnxruntime", 1, 1.35, 1.3, 1.4, 149 << 20),
    )
    result = replace(
        JOB.result,
        threads=threads,
        outputs=(OutputError(NASTY, 2e-7, 1e-6), OutputError("y")),
        weights_bytes=3 << 20,
        workspace_bytes=1 << 19,
    )
    page = html_report(data(replace(JOB, result=result)), 0.0)
    text = Reader(page).text
    for said in (
        "With 2 threads, what is packaged is 1.50 times as fast as with one.",
        "Untuned––12.00011.500 to 12.500",
        "ONNX Runtime1.3501.300 to 1.4000.9000.890 to 0.920",
        "weights3.000",
        "allocated once0.500",
        "Tuned100.0",
        "y00",
    ):
        assert said in text
    assert "149.0" not in text, "the peak is that with all threads"
    found = {(p[0].text or "").split(" by ")[-1]: p for p in pictures(page)}
    labels = [e.text for e in found["engine and number of threads"].iter("text")]
    assert "ONNX Runtime, 1 thread" in labels
    one_count = replace(result, threads=threads[:3], outputs=(), weights_bytes=0)
    page = html_report(data(replace(JOB, result=one_count)), 0.0)
    assert "threads-picture" not in page
    assert "Numerical difference" not in page


def test_what_is_left_to_win_is_the_time_above_the_roof() -> None:
    found = standings(WITH_FLOPS.tasks, LIMITS, cold_cache=False)
    assert [(one.name, one.cached) for one in found] == [
        ("add", True),
        ("conv", True),
        ("reshape", False),
    ]
    add, conv, reshape = found
    assert add.least_us == pytest.approx(1e6 / 50e9 * 1e6), "by bandwidth"
    assert add.left_us == pytest.approx(2 * (25.0 - 20.0))
    assert conv.least_us == conv.latency_us == pytest.approx(10.0), "by arithmetic"
    assert (conv.intensity, conv.gflops) == (pytest.approx(250.0), pytest.approx(100.0))
    assert reshape.left_us == 0.0, "faster than memory was when it was measured"
    assert reshape.share_of_roof > 1.0
    (cold, *_others) = standings(WITH_FLOPS.tasks, LIMITS, cold_cache=True)
    assert not cold.cached
    no_cache_known = replace(LIMITS, cache_bytes=0)
    assert all(one.cached for one in standings(WITH_FLOPS.tasks, no_cache_known, cold_cache=False))


def test_the_roofline_needs_limits_and_operators() -> None:
    page = html_report(data(WITH_FLOPS, limits=LIMITS), 0.0)
    text = Reader(page).text
    assert "The operators take 0.0820 ms of an inference; at the device's roof" in text
    assert "100 % are in add" in text
    picture = next(p for p in pictures(page) if "roof" in (p[0].text or ""))
    points = [e for e in picture.iter("circle") if e.get("class") == "operator"]
    assert len(points) == 2, "an operator without arithmetic has no place in it"
    assert "roofline-picture" not in html_report(data(limits=LIMITS), 0.0)
    assert "roofline-picture" not in html_report(data(WITH_FLOPS), 0.0)


# ------------------------------------------------------------------------- pictures


def test_bars_are_as_long_as_their_numbers() -> None:
    rows = [Bar("a", 2.0, "2 ms"), Bar("b", 1.0, "1 ms", 0.5, 1.5, chosen=True)]
    picture = ElementTree.fromstring(bars("k", "t", "d", "ms", rows))
    wide, narrow = (float(e.get("width", "")) for e in picture.iter("rect"))
    assert wide == pytest.approx(2 * narrow, abs=0.2)
    whiskers = [e for e in picture.iter("line") if e.get("class") == "whisker"]
    length = float(whiskers[0].get("x2", "")) - float(whiskers[0].get("x1", ""))
    assert length == pytest.approx(narrow, abs=0.2)


@pytest.mark.parametrize(
    ("scale", "ticks"),
    [
        (Scale(0.0, 10.4, 0.0, 100.0), [0, 5, 10]),
        (Scale(0.0, 0.9, 0.0, 100.0), [0, 0.2, 0.4, 0.6, 0.8]),
        (Scale(10.0, 5e3, 0.0, 100.0, logarithmic=True), [10, 30, 100, 300, 1000, 3000]),
        (Scale(20.0, 50.0, 0.0, 100.0, logarithmic=True), [20, 50]),
    ],
)
def test_round_numbers_at_an_axis(scale: Scale, ticks: list[float]) -> None:
    assert scale.ticks() == pytest.approx(ticks)


def test_where_a_number_lies() -> None:
    assert from_zero([50.0], 10.0, 114.0)(25.0) == pytest.approx(60.0)
    scale = decades([1.0, 100.0], 0.0, 1.0)
    assert scale(10.0) == pytest.approx((scale(1.0) + scale(100.0)) / 2)
    assert (scale(0.0), scale(1e9)) == (0.0, 1.0)
    assert from_zero([], 0.0, 1.0)(0.5) == 0.5


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.87354, "0.874"), (5.4971, "5.50"), (12345.6, "12,300"), (0, "0"), (1e-9, "1.00e-09")],
)
def test_numbers_as_people_read_them(value: float, words: str) -> None:
    assert number(value) == words


def test_a_long_name_is_cut_and_control_characters_are_spaces() -> None:
    assert svg.shortened("short", 200.0) == "short"
    assert svg.shortened("a\nb\0", 200.0) == "a b "
    assert len(svg.shortened("x" * 99, 73.0)) == 10


# ------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture
def page(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / "page.html"
    path.write_text(html_report(data(request.param, limits=LIMITS), 0.0), encoding="utf-8")
    return path


@pytest.mark.parametrize("page", [WITH_FLOPS, nasty_job()], ids=["plain", "nasty"], indirect=True)
def test_a_browser_shows_it_without_a_complaint_or_a_request(chromium: Browser, page: Path) -> None:
    chromium.open(page)
    sizes = chromium.ask(
        "[...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect())"
        ".map(r => [r.width, r.height])"
    )
    assert len(sizes) == chromium.ask("document.querySelectorAll('figure').length") >= 4
    assert all(width > 400 and height > 60 for width, height in sizes)
    assert chromium.ask("document.querySelectorAll('svg text').length") > 20
    assert chromium.ask("document.documentElement.scrollWidth <= window.innerWidth")
    assert chromium.complaints() == []
    assert chromium.requests() == [page.as_uri()]


_OUTSIDE = """
[...document.querySelectorAll('svg')].flatMap(s => {
  const frame = s.getBoundingClientRect();
  return [...s.querySelectorAll('text')].filter(t => {
    const box = t.getBoundingClientRect();
    return box.left < frame.left - 1 || box.right > frame.right + 1;
  }).map(t => t.textContent);
})
"""


@pytest.mark.parametrize("page", [WITH_FLOPS, nasty_job()], ids=["plain", "nasty"], indirect=True)
def test_no_words_of_a_picture_are_cut_off(chromium: Browser, page: Path) -> None:
    chromium.open(page)
    assert chromium.ask(_OUTSIDE) == []


_CONTRASTS = """
(() => {
  const light = c => {
    const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  const ratio = c => (Math.max(light(c), paper) + 0.05) / (Math.min(light(c), paper) + 0.05);
  const of = (query, what) => [...document.querySelectorAll(query)]
    .map(e => ratio(getComputedStyle(e)[what]));
  return [...of('p, td, th, h1, h2, a, dd, dt', 'color'), ...of('svg text', 'fill')];
})()
"""


@pytest.mark.parametrize("page", [nasty_job()], ids=["nasty"], indirect=True)
@pytest.mark.parametrize(
    ("colours", "media"), [("light", "screen"), ("dark", "screen"), ("dark", "print")]
)
def test_all_words_can_be_read(chromium: Browser, page: Path, colours: str, media: str) -> None:
    """WCAG 2.2, 1.4.3: at least 4.5 to 1."""
    chromium.open(page)
    chromium.look(colours, media)
    contrasts = chromium.ask(_CONTRASTS)
    dark = chromium.ask("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    folded = chromium.ask("document.querySelector('details table').checkVisibility()")
    chromium.look()
    assert len(contrasts) > 100
    assert min(contrasts) >= 4.5
    assert dark == ((colours, media) == ("dark", "screen"))
    assert folded or media == "screen", "nothing is hidden on paper"


def test_the_browser_sees_what_it_is_there_to_see(chromium: Browser, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text(
        "<img src='nothing.png'><svg width=300 style='margin-left:0'>"
        "<text x='290' y='9'>beyond</text></svg><script>console.error('oh'); throw 1</script>"
    )
    chromium.open(path)
    assert len(chromium.requests()) == 2
    assert len(chromium.complaints()) >= 2
    assert chromium.ask(_OUTSIDE) == ["beyond"]
