"""Axes: where a number lies, which numbers are written at the axis, and how (pure)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_STEPS = (1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True)
class Scale:
    """Numbers from ``low`` to ``high`` lie from ``start`` to ``end`` of the picture.

    On a logarithmic scale both are positive.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Where a number lies; one beyond the ends lies at the end."""
        low, high, value = (self._measure(one) for one in (self.low, self.high, value))
        share = (value - low) / (high - low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def _measure(self, value: float) -> float:
        return math.log10(max(value, 1e-300)) if self.logarithmic else value

    def ticks(self, count: int = 5) -> list[float]:
        """Round numbers within the scale, about that many, more on a logarithmic one of decades."""
        if self.logarithmic:
            return _log_ticks(self.low, self.high, count)
        step = _round_up((self.high - self.low) / count)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]


def from_zero(values: Iterable[float], start: float, end: float) -> Scale:
    """A linear scale from 0 to a little above the largest of the values."""
    largest = max(values, default=0.0)
    return Scale(0.0, largest * 1.04 if largest > 0 else 1.0, start, end)


def decades(values: Iterable[float], start: float, end: float) -> Scale:
    """A logarithmic scale that begins and ends with a 1, 2 or 5 beyond the positive values."""
    positive = [value for value in values if value > 0 and math.isfinite(value)]
    low, high = min(positive, default=1.0), max(positive, default=1.0)
    low, high = _round_down(low * 0.9), _round_up(high * 1.1)
    return Scale(low, high, start, end, logarithmic=True)


def number(value: float, digits: int = 3) -> str:
    """A number as people read it: three significant digits, commas, no exponent where it can be."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "–"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    if places > 6:
        return f"{value:.{digits - 1}e}"
    return f"{round(value, places):,.{max(places, 0)}f}"


def difference(value: float) -> str:
    """A numerical difference: its size and its power of ten."""
    return "0" if value == 0 else f"{value:.1e}"


def tick_text(value: float) -> str:
    """A round number at an axis."""
    return f"{value:,.10g}"


def _round_up(value: float) -> float:
    power = _power(value)
    return next(step * power for step in _STEPS if step * power >= value * (1 - 1e-9))


def _round_down(value: float) -> float:
    power = _power(value)
    return next(step * power for step in reversed(_STEPS) if step * power <= value * (1 + 1e-9))


def _power(value: float) -> float:
    return 10.0 ** math.floor(math.log10(value))


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    """Powers of ten; twos and fives, too, where there are few of these."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    within = [
        [step * 10.0**exponent for exponent in exponents for step in steps]
        for steps in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0))
    ]
    kept = [[t for t in ticks if low * 0.999 <= t <= high * 1.001] for ticks in within]
    return next((ticks for ticks in reversed(kept) if len(ticks) <= count + 1), kept[0])
