"""A picture of a number that falls in steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from . import svg
from .scale import Scale, decades, from_zero, tick_text

HEIGHT = 240.0
TOP = 26.0
BOTTOM = HEIGHT - 44.0
LEFT = 64.0
GAP = 44.0

LOGARITHMIC_FROM = 20.0
"""With a larger ratio of first to last, the end of a linear curve could not be told from zero."""


@dataclass(frozen=True)
class Steps:
    """One curve: from each (x, y) on the number is y."""

    title: str
    unit: str
    points: Sequence[tuple[float, float]]


def side_by_side(
    key: str, title: str, description: str, unit: str, curves: Sequence[Steps]
) -> Markup:
    """Curves of one number over different x, with the y axis in common."""
    values = [y for curve in curves for _, y in curve.points]
    y_scale = _y_scale(values)
    width = (svg.WIDTH - LEFT - 12 - GAP * (len(curves) - 1)) / len(curves)
    drawn = [_y_axis(y_scale, unit)]
    for index, curve in enumerate(curves):
        left = LEFT + index * (width + GAP)
        drawn.append(_curve(curve, left, left + width, y_scale))
    return svg.picture(key, title, description, HEIGHT, *drawn)


def _y_scale(values: Sequence[float]) -> Scale:
    least = min(values)
    if least > 0 and max(values) / least > LOGARITHMIC_FROM:
        return decades(values, BOTTOM, TOP)
    return from_zero(values, BOTTOM, TOP)


def _y_axis(scale: Scale, unit: str) -> Markup:
    texts = [
        svg.text(LEFT - 8, scale(tick) + 4, tick_text(tick), "tick", "end")
        for tick in scale.ticks()
    ]
    logarithmic = " (logarithmic)" if scale.logarithmic else ""
    return svg.group(*texts, svg.text(0, 12, f"{unit}{logarithmic}", "unit"))


def _curve(curve: Steps, left: float, right: float, y_scale: Scale) -> Markup:
    x_scale = Scale(0.0, max(curve.points[-1][0], 1e-9), left, right)
    rows = [svg.line(left, y_scale(t), right, y_scale(t), "grid") for t in y_scale.ticks()]
    ticks = [
        svg.text(x_scale(tick), BOTTOM + 16, tick_text(tick), "tick", "middle")
        for tick in x_scale.ticks(4)
    ]
    unit = svg.text((left + right) / 2, BOTTOM + 34, curve.unit, "unit", "middle")
    path = svg.element("path", d=_path(curve.points, x_scale, y_scale), class_="curve")
    end = svg.element("circle", cx=right, cy=y_scale(curve.points[-1][1]), r=4, class_="dot")
    return svg.group(svg.tip(curve.title), *rows, *ticks, unit, path, end)


def _path(points: Sequence[tuple[float, float]], x_scale: Scale, y_scale: Scale) -> str:
    """Level to each point's x, then straight to its y."""
    (x, y), *others = [(x_scale(x), y_scale(y)) for x, y in points]
    return "".join([f"M{x:.1f} {y:.1f}", *(f"H{x:.1f}V{y:.1f}" for x, y in others)])
