"""The sections on the tuning itself: how the operators became faster, and what that cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from coordinator.results.curve import CurvePoint, TuningCost, tuning_cost, tuning_curve

from .scale import number
from .section import Column, ReportData, Section, Table, words
from .steps import Steps, side_by_side

_UNITS = ((2 * 3600.0, 3600.0, "hours"), (120.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))


def curve(data: ReportData) -> Section | None:
    """Best so far over trials and over time; None before anything was measured."""
    title = "Tuning curve"
    points = tuning_curve(data.job.tasks, data.history)
    if not points or not points[-1].trials:
        return Section("curve", title, (_nothing(data),))
    return Section(
        "curve",
        title,
        (_lead(points),),
        (_picture(points),),
        (_table(points),),
        (_NOTE,),
    )


_NOTE = (
    "The sum of the operators' best times so far, by each program's least sample; what the finals "
    "say of the winners, in the table of operators, is the median of their turns. Seconds count "
    "from the job's first measurement."
)


def _nothing(data: ReportData) -> str:
    trials = data.job.trials
    if trials.from_log:
        return (
            f"This job tried nothing: all its {trials.total} trials were in the tuning log already."
        )
    return "No candidate was tried yet."


def _lead(points: Sequence[CurvePoint]) -> str:
    first, last = points[0], points[-1]
    near = next(p for p in points if p.latency_us <= 1.05 * last.latency_us)
    return (
        f"The operators together went from {number(first.latency_us / 1e3)} to "
        f"{number(last.latency_us / 1e3)} ms in {last.trials:,} trials and {last.seconds:,.0f} s; "
        f"within 5 % of that they were after {near.trials:,} trials and {near.seconds:,.0f} s."
    )


def _picture(points: Sequence[CurvePoint]) -> Markup:
    divisor, unit = _unit(points[-1].seconds)
    last = points[-1]
    description = (
        f"From {number(points[0].latency_us / 1e3)} ms before the first trial to "
        f"{number(last.latency_us / 1e3)} ms after {last.trials} trials and {last.seconds:.0f} s"
    )
    return side_by_side(
        "curve-picture",
        "The operators' time, best so far, over trials and over time",
        description,
        "ms",
        (
            Steps("over trials", "trials", [(p.trials, p.latency_us / 1e3) for p in points]),
            Steps("over time", unit, [(p.seconds / divisor, p.latency_us / 1e3) for p in points]),
        ),
    )


def _unit(seconds: float) -> tuple[float, str]:
    """What to divide by for the axis of time, and what that gives."""
    return next((divisor, unit) for least, divisor, unit in _UNITS if seconds >= least)


def _table(points: Sequence[CurvePoint]) -> Table:
    rows = tuple(
        (f"{point.trials:,}", f"{point.seconds:,.1f}", f"{point.latency_us / 1e3:,.3f}")
        for point in points
    )
    columns = (Column("trials"), Column("s"), Column("ms"))
    return Table("The points at which the sum fell", columns, rows, folded=True)


def cost(data: ReportData) -> Section:
    """What the job took: trials, device time, wall time."""
    spent = tuning_cost(data.history)
    rows = tuple(_cost_rows(data, spent))
    columns = (words("what"), Column("how much"))
    tables = [Table("In all", columns, rows)]
    if spent.trials:
        by_status = tuple((status.name, f"{count:,}") for status, count in spent.trials.items())
        caption = "This job's own trials by what became of them, late ones included"
        tables.append(Table(caption, (words("status"), Column("trials")), by_status))
    if data.job.stage_s:
        stages = tuple((name, f"{seconds:,.1f}") for name, seconds in data.job.stage_s.items())
        caption = "Seconds of wall time per stage; stages overlap"
        tables.append(Table(caption, (words("stage"), Column("s")), stages))
    return Section("cost", "What it cost to tune", _cost_words(data), tables=tuple(tables))


def _cost_words(data: ReportData) -> tuple[str, ...]:
    ended = data.job.tuning_ended
    return (f"Tuning ended because {ended}.",) if ended else ()


def _cost_rows(data: ReportData, spent: TuningCost) -> Iterator[tuple[str, str]]:
    trials = data.job.trials
    yield "trials", f"{trials.total:,}"
    yield "of these, known from the tuning log before", f"{trials.from_log:,}"
    yield "failed", f"{trials.failed:,}"
    yield "wall time of tuning", f"{data.job.elapsed_s / 60:,.1f} min"
    yield "device time of the measurements", f"{spent.device_s / 60:,.2f} min"
    yield "measurements, the untuned programs and finals included", f"{spent.measurements:,}"
    yield "devices", ", ".join(spent.devices) or "none"
