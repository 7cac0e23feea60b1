"""Sketches of ours for blocks that do all there is to do to a row: softmax, layer normalisation.

Such a block has its vectors and its loop along the row inside (``frontend/rows.py``). What is left
to be chosen is how many rows a thread takes at a time.
"""

from __future__ import annotations

import logging
import math
import random
from functools import partial
from typing import Any

from coordinator.search.register_tiles import divisors
from coordinator.search.sketches import (
    SPATIAL,
    DrawnTiling,
    iteration_types,
    make_sketch,
    top_blocks,
)

log = logging.getLogger(__name__)


def row_tiling(inlined: Any, target: Any, rng: random.Random) -> DrawnTiling | None:
    """Ours for this workload; None if it is no such block."""
    rows = _rows(inlined)
    if rows is None:
        return None
    try:
        sketches = [
            make_sketch(inlined, partial(_divide, serial=serial), serial)
            for serial in (False, True)
        ]
        return DrawnTiling(sketches, [((rows // n, n),) for n in divisors(rows)], rng)
    except ValueError as error:
        log.debug("rows can't be divided: %s", error)
        return None


def _rows(inlined: Any) -> int | None:
    """How many rows there are, if the workload is one block with loops of its own."""
    block, *others = top_blocks(inlined)
    if others or set(iteration_types(inlined, block)) != {SPATIAL} or not has_loops(inlined, block):
        return None
    return math.prod(int(inlined.get(loop).extent) for loop in inlined.get_loops(block))


def has_loops(schedule: Any, block: Any) -> bool:
    """Whether a block has loops inside."""
    from tvm.tirx import For, SeqStmt

    body = schedule.get(block).body
    return isinstance(body, SeqStmt) and any(isinstance(one, For) for one in body.seq)


def _divide(schedule: Any, serial: bool) -> None:
    (block,) = top_blocks(schedule)
    fused = schedule.fuse(*schedule.get_loops(block))
    factors = schedule.sample_perfect_tile(fused, n=2, max_innermost_factor=64)
    outer, _ = schedule.split(fused, factors)
    if not serial:
        schedule.parallel(outer)
