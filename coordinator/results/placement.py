"""Which region of a model runs in which engine (pure).

By dynamic programming over the regions in their order, as Collage does over operators (Jeon et al.,
Collage: Seamless Integration of Deep Learning Backends with Automatic Placement, PACT 2022), with
times that were measured on the device. A region that runs alone pays for the way in and out, for
copies and another layout of the data; neighbours in one engine don't pay in between.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """A region in an engine, milliseconds: alone, and inside of more that runs in that engine."""

    alone_ms: float
    inner_ms: float

    @property
    def side_ms(self) -> float:
        """The way in, or the way out."""
        return max(self.alone_ms - self.inner_ms, 0.0) / 2


@dataclass(frozen=True)
class Placement:
    """An engine for each region, and what the model should take in milliseconds."""

    engines: tuple[str, ...]
    expected_ms: float


def shares(alone_ms: Sequence[float], whole_ms: float) -> list[Cost]:
    """The costs of regions in an engine of which nothing is known but their times alone and the
    whole model's: what is lost on the way is taken to be the same share of each."""
    part = min(1.0, whole_ms / sum(alone_ms))
    return [Cost(alone, alone * part) for alone in alone_ms]


def place(regions: Sequence[Mapping[str, Cost]]) -> Placement | None:
    """The fastest placement; None if some region runs nowhere.

    ``regions`` has for each region its costs in each engine that can run it.
    """
    if not regions or not all(regions):
        return None
    best: dict[str, tuple[float, tuple[str, ...]]] = {
        name: (cost.side_ms + cost.inner_ms, (name,)) for name, cost in regions[0].items()
    }
    for before, region in itertools.pairwise(regions):
        best = {
            name: min(
                (spent + _way_ms(before[path[-1]], cost, path[-1] == name) + cost.inner_ms, path)
                for spent, path in best.values()
            )
            for name, cost in region.items()
        }
        best = {name: (spent, (*path, name)) for name, (spent, path) in best.items()}
    ends = [(spent + regions[-1][name].side_ms, path) for name, (spent, path) in best.items()]
    expected_ms, path = min(ends)
    return Placement(path, expected_ms)


def _way_ms(before: Cost, after: Cost, same: bool) -> float:
    return 0.0 if same else before.side_ms + after.side_ms
