"""A picture of bars that lie, each with its interval and its number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from . import svg
from .scale import Scale, from_zero, tick_text

LABEL_WIDTH = 210.0
NUMBER_WIDTH = 150.0
ROW = 30.0
BAR = 14.0
TOP = 8.0
AXIS = 40.0


@dataclass(frozen=True)
class Bar:
    """One bar: ``low`` and ``high`` are the ends of its interval, ``words`` stand beside it."""

    label: str
    value: float
    words: str
    low: float | None = None
    high: float | None = None
    chosen: bool = False


def bars(key: str, title: str, description: str, unit: str, rows: Sequence[Bar]) -> Markup:
    """All bars from zero on one axis; the chosen one in the accent colour."""
    bottom = TOP + ROW * len(rows)
    ends = [max(row.value, row.high or 0.0) for row in rows]
    scale = from_zero(ends, LABEL_WIDTH, svg.WIDTH - NUMBER_WIDTH)
    drawn = [_bar(row, scale, TOP + ROW * index) for index, row in enumerate(rows)]
    axis = axis_below(scale, TOP, bottom, unit)
    return svg.picture(key, title, description, bottom + AXIS, axis, *drawn)


def axis_below(scale: Scale, top: float, bottom: float, unit: str, count: int = 5) -> Markup:
    """Lines of a grid, their numbers below it, and what they count."""
    ticks = scale.ticks(count)
    lines = [svg.line(scale(tick), top, scale(tick), bottom, "grid") for tick in ticks]
    texts = [svg.text(scale(t), bottom + 15, tick_text(t), "tick", "middle") for t in ticks]
    middle = (scale.start + scale.end) / 2
    return svg.group(*lines, *texts, svg.text(middle, bottom + 32, unit, "unit", "middle"))


def whisker(scale: Scale, middle: float, low: float, high: float) -> Markup:
    """An interval: a line with ends."""
    left, right = scale(low), scale(high)
    return svg.group(
        svg.line(left, middle, right, middle, "whisker"),
        *(svg.line(x, middle - 4, x, middle + 4, "whisker") for x in (left, right)),
    )


def _bar(row: Bar, scale: Scale, top: float) -> Markup:
    middle = top + ROW / 2
    kind = "bar chosen" if row.chosen else "bar"
    end = scale(row.value)
    parts = [
        svg.tip(f"{row.label}: {row.words}"),
        svg.text(
            LABEL_WIDTH - 10,
            middle + 4,
            svg.shortened(row.label, LABEL_WIDTH - 10),
            "label chosen" if row.chosen else "label",
            "end",
        ),
        svg.rectangle(LABEL_WIDTH, middle - BAR / 2, end - LABEL_WIDTH, BAR, kind),
    ]
    if row.low is not None and row.high is not None:
        parts.append(whisker(scale, middle, row.low, row.high))
        end = max(end, scale(row.high))
    parts.append(svg.text(end + 8, middle + 4, row.words, "value"))
    return svg.group(*parts)
