"""Which algorithm each convolution gets (pure): by what its kernels take together on the device.

The kernels of every algorithm are tasks. Those of the best one so far are in the model; those of
the others are worth tuning as long as they may still get ahead.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coordinator.frontend.variants import Variant

LEFT_SHARES = (0.0, 0.3, 0.5, 0.7, 0.85)
"""What may be left of a task's latency in the end, after this many batches of it; the last one is
for all that follow."""

BEHIND_STAKE = 0.5
"""What a saving is worth in an algorithm that is behind: it may be for nothing."""

CLEARLY = 1.3
"""How many times as fast as direct kernels, each timed alone with warm caches, another algorithm
must be to be so in the model in any case: its intermediate results take room in the caches."""

DIRECT = 0
"""In place of the m of F(m×m, 3×3)."""


@dataclass(frozen=True)
class Known:
    """Of a task: its best latency, microseconds, and how many batches it had."""

    best_us: float
    batches: int

    @property
    def hoped_us(self) -> float:
        """What it may come to."""
        return self.best_us * LEFT_SHARES[min(self.batches, len(LEFT_SHARES) - 1)]


@dataclass(frozen=True)
class Composition:
    """How often the model runs each task, ``weights``, with these ``algorithms``, by
    convolution; and what a microsecond of each task is worth to the search, ``stakes``. ``sure``
    are the algorithms that are clearly faster than direct ones."""

    weights: Mapping[str, int]
    stakes: Mapping[str, float]
    algorithms: Mapping[str, int]
    sure: Mapping[str, int]

    @property
    def compared(self) -> tuple[Mapping[str, int], ...]:
        """The algorithms that the whole model is compared with: the fastest kernel by kernel, those
        that are clearly faster, and none; each once."""
        found: list[Mapping[str, int]] = []
        for algorithms in (self.algorithms, self.sure, {}):
            if algorithms not in found:
                found.append(algorithms)
        return tuple(found)


def compose(
    direct: Mapping[str, int], variants: Sequence[Variant], known: Mapping[str, Known]
) -> Composition:
    """``direct`` is how often each task runs with direct convolutions only.

    An algorithm with a task of which nothing is known is not chosen, and is worth nothing.
    """
    weights = Counter(direct)
    stakes: defaultdict[str, float] = defaultdict(float, direct)
    algorithms, sure = {}, {}
    for convolution in dict.fromkeys(one.convolution for one in variants):
        ways = _ways([one for one in variants if one.convolution == convolution])
        able = {way: calls for way, calls in ways.items() if calls.keys() <= known.keys()}
        for key, count in ways[DIRECT].items():
            weights[key] -= count
            stakes[key] -= count
        best = min(able, key=lambda way: _sum(able[way], known, "best_us"), default=DIRECT)
        weights.update(ways[best])
        if best != DIRECT:
            algorithms[convolution] = best
        best_us = _sum(able[best], known, "best_us") if able else 0.0
        direct_us = _sum(able[DIRECT], known, "best_us") if DIRECT in able else math.inf
        if best != DIRECT and direct_us >= CLEARLY * best_us:
            sure[convolution] = best
        for way, calls in able.items():
            behind = way != best
            if not behind or _sum(calls, known, "hoped_us") < best_us:
                for key, count in calls.items():
                    stakes[key] += count * (BEHIND_STAKE if behind else 1.0)
    return Composition(weights, stakes, algorithms, sure)


def _ways(variants: Sequence[Variant]) -> dict[int, dict[str, int]]:
    """The kernels that one convolution is made of, by the algorithm."""
    ways = {one.tile: {k: n for k, n in one.change.items() if n > 0} for one in variants}
    direct: Counter[str] = Counter()
    for one in variants:
        direct |= Counter({key: -count for key, count in one.change.items() if count < 0})
    return {DIRECT: dict(direct), **ways}


def _sum(calls: Mapping[str, int], known: Mapping[str, Known], what: str) -> float:
    return sum(count * float(getattr(known[key], what)) for key, count in calls.items())
