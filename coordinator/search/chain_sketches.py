"""Sketches of ours for a 1×1 convolution and the depthwise one behind it in one kernel.

A thread takes some rows and a block of channels at a time (``frontend/chains.py``): the first
convolution's results for them are written to memory that stays in the core's cache, with zeros in
the padding's places, and read by the second. Both accumulate a tile of pixels and one vector's
channels in registers, as in ``tile_sketches``.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from coordinator.frontend.cpu_features import vector_lanes
from coordinator.search.register_tiles import (
    MAX_UNROLLED,
    MAX_UNROLLED_REDUCTION,
    SPARE_REGISTERS,
    Factors,
    divisors,
)
from coordinator.search.sketches import (
    REDUCTION,
    SPATIAL,
    Sketch,
    drawn_factors,
    is_of,
    iteration_types,
    make_sketch,
    top_blocks,
)
from coordinator.search.tile_sketches import cpu, runs

log = logging.getLogger(__name__)

CACHE_BYTES = 512 << 10
"""Of what the first convolution leaves for the second; more would not stay in a core's cache."""

LEAST_VECTORS = 3
"""Of a register tile: fewer would wait for each multiplication's end."""

MOST_TILE = 8
"""Pixels along one side of a register tile."""

ATTEMPTS = 64
"""Draws until one fits."""


@dataclass(frozen=True)
class ChainLoops:
    """Extents of both reductions: ``rows``, ``columns`` and ``channels`` that are written, what the
    second one reads for them (``kernel`` and ``strides``), and the first one's ``inputs``."""

    rows: int
    columns: int
    channels: int
    inputs: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    run: int
    """Channels that are neighbours in the packed weights."""
    width: int = 0
    """Elements in the widest vector."""
    registers: int = 0
    threads: int = 1

    def read(self, rows: int) -> tuple[int, int]:
        """Rows and columns of the padded map that this many rows of the result are made of."""
        return (
            (rows - 1) * self.strides[0] + self.kernel[0],
            (self.columns - 1) * self.strides[1] + self.kernel[1],
        )


