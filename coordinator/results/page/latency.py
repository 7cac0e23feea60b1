"""The section on the whole model's latency."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from coordinator.results.report import cache_policy, engine_title
from protos.records import MIXED, OWN, UNTUNED, ModelResult

from .bars import Bar, bars
from .scale import difference, number
from .section import Column, ReportData, Section, Table, words


@dataclass(frozen=True)
class _Way:
    """One way to run the model."""

    title: str
    latency_ms: float | None
    low_ms: float | None = None
    high_ms: float | None = None
    max_rel_error: float | None = None
    error: str = ""
    packaged: bool = False


def latency(data: ReportData) -> Section | None:
    """Every way to run the model that was timed; None before it was."""
    result = data.job.result
    if result is None:
        return None
    ways = list(_ways(result))
    timed = [way for way in ways if way.latency_ms is not None]
    return Section(
        "latency",
        "Latency of the whole model",
        (_lead(result),),
        (
            bars(
                "latency-picture",
                "Latency of the whole model by engine",
                "; ".join(f"{way.title} {_ms(way)}" for way in timed),
                "ms per inference; the lines are 95 % intervals of the median",
                [
                    Bar(
                        way.title,
                        way.latency_ms or 0.0,
                        f"{_ms(way)}{', packaged' if way.packaged else ''}",
                        way.low_ms,
                        way.high_ms,
                        way.packaged,
                    )
                    for way in timed
                ],
            ),
        ),
        (_table(ways, result),),
        tuple(_notes(data, result)),
    )


def _ways(result: ModelResult) -> Iterator[_Way]:
    own = result.engine == OWN
    error = result.max_rel_error if own else None
    known = {(one.name, one.latency_ms): one for one in result.threads}
    untuned = known.get((UNTUNED, result.untuned_ms))
    yield _Way(
        "Untuned",
        result.untuned_ms,
        untuned.low_ms if untuned else None,
        untuned.high_ms if untuned else None,
    )
    yield _Way(
        "Tuned", result.tuned_ms, result.tuned_low_ms, result.tuned_high_ms, error, packaged=own
    )
    for one in result.engines:
        yield _Way(
            f"{engine_title(one.name)} {one.version}".rstrip(),
            one.latency_ms,
            one.low_ms,
            one.high_ms,
            None if one.latency_ms is None else one.max_rel_error,
            one.error,
            one.name == result.engine,
        )
    if result.mixed_ms is not None:
        mixed = result.engine == MIXED
        error = result.max_rel_error if mixed else None
        timed = known.get((MIXED, result.mixed_ms))
        yield _Way(
            "Mixture",
            result.mixed_ms,
            timed.low_ms if timed else None,
            timed.high_ms if timed else None,
            error,
            packaged=mixed,
        )


def _lead(result: ModelResult) -> str:
    named = {OWN: "the tuned model", MIXED: "a mixture of our code and other engines"}
    runs = named.get(result.engine) or engine_title(result.engine)
    faster = result.untuned_ms / result.packaged_ms
    return (
        f"The package runs {runs}: {number(result.packaged_ms)} ms per inference, "
        f"{number(faster)} times as fast as the untuned model."
    )


def _notes(data: ReportData, result: ModelResult) -> Iterator[str]:
    yield (
        "All were timed in turn in one run on the device, each in a process of its own. A latency "
        f"is the median of its samples. Caches were {cache_policy(data.job)}."
    )
    target_ms = data.job.spec.target_latency_ms
    if target_ms is not None:
        reached = "reached" if result.packaged_ms <= target_ms else "not reached"
        yield f"The target latency of {target_ms:g} ms was {reached}."
    if result.left_to_engine:
        left = ", ".join(result.left_to_engine)
        yield f"In the tuned model, ONNX Runtime runs what can't be imported: {left}."


def _table(ways: list[_Way], result: ModelResult) -> Table:
    columns = (
        words("way to run it"),
        Column("ms"),
        Column("95 % interval"),
        Column("× the package's"),
        Column("largest difference"),
        words(""),
    )
    rows = tuple(
        (
            way.title,
            "–" if way.latency_ms is None else f"{way.latency_ms:.3f}",
            _interval(way),
            "–" if way.latency_ms is None else f"{way.latency_ms / result.packaged_ms:.2f}",
            "–" if way.max_rel_error is None else difference(way.max_rel_error),
            "packaged" if way.packaged else way.error,
        )
        for way in ways
    )
    marked = frozenset(index for index, way in enumerate(ways) if way.packaged)
    caption = "Latency; the difference is that to ONNX Runtime, relative to the output's range"
    return Table(caption, columns, rows, marked)


def _ms(way: _Way) -> str:
    return "not timed" if way.latency_ms is None else f"{way.latency_ms:.3f} ms"


def _interval(way: _Way) -> str:
    if way.low_ms is None or way.high_ms is None:
        return "–"
    return f"{way.low_ms:.3f} to {way.high_ms:.3f}"
