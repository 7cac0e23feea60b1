"""The report of a job for several kinds of device: how they compare, then each part's own."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from coordinator.parts import kind_title, title
from coordinator.results.report import engine_title, report_json, report_text
from protos.plain_text import harmless
from protos.records import MIXED, Job

HEADINGS = ("kind", "job", "state", "untuned ms", "tuned ms", "packaged ms", "runs in", "trials")


def whole_text(job: Job, packages: Mapping[str, str], log_url: str) -> str:
    """``report_text`` of a job, or of each of its parts; ``packages`` are paths by job."""
    if not job.parts:
        return report_text(job, packages.get(job.job_id), log_url)
    sections = [_comparison(job)]
    for part in job.parts:
        state = part.state.name.lower() + (f": {part.error}" if part.error else "")
        report = report_text(part, packages.get(part.job_id), log_url)
        sections.append(f"{title(part)}, {state}\n{report}")
    return harmless("\n".join(sections))


def whole_json(job: Job, packages: Mapping[str, str], log_url: str) -> dict[str, Any]:
    """``report_json`` of a job; one with parts has theirs in a list."""
    if not job.parts:
        return report_json(job, packages.get(job.job_id), log_url)
    parts = [
        {
            "kind": part.spec.devices[0] if part.spec.devices else None,
            "state": part.state.name.lower(),
            "error": part.error or None,
            **report_json(part, packages.get(part.job_id), log_url),
        }
        for part in job.parts
    ]
    state = job.state.name.lower()
    return {"job": job.job_id, "model": job.spec.model_name, "state": state, "parts": parts}


def comparison(job: Job) -> list[tuple[str, ...]]:
    """A row for each part, under HEADINGS."""
    rows: list[tuple[str, ...]] = []
    for part in job.parts:
        result = part.result
        times: tuple[str, ...] = ("", "", "", "")
        if result is not None:
            runs = "a mixture" if result.engine == MIXED else engine_title(result.engine)
            milliseconds = (result.untuned_ms, result.tuned_ms, result.packaged_ms)
            times = (*(f"{ms:.3f}" for ms in milliseconds), runs)
        trials = str(part.trials.total)
        rows.append((kind_title(part), part.job_id, part.state.name.lower(), *times, trials))
    return rows


def _comparison(job: Job) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{job.spec.model_name} on each kind of device", box=box.SIMPLE_HEAD)
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold", no_wrap=heading == "job")
    for row in comparison(job):
        table.add_row(*(Text(cell) for cell in row))
    output = io.StringIO()
    Console(file=output, width=120).print(table)
    return output.getvalue()
