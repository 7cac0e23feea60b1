"""The section on the model's fused operators."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.results.report import TIED, OperatorRow, engine_title, operator_rows
from protos.records import MIXED, OWN

from .operators_picture import OperatorTimes, operators
from .section import Column, ReportData, Section, Table, words

SHOWN = 20
"""Operators that the picture has a row for; the others share one."""

_TIMES = (
    "A time is that of one run; a share counts all runs of an inference, among the operators as "
    "they are now. What other engines take is in the next section, by region."
)

_UNCERTAINTY = (
    f"± is how far the 95 % interval reaches; {TIED} marks an operator whose winner could not be "
    "told from others."
)


def operator_times(data: ReportData) -> Section | None:
    """Each operator before and after, and its share of the model; None before any was timed."""
    rows = sorted(operator_rows(data.job.tasks), key=lambda row: -(row.share_after or 0.0))
    if not any(row.tuned_us for row in rows):
        return None
    few, rest = rows[:SHOWN], rows[SHOWN:]
    drawn = [_times(row) for row in few]
    if rest:
        share = sum(row.share_after or 0.0 for row in rest)
        drawn.append(OperatorTimes(f"{len(rest)} others", None, None, None, None, 100 * share))
    return Section(
        "operators",
        "Operators",
        (_lead(rows),),
        (
            operators(
                "operators-picture",
                "Time and share of each fused operator",
                "; ".join(f"{one.name}: {one.percent:.1f} % of the time" for one in drawn),
                drawn,
            ),
        ),
        (_table(data, rows),),
        (_TIMES, _UNCERTAINTY),
    )


def _lead(rows: Sequence[OperatorRow]) -> str:
    faster = sum(row.speedup is not None and row.speedup > 1.0 for row in rows)
    half, shares = 0, 0.0
    for row in rows:
        if shares < 0.5:
            half, shares = half + 1, shares + (row.share_after or 0.0)
    largest = "one of them takes" if half == 1 else f"{half} of them take"
    return (
        f"Of {len(rows)} different operators, {faster} were made faster; {largest} half of the "
        "time that is left."
    )


def _times(row: OperatorRow) -> OperatorTimes:
    low, high = row.interval_us or (None, None)
    percent = 100 * (row.share_after or 0.0)
    return OperatorTimes(row.name, row.untuned_us, row.tuned_us, low, high, percent)


def _table(data: ReportData, rows: Sequence[OperatorRow]) -> Table:
    columns = (
        words("operator"),
        Column("runs"),
        Column("untuned µs"),
        Column("ours µs"),
        Column("±"),
        Column("speed-up"),
        Column("share before"),
        Column("share now"),
        Column("trials"),
        words("packaged"),
    )
    lines = tuple(
        (
            row.name,
            str(row.weight),
            _number(row.untuned_us),
            _number(row.tuned_us),
            f"{_number(row.half_width_us, '')}{TIED if row.tied else ''}",
            "–" if row.speedup is None else f"{row.speedup:.1f}×",
            _percent(row.share_before),
            _percent(row.share_after),
            str(row.trials),
            _packaged(data, row),
        )
        for row in rows
    )
    return Table("All fused operators", columns, lines, folded=len(rows) > SHOWN)


def _packaged(data: ReportData, row: OperatorRow) -> str:
    """Who runs the operator in the package."""
    result = data.job.result
    if result is None:
        return "not yet"
    if result.engine == MIXED:
        return "by region"
    if result.engine != OWN:
        return engine_title(result.engine)
    return "tuned" if row.speedup is not None and row.speedup > 1.0 else "untuned"


def _number(value: float | None, nothing: str = "–") -> str:
    return nothing if value is None else f"{value:,.1f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
