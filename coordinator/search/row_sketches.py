"""Sketches of ours for blocks that do all there is to do to a row: softmax, layer normalisation.

Such a block has its vectors and its loop along the row inside (``frontend/rows.py``). What is left
to be chosen is how many rows a thread takes at a time.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Sequence
from functools import partial
from typing import Any

from coordinator.search.register_tiles import divisors
from coordinator.search.sketches import (
    SPATIAL,
    Sketch,
    inlined_schedule,
    instruction_names,
    iteration_types,
    make_sketch,
    top_blocks,
)

log = logging.getLogger(__name__)


class RowTiling:
    """The sketches of one workload, and traces out of them."""

    def __init__(self, sketches: Sequence[Sketch], rows: int, rng: random.Random) -> None:
        self._sketches = list(sketches)
        self._choices = [(rows // some, some) for some in divisors(rows)]
        self._random = rng

    def draw(self, serial: bool) -> Any:
        """A trace at random."""
        sketch = next(s for s in self._sketches if s.serial is serial)
        return sketch.trace((self._random.choice(self._choices),))

    def step(self, trace: Any, serial: bool) -> Any | None:
        """Another trace of ours; None if this one is not."""
        names = instruction_names(trace.insts)
        ours = any(instruction_names(s.instructions) == names for s in self._sketches)
        return self.draw(serial) if ours else None


def row_tiling(module: Any, target: Any, rng: random.Random) -> RowTiling | None:
    """Ours for this workload; None if it is no such block, or one for something else than CPUs."""
    if target.kind.name != "llvm":
        return None
    inlined = inlined_schedule(module, target)
    rows = _rows(inlined)
    if rows is None:
        return None
    try:
        sketches = [
            make_sketch(inlined, partial(_divide, serial=serial), serial)
            for serial in (False, True)
        ]
        return RowTiling(sketches, rows, rng)
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
