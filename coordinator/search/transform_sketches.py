"""Sketches of ours for blocks that write several elements at once: Winograd's transforms.

Such a block is straight-line code for one tile and one channel (``frontend/winograd.py``).
MetaSchedule would vectorise it only if its last loop is short, and writes the result to memory
before the operators behind it read it. Here a vector of channels goes through the whole block, and
what is behind it is applied to each tile while it is in registers or the nearest cache.
"""

from __future__ import annotations

import logging
import random
from functools import partial
from typing import Any

from coordinator.frontend.cpu_features import vector_lanes
from coordinator.search.register_tiles import MIN_LANES, Factors, divisors
from coordinator.search.row_sketches import has_loops
from coordinator.search.sketches import (
    SPATIAL,
    DrawnTiling,
    iteration_types,
    make_sketch,
    top_blocks,
)

log = logging.getLogger(__name__)

MOST_VECTORS = 8
"""Vectors of channels that go through all tiles' code one after the other before the next tile."""


def transform_tiling(inlined: Any, target: Any, rng: random.Random) -> DrawnTiling | None:
    """Ours for this workload; None if it is no such block, with operators behind it, for a CPU."""
    channels = _channels(inlined)
    if channels is None:
        return None
    try:
        sketches = [
            make_sketch(inlined, partial(_tile, serial=serial), serial) for serial in (False, True)
        ]
        return DrawnTiling(sketches, _choices(channels, vector_lanes(target)), rng)
    except ValueError as error:
        log.debug("no tiles of channels: %s", error)
        return None


def _choices(channels: int, width: int) -> list[Factors]:
    """Channels as (outer, vectors, lanes); ``width`` is how many elements the widest vector has."""
    return [
        ((channels // (vectors * lanes), vectors, lanes),)
        for lanes in divisors(channels)
        if MIN_LANES <= lanes <= 2 * width
        for vectors in divisors(channels // lanes)
        if vectors <= MOST_VECTORS
    ]


def _channels(inlined: Any) -> int | None:
    """The extent of the last loop of a block of this kind, if there is one, with at most one other
    block, which reads what it writes."""
    from tvm.tirx import SeqStmt

    block, *others = top_blocks(inlined)
    if not isinstance(inlined.get(block).body, SeqStmt) or has_loops(inlined, block):
        return None
    if set(iteration_types(inlined, block)) != {SPATIAL}:
        return None
    if len(others) > 1 or len(inlined.get_consumers(block)) != len(others):
        return None
    return int(inlined.get(inlined.get_loops(block)[-1]).extent)


def _tile(schedule: Any, serial: bool) -> None:
    block, *consumers = top_blocks(schedule)
    *rows, last = schedule.get_loops(block)
    factors = schedule.sample_perfect_tile(last, n=3, max_innermost_factor=64)
    outer, vectors, lanes = schedule.split(last, factors)
    schedule.vectorize(lanes)
    for consumer in consumers:
        schedule.set_scope(block, 0, "local")
        schedule.reverse_compute_at(consumer, vectors, preserve_unit_loops=True)
        own = schedule.get_loops(consumer)[len(rows) + 2 :]
        schedule.vectorize(own[-1])
        for loop in own[:-1]:
            schedule.unroll(loop)
    shared = schedule.fuse(*rows, outer)
    if not serial:
        schedule.parallel(shared)
