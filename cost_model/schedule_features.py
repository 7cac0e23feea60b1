"""Features of a schedule out of its trace: how loops are tiled, and which primitives were used.

MetaSchedule's features (``features.py``) describe what the loop nest does; the trace says how it
was made: a register tile of 6×16 is one number here and a product of many there. Numbers of
iterations are logarithms to base 2, since it is their ratios that matter.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_PARTS = 4
"""Loops that one loop is split into, from the outermost; MetaSchedule's CPU space has four."""

SPATIAL_LOOPS, REDUCTION_LOOPS = 4, 4
"""Loops whose tiles are told apart: the last spatial ones (the last one is the vectors'), and the
first reductions."""

LOCATIONS = 2
"""Blocks with a choice of where they are computed that are told apart: the first ones."""

INLINE, ROOT, NO_CHOICE = -2.0, -1.0, -3.0
"""What a location is that is no loop, as MetaSchedule's traces have it; and where there is none."""

ABSENT = -1.0
"""In place of the logarithm of a loop that is not there."""

COUNTED = (
    "Annotate",
    "CacheRead",
    "CacheWrite",
    "ComputeAt",
    "ComputeInline",
    "DecomposeReduction",
    "Fuse",
    "Parallel",
    "RFactor",
    "Reorder",
    "ReverseComputeAt",
    "SampleCategorical",
    "SetScope",
    "Split",
    "Unroll",
    "Vectorize",
)
"""Primitives whose number tells one sketch from another."""

SCHEDULE_WIDTH = (
    6  # products over all loops
    + 3  # how many loops are tiled, and how
    + SPATIAL_LOOPS * MAX_PARTS
    + REDUCTION_LOOPS * 2
    + 1  # most unrolled steps
    + LOCATIONS
    + 2  # where blocks are computed
    + len(COUNTED)
    + 1
)

_UNTILED_REDUCTION = 2
"""A reduction is split into two loops, anything else into three or more."""


def schedule_features(trace_json: str) -> npt.NDArray[np.float32]:
    """The features, of shape (``SCHEDULE_WIDTH``,), of a candidate's trace.

    Zeros and ``ABSENT`` for the untuned program, whose trace is empty. Raises ValueError if the
    text is no trace.
    """
    instructions, decisions = _read(trace_json)
    names = [str(instruction[0]) for instruction in instructions]
    tiles = _tiles(instructions, decisions)
    spatial = [tile for tile in tiles if len(tile) > _UNTILED_REDUCTION]
    reductions = [tile for tile in tiles if len(tile) <= _UNTILED_REDUCTION]
    features = [
        *_products(spatial, reductions),
        float(len(spatial)),
        float(sum(len(tile) >= MAX_PARTS for tile in spatial)),
        float(len(reductions)),
    ]
    for position in range(SPATIAL_LOOPS):
        tile = spatial[-1 - position] if position < len(spatial) else ()
        features += _logarithms(tile, MAX_PARTS)
    for position in range(REDUCTION_LOOPS):
        tile = reductions[position] if position < len(reductions) else ()
        features += _logarithms(tile, _UNTILED_REDUCTION)
    features += [_unroll_steps(instructions, decisions), *_locations(instructions, decisions)]
    features += [float(names.count(name)) for name in COUNTED]
    features.append(float(len(names)))
    return np.array(features, dtype=np.float32)


def _read(trace_json: str) -> tuple[Sequence[Any], Mapping[int, Any]]:
    if not trace_json:
        return [], {}
    try:
        instructions, decisions = json.loads(trace_json)
        return instructions, {int(index): decision for index, decision in decisions}
    except (TypeError, ValueError) as error:
        raise ValueError(f"not a trace: {error}") from error


def _tiles(instructions: Sequence[Any], decisions: Mapping[int, Any]) -> list[tuple[float, ...]]:
    """Factors of each tiled loop, outermost first."""
    return [
        tuple(float(factor) for factor in decisions.get(index, ()))
        for index, instruction in enumerate(instructions)
        if instruction[0] == "SamplePerfectTile"
    ]


def _products(
    spatial: Sequence[Sequence[float]], reductions: Sequence[Sequence[float]]
) -> list[float]:
    """The innermost tile, what is around it, and the outermost loops, which threads share; the
    reduction's unrolled and serial part, and the whole body."""
    inner = math.prod(math.prod(tile[2:]) for tile in spatial)
    around = math.prod(tile[1] for tile in spatial)
    outer = math.prod(tile[0] for tile in spatial)
    unrolled = math.prod(tile[-1] for tile in reductions if tile)
    serial = math.prod(tile[0] for tile in reductions if tile)
    return [_log(value) for value in (inner, around, outer, unrolled, serial, inner * unrolled)]


def _logarithms(tile: Sequence[float], parts: int) -> list[float]:
    found = [_log(factor) for factor in tile[:parts]]
    return found + [ABSENT] * (parts - len(found))


def _log(value: float) -> float:
    return math.log2(value) if value >= 1 else ABSENT


def _unroll_steps(instructions: Sequence[Any], decisions: Mapping[int, Any]) -> float:
    """How many steps MetaSchedule's postprocessing may unroll; ``ABSENT`` if nothing says so."""
    for index, instruction in enumerate(instructions):
        if instruction[0] == "SampleCategorical":
            choices = instruction[2][0]
            return _log(float(choices[int(decisions.get(index, 0))]))
    return ABSENT


def _locations(instructions: Sequence[Any], decisions: Mapping[int, Any]) -> list[float]:
    """At which of their consumers' loops the first blocks with a choice are computed; how many are
    computed where they are used, and how many as a whole."""
    found = [
        float(decisions.get(index, ROOT))
        for index, instruction in enumerate(instructions)
        if instruction[0] == "SampleComputeLocation"
    ]
    first = [*found[:LOCATIONS], *[NO_CHOICE] * (LOCATIONS - len(found))]
    return [*first, float(found.count(INLINE)), float(found.count(ROOT))]