class ChainSpace:
    """Draws and changes factors: of the result's rows (outer, inner, registers), columns (inner,
    registers) and channels (outer, inner, lanes), of the first one's rows and columns (inner,
    registers), and of its reduction (serial, unrolled)."""

    def __init__(self, loops: ChainLoops) -> None:
        """Raises ValueError if no vector fits, or no tiles are found."""
        self._loops = loops
        self._lanes = [
            lanes
            for lanes in divisors(math.gcd(loops.channels, loops.run))
            if loops.width <= lanes <= 2 * loops.width
        ]
        if not self._lanes:
            raise ValueError(f"no vector fits into {loops.run} channels")
        found = self._try_to_draw(random.Random(0))
        if found is None:
            raise ValueError(f"no tiles fit into {loops}")
        self._known = found

    @property
    def lanes(self) -> int:
        """Elements in this CPU's vectors."""
        return self._loops.width

    def draw(self, rng: random.Random) -> Factors:
        """Factors at random."""
        return self._try_to_draw(rng) or self._known

    def _try_to_draw(self, rng: random.Random) -> Factors | None:
        for _ in range(ATTEMPTS):
            lanes = rng.choice(self._lanes)
            division = self._divide(lanes, rng)
            found = None if division is None else self._tiles(*division, lanes, rng)
            if found is not None:
                return found
        return None

    def change(self, factors: Factors, rng: random.Random) -> Factors:
        """Factors with other tiles, or with another division among threads and caches."""
        if rng.random() < 0.5:
            return self.draw(rng)
        (outer, *_), _, (blocks, _, lanes) = factors[:3]
        rows, block = self._loops.rows // outer, self._loops.channels // blocks
        found = self._tiles(rows, block, lanes, rng)
        return factors if found is None else found

    def _divide(self, lanes: int, rng: random.Random) -> tuple[int, int] | None:
        """Rows and channels that a thread takes at a time."""
        loops = self._loops
        rows = rng.choice(divisors(loops.rows))
        block = lanes * rng.choice(divisors(loops.channels // lanes))
        parts = (loops.rows // rows) * (loops.channels // block)
        fits = 4 * math.prod(loops.read(rows)) * block <= CACHE_BYTES
        return (rows, block) if fits and (parts >= loops.threads or loops.threads == 1) else None

    def _tiles(self, rows: int, block: int, lanes: int, rng: random.Random) -> Factors | None:
        loops = self._loops
        read_rows, read_columns = loops.read(rows)
        second = self._tile(rows, loops.columns, lanes, rng)
        first = self._tile(read_rows, read_columns, lanes, rng)
        if first is None or second is None:
            return None
        body = max(1, MAX_UNROLLED // (first[0] * first[1] * self._vectors(lanes)))
        most = min(MAX_UNROLLED_REDUCTION, body)
        unrolled = rng.choice([d for d in divisors(loops.inputs) if d <= most])
        return (
            (loops.rows // rows, rows // second[0], second[0]),
            (loops.columns // second[1], second[1]),
            (loops.channels // block, block // lanes, lanes),
            (read_rows // first[0], first[0]),
            (read_columns // first[1], first[1]),
            (loops.inputs // unrolled, unrolled),
        )

    def _tile(
        self, rows: int, columns: int, lanes: int, rng: random.Random
    ) -> tuple[int, int] | None:
        """Pixels that are accumulated in registers; as many as fit are drawn most often."""
        most = (self._loops.registers - SPARE_REGISTERS) // self._vectors(lanes)
        least = math.ceil(LEAST_VECTORS / self._vectors(lanes))
        found = [
            (high, wide)
            for high in divisors(rows)
            for wide in divisors(columns)
            if max(high, wide) <= MOST_TILE and least <= high * wide <= most
        ]
        if not found:
            return None
        (tile,) = rng.choices(found, [(high * wide) ** 2 for high, wide in found])
        return tile

    def _vectors(self, lanes: int) -> int:
        return lanes // self._loops.width


class ChainTiling:
    """The sketches of one workload, and traces out of them."""

    def __init__(self, sketches: Sequence[Sketch], loops: ChainLoops, rng: random.Random) -> None:
        """Raises ValueError if no tiles fit."""
        self._sketches = list(sketches)
        self._space = ChainSpace(loops)
        self._random = rng

    def draw(self, serial: bool) -> Any:
        """A trace at random."""
        return self._sketch(serial).trace(self._space.draw(self._random))

    def step(self, trace: Any, serial: bool) -> Any | None:
        """A trace that differs from this one in its tiles or in all; None if it is none of ours."""
        if not is_of(trace, self._sketches):
            return None
        changed = self._space.change(drawn_factors(trace), self._random)
        return self._sketch(serial).trace(changed)

    def refit(self, trace: Any, lanes: int | None, serial: bool) -> Any | None:
        """The same where its vectors are this CPU's, for all that is known, otherwise any other;
        None if it is none of ours."""
        if not is_of(trace, self._sketches):
            return None
        alien = lanes not in (None, self._space.lanes)
        return self.draw(serial) if alien else self._sketch(serial).trace(drawn_factors(trace))

    def _sketch(self, serial: bool) -> Sketch:
        return next(s for s in self._sketches if s.serial is serial)


def chain_tiling(inlined: Any, target: Any, rng: random.Random) -> ChainTiling | None:
    """Ours for this workload; None if it is no such chain."""
    loops = _find(inlined)
    if loops is None:
        return None
    _, registers, threads = cpu(target)
    known = replace(loops, width=vector_lanes(target), registers=registers, threads=threads)
    try:
        sketches = [
            make_sketch(inlined, partial(_tile, serial=serial), serial) for serial in (False, True)
        ]
        return ChainTiling(sketches, known, rng)
    except ValueError as error:
        log.debug("no tiles for the chain: %s", error)
        return None


def _find(inlined: Any) -> ChainLoops | None:
    """The loops of a chain, if the workload is one: a product, its padding, and the sum over a
    window of that, written by a block of its own."""
    blocks = top_blocks(inlined)
    kinds = [iteration_types(inlined, block) for block in blocks]
    wanted = ([*[SPATIAL] * 4, REDUCTION], [SPATIAL] * 4, [*[SPATIAL] * 4, *[REDUCTION] * 2])
    if kinds != [*wanted, [SPATIAL] * 4]:
        return None
    first, padded, second, written = (_extents(inlined, block) for block in blocks)
    if first[:4] != padded or second[:4] != written or padded[3] != written[3] or written[0] != 1:
        return None
    strides = [
        max(1, (padded[axis] - second[axis + 3]) // max(1, written[axis] - 1)) for axis in (1, 2)
    ]
    run = runs(inlined.get(blocks[0]), written[3])
    if run is None:
        return None
    return ChainLoops(
        rows=written[1],
        columns=written[2],
        channels=written[3],
        inputs=first[4],
        kernel=(second[4], second[5]),
        strides=(strides[0], strides[1]),
        run=run,
    )


def _extents(schedule: Any, block: Any) -> tuple[int, ...]:
    return tuple(int(schedule.get(loop).extent) for loop in schedule.get_loops(block))


def _tile(schedule: Any, serial: bool) -> None:
    """The schedule itself; the factors that it draws on the way are thrown away."""
    first, padded, second, written = top_blocks(schedule)
    schedule.set_scope(second, 0, "local")
    batch, row, column, channel = schedule.get_loops(written)
    rows, rows_inside, high = _split(schedule, row, 3)
    columns, wide = _split(schedule, column, 2)
    factors = schedule.sample_perfect_tile(channel, n=3, max_innermost_factor=64)
    blocks, vectors, lane = schedule.split(channel, factors)
    schedule.reorder(batch, rows, blocks, rows_inside, columns, vectors, high, wide, lane)
    schedule.compute_at(second, vectors, preserve_unit_loops=True)
    *outer, down, along = schedule.get_loops(second)
    schedule.reorder(down, along, *outer[-4:])
    _unroll(schedule, (down, along, *outer[-4:-1], high, wide), (outer[-1], lane))
    shared = schedule.fuse(batch, rows, blocks)
    schedule.compute_at(padded, shared, preserve_unit_loops=True)
    schedule.set_scope(first, 0, "local")
    row, column, channel = schedule.get_loops(padded)[-3:]
    rows_inside, high = _split(schedule, row, 2)
    columns, wide = _split(schedule, column, 2)
    vectors, lane = schedule.split(channel, factors[1:])
    schedule.reorder(rows_inside, columns, vectors, high, wide, lane)
    schedule.compute_at(first, vectors, preserve_unit_loops=True)
    *outer, step = schedule.get_loops(first)
    steps, unrolled = _split(schedule, step, 2)
    schedule.reorder(steps, unrolled, *outer[-4:])
    _unroll(schedule, (unrolled, *outer[-4:-1], high, wide), (outer[-1], lane))
    if not serial:
        schedule.parallel(shared)
    schedule.decompose_reduction(second, down)
    schedule.decompose_reduction(first, steps)


def _split(schedule: Any, loop: Any, parts: int) -> list[Any]:
    factors = schedule.sample_perfect_tile(loop, n=parts, max_innermost_factor=64)
    return list(schedule.split(loop, factors))


def _unroll(schedule: Any, loops: Sequence[Any], vectors: Sequence[Any]) -> None:
    for loop in vectors:
        schedule.vectorize(loop)
    for loop in loops:
        schedule.unroll(loop)
