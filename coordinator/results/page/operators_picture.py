"""The picture of the operators: each one's times, and its share of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from . import svg
from .bars import axis_below, whisker
from .scale import Scale, decades, from_zero

ROW = 22.0
TOP = 34.0
AXIS = 40.0
LABEL_WIDTH = 238.0
TIMES_END = 520.0
SHARES_START = 548.0
SHARES_END = 705.0


@dataclass(frozen=True)
class OperatorTimes:
    """One operator: microseconds of a run untuned and as packaged, and percent of the model.

    Times that are not known are None; a row without any is one of several operators together.
    """

    name: str
    untuned_us: float | None
    ours_us: float | None
    low_us: float | None
    high_us: float | None
    percent: float


def operators(key: str, title: str, description: str, rows: Sequence[OperatorTimes]) -> Markup:
    """Times as dots on a logarithmic axis, shares as bars from zero."""
    known = [us for row in rows for us in (row.untuned_us, row.ours_us, row.low_us, row.high_us)]
    times = decades([us for us in known if us], LABEL_WIDTH, TIMES_END)
    shares = from_zero([row.percent for row in rows], SHARES_START, SHARES_END)
    bottom = TOP + ROW * len(rows)
    drawn = [
        _legend(),
        axis_below(times, TOP, bottom, "µs per run (logarithmic)"),
        axis_below(shares, TOP, bottom, "% of the operators' time", count=3),
        *(_row(row, TOP + ROW * (index + 0.5), times, shares) for index, row in enumerate(rows)),
    ]
    return svg.picture(key, title, description, bottom + AXIS, *drawn)


def _legend() -> Markup:
    x, y = LABEL_WIDTH, 14.0
    return svg.group(
        _untuned(x + 5, y),
        svg.text(x + 15, y + 4, "untuned", "tick"),
        _ours(x + 85, y),
        svg.text(x + 95, y + 4, "ours, with its 95 % interval", "tick"),
    )


def _untuned(x: float, y: float) -> Markup:
    return svg.element("circle", cx=x, cy=y, r=4, class_="hollow")


def _ours(x: float, y: float) -> Markup:
    return svg.element("circle", cx=x, cy=y, r=4, class_="dot")


def _row(row: OperatorTimes, y: float, times: Scale, shares: Scale) -> Markup:
    label = svg.shortened(row.name, LABEL_WIDTH - 12)
    end = shares(row.percent)
    parts = [
        svg.tip(row.name),
        svg.text(LABEL_WIDTH - 12, y + 4, label, "label", "end"),
        svg.rectangle(SHARES_START, y - 6, end - SHARES_START, 12, "bar chosen"),
        svg.text(end + 6, y + 4, f"{row.percent:.1f}", "value"),
    ]
    if row.untuned_us and row.ours_us:
        parts.append(svg.line(times(row.ours_us), y, times(row.untuned_us), y, "way"))
    if row.untuned_us:
        parts.append(_untuned(times(row.untuned_us), y))
    if row.ours_us:
        parts.append(_ours(times(row.ours_us), y))
    if row.low_us and row.high_us:
        parts.append(whisker(times, y, row.low_us, row.high_us))
    return svg.group(*parts)
