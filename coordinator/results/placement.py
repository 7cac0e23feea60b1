"""Which region of a model runs in which engine (pure).

By dynamic programming over the regions in their order, as Collage does over operators (Jeon et al.,
Collage: Seamless Integration of Deep Learning Backends with Automatic Placement, PACT 2022), with
times that were measured on the device. A region that runs alone pays for the way in and out: copies
and another layout of the data. Two neighbours in one engine don't pay in between; what that saves
is read off the whole model in that engine, which is faster than the sum of its regions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Placement:
    """An engine for each region, and what the model should take in milliseconds."""

    engines: tuple[str, ...]
    expected_ms: float


def savings_ms(
    alone_ms: Sequence[Mapping[str, float]], whole_ms: Mapping[str, float]
) -> dict[str, float]:
    """What each engine saves where two of its regions meet, on average."""
    found = {}
    for name, whole in whole_ms.items():
        if len(alone_ms) > 1 and all(name in region for region in alone_ms):
            beside = sum(region[name] for region in alone_ms) - whole
            found[name] = max(beside, 0.0) / (len(alone_ms) - 1)
    return found


def place(
    alone_ms: Sequence[Mapping[str, float]], whole_ms: Mapping[str, float]
) -> Placement | None:
    """The fastest placement; None if some region runs nowhere.

    ``alone_ms`` has for each region its time in each engine that can run it, ``whole_ms`` that of
    the whole model.
    """
    if not alone_ms or not all(alone_ms):
        return None
    saved = savings_ms(alone_ms, whole_ms)
    best: dict[str, tuple[float, tuple[str, ...]]]
    best = {name: (ms, (name,)) for name, ms in alone_ms[0].items()}
    for region in alone_ms[1:]:
        best = {
            name: min(
                (
                    before - (saved.get(name, 0.0) if path[-1] == name else 0.0) + ms,
                    (*path, name),
                )
                for before, path in best.values()
            )
            for name, ms in region.items()
        }
    expected_ms, path = min(best.values())
    return Placement(path, expected_ms)
