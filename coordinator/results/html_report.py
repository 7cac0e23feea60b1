"""A job as one HTML page that needs nothing else: no network, no scripts, no other file.

Whatever comes from the job (names, errors, devices) is escaped: by the template, and in the
pictures by ``page/svg.py``.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from coordinator.parts import asked_for, kind_title, title
from coordinator.results.page.efficiency import efficiency
from coordinator.results.page.latency import latency
from coordinator.results.page.needs import difference, memory
from coordinator.results.page.operators import operator_times
from coordinator.results.page.regions import regions
from coordinator.results.page.roofline import roof
from coordinator.results.page.scale import difference as shown
from coordinator.results.page.scale import number
from coordinator.results.page.section import Column, ReportData, Section, Table
from coordinator.results.page.threads import threads
from coordinator.results.page.tuning import cost, curve
from coordinator.results.report import cache_policy, engine_title
from coordinator.results.whole_report import HEADINGS, comparison
from protos.labels import labels_text
from protos.records import MIXED, Job, JobState, ModelResult

SECTIONS: tuple[Callable[[ReportData], Section | None], ...] = (
    latency,
    threads,
    efficiency,
    operator_times,
    regions,
    roof,
    curve,
    memory,
    difference,
    cost,
)
"""The page from top to bottom. A section that has nothing to say is None and left out."""

_TEMPLATES = "coordinator.results", "page/templates"


@dataclass(frozen=True)
class Figure:
    """A number that the page begins with."""

    value: str
    unit: str
    meaning: str


def html_report(data: ReportData, made_at: float) -> str:
    """The page; ``made_at`` is in seconds since 1970."""
    sections = [_comparison(data.job)] if data.parts else _sections(data)
    for part in data.parts:
        sections += [_of_part(part.job, section) for section in _sections(part)]
    page: str = (
        _environment()
        .get_template("report.html")
        .render(
            job=data.job,
            facts=_facts(data.job),
            state=_state(data.job),
            figures=_figures(data.job),
            sections=sections,
            source=data.source,
            made_at=_moment(made_at),
            version=importlib.metadata.version("tunefarm"),
        )
    )
    return page


def _sections(data: ReportData) -> list[Section]:
    return [made for section in SECTIONS if (made := section(data)) is not None]


def _comparison(job: Job) -> Section:
    columns = tuple(Column(name, numbers=name.endswith(("ms", "trials"))) for name in HEADINGS)
    caption = "The model on each kind of device"
    errors = tuple(f"{title(part)}: {part.error}" for part in job.parts if part.error)
    table = Table(caption, columns, tuple(comparison(job)))
    return Section("kinds", "Kinds of device", tables=(table,), notes=errors)


_IDS = re.compile(r'\b(id|aria-labelledby)="([^"]*)"')
"""Attributes whose values are names within the page. Text has no quotes that are not escaped."""


def _of_part(part: Job, section: Section) -> Section:
    """A section among those of other parts: its names are not theirs."""
    number = part.job_id.rpartition(".")[2]

    def renamed(match: re.Match[str]) -> str:
        names = " ".join(f"part-{number}-{name}" for name in match[2].split())
        return f'{match[1]}="{names}"'

    return replace(
        section,
        key=f"part-{number}-{section.key}",
        title=f"{kind_title(part)}: {section.title}",
        # It is markup already, and names are all that is changed.
        pictures=tuple(Markup(_IDS.sub(renamed, picture)) for picture in section.pictures),
    )


def _environment() -> Any:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader(*_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _facts(job: Job) -> list[tuple[str, str]]:
    """What the job was, for the top of the page."""
    spec = job.spec
    facts = [
        ("job", job.job_id),
        ("submitted", _moment(job.submitted_at)),
        *((("target", spec.target_json),) if spec.target_json else ()),
        *((("for", asked_for(spec)),) if asked_for(spec) else ()),
        ("caches", cache_policy(job)),
    ]
    shapes = ", ".join(f"{name} {list(shape.dims)}" for name, shape in spec.shapes.items())
    if shapes:
        facts.append(("shapes", shapes))
    facts.append(("model", f"SHA-256 {spec.model_sha256}"))
    if job.result is not None:
        size = f"{job.result.package_size_bytes / 1e6:,.1f} MB"
        facts.append(("package", f"{job.result.package_filename} ({size})"))
        if job.result.labels:
            facts.append(("labels of the device", labels_text(job.result.labels)))
    return facts


def _state(job: Job) -> str:
    """What to say first of a job that is not done; empty for one that is."""
    if job.state is JobState.DONE:
        return ""
    said = f"This job is {job.state.name.lower()}"
    detail = job.error or job.stage
    return f"{said}: {detail}" if detail else f"{said}."


def _figures(job: Job) -> list[Figure]:
    result = job.result
    if result is None:
        return []
    faster = number(result.untuned_ms / result.packaged_ms)
    return [
        Figure(number(result.packaged_ms), "ms", "per inference, as packaged"),
        Figure(faster, "×", "as fast as untuned"),
        Figure(_runs(result), "", "runs the package"),
        Figure(shown(result.max_rel_error), "", "largest difference to ONNX Runtime"),
        Figure(f"{job.trials.total:,}", "", "trials"),
    ]


def _runs(result: ModelResult) -> str:
    return "a mixture" if result.engine == MIXED else engine_title(result.engine)


def _moment(seconds: float) -> str:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.strftime("%Y-%m-%d %H:%M UTC")
