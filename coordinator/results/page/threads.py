"""The section on latency by engine and number of threads."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.results.report import way_title
from protos.records import ModelResult, ThreadResult

from .bars import Bar, bars
from .section import Column, ReportData, Section, Table, words


def threads(data: ReportData) -> Section | None:
    """Every way to run the model by its threads; None if only one number was timed."""
    result = data.job.result
    if result is None or len({one.num_threads for one in result.threads}) < 2:
        return None
    order = list(dict.fromkeys(one.name for one in result.threads))
    found = sorted(result.threads, key=lambda one: (order.index(one.name), one.num_threads))
    most = max(one.num_threads for one in found)
    rows = [_bar(one, result, most) for one in found]
    return Section(
        "threads",
        "Latency by engine and threads",
        (_lead(found, result, most),),
        (
            bars(
                "threads-picture",
                "Latency of the whole model by engine and number of threads",
                "; ".join(f"{row.label}: {row.words}" for row in rows),
                "ms per inference; the lines are 95 % intervals of the median",
                rows,
            ),
        ),
        (_table(found, order),),
        ("Each number of threads was timed in a run of its own, all engines in turn within it.",),
    )


def _lead(found: Sequence[ThreadResult], result: ModelResult, most: int) -> str:
    mine = {one.num_threads: one.latency_ms for one in found if one.name == result.engine}
    if most not in mine or 1 not in mine:
        return "How much each way to run the model gains by more threads."
    gain = mine[1] / mine[most]
    return f"With {most} threads, what is packaged is {gain:.2f} times as fast as with one."


def _bar(one: ThreadResult, result: ModelResult, most: int) -> Bar:
    chosen = one.name == result.engine and one.num_threads == most
    said = f"{one.latency_ms:.3f} ms{', packaged' if chosen else ''}"
    label = f"{way_title(one.name)}, {_count(one.num_threads)}"
    return Bar(label, one.latency_ms, said, one.low_ms, one.high_ms, chosen)


def _count(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def _table(found: Sequence[ThreadResult], order: Sequence[str]) -> Table:
    counts = sorted({one.num_threads for one in found})
    known = {(one.name, one.num_threads): one for one in found}
    columns = [words("way to run it")]
    for count in counts:
        columns += [Column(f"ms, {_count(count)}"), Column("95 % interval")]
    rows = tuple(
        (way_title(name), *(cell for count in counts for cell in _cells(known.get((name, count)))))
        for name in order
    )
    return Table("Latency by number of threads", tuple(columns), rows)


def _cells(one: ThreadResult | None) -> tuple[str, str]:
    if one is None:
        return "–", "–"
    if one.low_ms is None or one.high_ms is None:
        return f"{one.latency_ms:.3f}", "–"
    return f"{one.latency_ms:.3f}", f"{one.low_ms:.3f} to {one.high_ms:.3f}"
