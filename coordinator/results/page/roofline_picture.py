"""The picture of the roofline: what operators achieve, by their arithmetic intensity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from . import svg
from .scale import Scale, decades, tick_text

HEIGHT = 380.0
TOP = 26.0
BOTTOM = HEIGHT - 44.0
LEFT = 64.0
RIGHT = 600.0


@dataclass(frozen=True)
class Point:
    """One operator: operations per byte, 10^9 operations a second, and its share of the time.

    Those with a ``label`` have it beside them.
    """

    name: str
    intensity: float
    gflops: float
    share: float
    label: str = ""


@dataclass(frozen=True)
class Roof:
    """A bandwidth in 10^9 bytes a second, up to where the peak is the limit."""

    name: str
    gb_s: float
    kind: str


def roofline(
    key: str,
    title: str,
    description: str,
    peak_gflops: float,
    roofs: Sequence[Roof],
    points: Sequence[Point],
) -> Markup:
    """Both axes are logarithmic; a point's area is its share of the time."""
    knees = [peak_gflops / roof.gb_s for roof in roofs]
    # Room for the names of the slopes beside them, and for the points themselves.
    around = (min(knees) / 5, 2 * max(knees))
    x_scale = decades([*(p.intensity for p in points), *around], LEFT, RIGHT)
    y_scale = decades([*(p.gflops / 1.5 for p in points), peak_gflops], BOTTOM, TOP)
    drawn = [
        _axes(x_scale, y_scale),
        *(_roof(roof, peak_gflops, x_scale, y_scale) for roof in roofs),
        _peak(peak_gflops, min(knees), x_scale, y_scale),
        *(_point(point, x_scale, y_scale) for point in sorted(points, key=lambda p: -p.share)),
    ]
    return svg.picture(key, title, description, HEIGHT, *drawn)


def _axes(x_scale: Scale, y_scale: Scale) -> Markup:
    parts = [svg.text(0, 12, "10⁹ operations a second (logarithmic)", "unit")]
    for tick in y_scale.ticks(6):
        parts.append(svg.line(LEFT, y_scale(tick), RIGHT, y_scale(tick), "grid"))
        parts.append(svg.text(LEFT - 8, y_scale(tick) + 4, tick_text(tick), "tick", "end"))
    for tick in x_scale.ticks(7):
        parts.append(svg.line(x_scale(tick), TOP, x_scale(tick), BOTTOM, "grid"))
        parts.append(svg.text(x_scale(tick), BOTTOM + 16, tick_text(tick), "tick", "middle"))
    words = "operations per byte of parameters (logarithmic)"
    middle = (LEFT + RIGHT) / 2
    return svg.group(*parts, svg.text(middle, BOTTOM + 34, words, "unit", "middle"))


def _roof(roof: Roof, peak_gflops: float, x_scale: Scale, y_scale: Scale) -> Markup:
    """The slope from where it enters the picture to the peak, named along its way."""
    begin = max(x_scale.low, y_scale.low / roof.gb_s)
    knee = peak_gflops / roof.gb_s
    x1, y1, x2, y2 = x_scale(begin), y_scale(begin * roof.gb_s), x_scale(knee), y_scale(peak_gflops)
    slope = math.degrees(math.atan2(y2 - y1, x2 - x1))
    x, y = x1 + 0.42 * (x2 - x1), y1 + 0.42 * (y2 - y1) - 6
    name = svg.element(
        "text",
        f"{roof.name}, {roof.gb_s:,.0f} GB/s",
        x=x,
        y=y,
        class_="tick",
        text_anchor="middle",
        transform=f"rotate({slope:.1f} {x:.1f} {y:.1f})",
    )
    return svg.group(svg.line(x1, y1, x2, y2, f"roof {roof.kind}"), name)


def _peak(peak_gflops: float, first_knee: float, x_scale: Scale, y_scale: Scale) -> Markup:
    y = y_scale(peak_gflops)
    return svg.group(
        svg.line(x_scale(first_knee), y, RIGHT, y, "roof"),
        svg.text(RIGHT + 8, y + 4, f"peak, {peak_gflops:,.0f} GFLOP/s", "tick"),
    )


def _point(point: Point, x_scale: Scale, y_scale: Scale) -> Markup:
    x, y = x_scale(point.intensity), y_scale(point.gflops)
    radius = 2.5 + 14.0 * math.sqrt(point.share)
    words = (
        f"{point.name}: {point.gflops:,.1f} GFLOP/s at {point.intensity:.2g} operations per byte, "
        f"{100 * point.share:.1f} % of the time"
    )
    parts = [svg.tip(words), svg.element("circle", cx=x, cy=y, r=radius, class_="operator")]
    if point.label:
        parts.append(svg.text(x + radius + 3, y + 4, point.label, "value"))
    return svg.group(*parts)
