"""The section on what an inference costs in price and energy."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.results.efficiency import NOT_METERED, Efficiency, efficiencies
from coordinator.results.report import way_title
from protos.labels import labels_text
from protos.records import ModelResult

from .scale import number
from .section import Column, ReportData, Section, Table, words


def efficiency(data: ReportData) -> Section | None:
    """Every way to run the model by price and energy; None without a label for either."""
    result = data.job.result
    found = efficiencies(result) if result is not None else []
    if result is None or not found:
        return None
    return Section(
        "efficiency",
        "Price and energy",
        tuple(f"What is packaged: {one}." for one in found if one.packaged),
        tables=(_table(found),),
        notes=(_note(result),),
    )


def _note(result: ModelResult) -> str:
    return (
        "By the latencies above, inferences one after the other, and the labels of the device "
        f"({labels_text(result.labels)}). An energy is that {NOT_METERED}."
    )


def _table(found: Sequence[Efficiency]) -> Table:
    columns = [words("way to run it"), Column("ms")]
    if found[0].inferences_per_price is not None:
        columns.append(Column("inferences per unit of price"))
    if found[0].energy_mj is not None:
        columns.append(Column("mJ per inference"))
    rows = tuple(
        (
            way_title(one.name),
            f"{one.latency_ms:.3f}",
            *(number(n) for n in (one.inferences_per_price, one.energy_mj) if n is not None),
            "packaged" if one.packaged else "",
        )
        for one in found
    )
    marked = frozenset(index for index, one in enumerate(found) if one.packaged)
    caption = "What an inference costs, by the labels of the device"
    return Table(caption, (*columns, words("")), rows, marked)
