"""The section on the model's regions: what each takes alone in our own code and in the engines."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.results.report import engine_title
from protos.records import MIXED, RegionResult

from .bars import Bar, bars
from .section import Column, ReportData, Section, Table, words


def regions(data: ReportData) -> Section | None:
    """Each region in everything that was timed for it; None if the model was not looked at so."""
    result = data.job.result
    if result is None or not result.regions:
        return None
    used = "is packaged" if result.engine == MIXED else "is not packaged"
    lead = (
        f"The model was cut into {len(result.regions)} regions, and each was timed alone in "
        f"everything that runs it. The mixture that came of it {used}."
    )
    rows = [
        Bar(
            f"{index}. {engine_title(name)}",
            latency_ms,
            f"{latency_ms:.3f} ms{', in the mixture' if name == one.engine else ''}",
            chosen=name == one.engine,
        )
        for index, one in enumerate(result.regions, 1)
        for name, latency_ms in one.latency_ms.items()
    ]
    return Section(
        "regions",
        "Regions of the model in other engines",
        (lead,),
        (
            bars(
                "regions-picture",
                "Latency of each region by engine",
                "; ".join(f"{row.label} {row.words}" for row in rows),
                "ms alone, with the way in and out",
                rows,
            ),
        ),
        (_table(result.regions),),
    )


def _table(found: Sequence[RegionResult]) -> Table:
    names = list(dict.fromkeys(name for one in found for name in one.latency_ms))
    columns = (
        words("region"),
        words("first operator"),
        words("last operator"),
        *(Column(f"{engine_title(name)} ms") for name in names),
        words("in the mixture"),
    )
    rows = tuple(
        (
            str(index),
            one.first,
            one.last,
            *(_ms(one.latency_ms.get(name)) for name in names),
            engine_title(one.engine),
        )
        for index, one in enumerate(found, 1)
    )
    return Table("Regions, each alone", columns, rows)


def _ms(latency_ms: float | None) -> str:
    return "–" if latency_ms is None else f"{latency_ms:.3f}"
