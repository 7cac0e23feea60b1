"""Which device of a kind is not like the others, by what the canary takes on each."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

from protos.records import Device

LIKE_SHARE = 0.15
"""How far a canary may be from those of other devices of its kind, as a share of theirs: as far as
it may be from its own reference within a job."""


def differs(ratio: float) -> bool:
    """Whether two devices of such a ratio are unlike each other."""
    return not 1 - LIKE_SHARE <= ratio <= 1 / (1 - LIKE_SHARE)


@dataclass(frozen=True)
class Level:
    """What the canary takes on a device, in seconds, and what it took there at first, as far back
    as is known."""

    now_s: float
    first_s: float


def odd_ones(levels: Mapping[str, Level]) -> dict[str, float]:
    """Those of one kind that are not like the others, with what they take of the others' time
    (pure).

    Of three and more, they are those that are far from the median of all, if more than half are
    near it. Of two nobody can say which one is wrong, unless one of them took as long as the other
    at first, and does not any more.
    """
    if len(levels) == 2:
        return _odd_of_two(levels)
    if len(levels) < 2:
        return {}
    middle = statistics.median(level.now_s for level in levels.values())
    ratios = {name: level.now_s / middle for name, level in levels.items()}
    far = {name: ratio for name, ratio in ratios.items() if differs(ratio)}
    return far if 2 * len(far) < len(levels) else {}


def _odd_of_two(levels: Mapping[str, Level]) -> dict[str, float]:
    (left, a), (right, b) = levels.items()
    if not differs(a.now_s / b.now_s):
        return {}
    changed = {
        name: one.now_s / other.now_s
        for name, one, other in ((left, a, b), (right, b, a))
        if differs(one.now_s / one.first_s) and not differs(one.first_s / other.now_s)
    }
    return changed if len(changed) == 1 else {}


@dataclass
class _Group:
    """Devices of one kind on which the same canary ran; ``odd`` is None until it is looked at."""

    levels: dict[str, Level] = field(default_factory=dict)
    odd: dict[str, float] | None = None


class Siblings:
    """What canaries take on every device that this coordinator has seen, whether it is here or
    not."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str], _Group] = {}
        self._group_of: dict[str, tuple[str, str]] = {}

    def note(self, device: Device, canary: str, seconds: float) -> float | None:
        """Note what this canary (its SHA-256) takes on a device; returns what that is of the
        others' time if it is this device that is not like them, otherwise None."""
        key = device.kind, canary
        if self._group_of.get(device.name, key) != key:
            self.forget(device.name)
        group = self._groups.setdefault(key, _Group())
        self._group_of[device.name] = key
        before = group.levels.get(device.name)
        if before is None or before.now_s != seconds:
            first_s = before.first_s if before is not None else seconds
            group.levels[device.name] = Level(seconds, first_s)
            group.odd = None
        if group.odd is None:
            group.odd = odd_ones(group.levels)
        return group.odd.get(device.name)

    def forget(self, name: str) -> None:
        """Know nothing of a device any more."""
        group = self._groups.get(self._group_of.pop(name, ("", "")))
        if group is not None:
            del group.levels[name]
            group.odd = None

    def shown(self) -> dict[str, tuple[float, float | None]]:
        """By device: what its canary takes, and what is usual for its kind, seconds: the median of
        all, or of two what it takes on the other; None of one."""
        found: dict[str, tuple[float, float | None]] = {}
        for group in self._groups.values():
            now_s = {name: level.now_s for name, level in group.levels.items()}
            usual_s: dict[str, float] = {}
            if len(now_s) == 2:
                usual_s = dict(zip(now_s, reversed(now_s.values()), strict=True))
            elif len(now_s) > 2:
                usual_s = dict.fromkeys(now_s, statistics.median(now_s.values()))
            found |= {name: (own_s, usual_s.get(name)) for name, own_s in now_s.items()}
        return found
