"""Sketches of ours: an output tile that is accumulated in registers, beside MetaSchedule's space.

MetaSchedule's tiling for CPUs accumulates in memory and leaves it to LLVM to find registers for it,
which takes very long code or does not happen. Here the innermost tile of a matrix product or
convolution has a ``local`` buffer of its own; its loops are unrolled, its last one is vectorised,
and the operators behind it are applied when it is written back
(docs/decisions/0011-register-tiles.md).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from coordinator.frontend.cpu_features import vector_lanes
from coordinator.search.register_tiles import MIN_LANES, Loops, TileSpace
from coordinator.search.sketches import (
    REDUCTION,
    SPATIAL,
    Sketch,
    drawn_factors,
    instruction_names,
    iteration_types,
    make_sketch,
    top_blocks,
)

log = logging.getLogger(__name__)

PAD_PLACES = ("root", "outer")
"""Where the inputs' padding is written: as a whole before, or with each outer tile."""


class RegisterTiling:
    """The sketches of one workload, and traces out of them."""

    def __init__(self, sketches: Sequence[Sketch], loops: Loops, rng: random.Random) -> None:
        """Raises ValueError if no tile fits."""
        self._sketches = list(sketches)
        self._space = TileSpace(loops)
        self._random = rng

    def draw(self, serial: bool) -> Any:
        """A trace at random."""
        sketch = self._random.choice([s for s in self._sketches if s.serial is serial])
        return sketch.trace(self._space.draw(self._random, serial))

    def step(self, trace: Any, serial: bool) -> Any | None:
        """A trace that differs from this one in one respect; None if it is none of ours."""
        own = self._sketch_of(trace)
        if own is None:
            return None
        factors = drawn_factors(trace)
        wanted = [s for s in self._sketches if s.serial is serial and s is not own]
        others = [s for s in wanted if s.pad_place != own.pad_place]
        if own.serial is serial and (not others or self._random.random() < 0.75):
            return own.trace(self._space.change(factors, self._random, serial))
        if own.serial is serial:
            return self._random.choice(others).trace(factors)
        same = next(s for s in wanted if s.pad_place == own.pad_place)
        return same.trace(self._space.change(factors, self._random, serial))

    def refit(self, trace: Any, lanes: int | None, serial: bool) -> Any | None:
        """The trace for this CPU that is like this one, of a CPU whose vectors have ``lanes``
        elements, if anybody knows; None if it is none of ours."""
        own = self._sketch_of(trace)
        if own is None:
            return None
        same = (s for s in self._sketches if s.serial is serial and s.pad_place == own.pad_place)
        fitted = self._space.refit(drawn_factors(trace), lanes, self._random, serial)
        return next(same).trace(fitted)

    def _sketch_of(self, trace: Any) -> Sketch | None:
        kinds = instruction_names(trace.insts)
        return next((s for s in self._sketches if instruction_names(s.instructions) == kinds), None)


def register_tiling(inlined: Any, target: Any, rng: random.Random) -> RegisterTiling | None:
    """Ours for this workload; None if it is no reduction for a CPU with what is around it."""
    found = _find(inlined)
    if found is None:
        return None
    width, registers, threads = cpu(target)
    loops = replace(found, width=width, registers=registers, threads=threads)
    places = PAD_PLACES if _has_padding(inlined) else PAD_PLACES[:1]
    try:
        tile = _tile_padded_rows if _has_padded_rows(inlined, found.spatial) else _tile
        sketches = [
            make_sketch(inlined, partial(tile, serial=serial, pad_place=place), serial, place)
            for serial in (False, True)
            for place in places
        ]
        return RegisterTiling(sketches, loops, rng)
    except ValueError as error:
        log.debug("no register tiles: %s", error)
        return None


def cpu(target: Any) -> tuple[int, int, int]:
    """What ``Loops`` says of a CPU: elements in the widest vector, registers, threads."""
    lanes = vector_lanes(target)
    threads = int(target.attrs["num-cores"])
    # AVX-512 and NEON have 32 registers, AVX and SSE 16.
    registers = 16 if lanes == 8 or (lanes == 4 and "x86" in str(target)) else 32
    return lanes, registers, threads


def _find(inlined: Any) -> Loops | None:
    """The loops of the only reduction, if it is one for tiles; nothing is said of the CPU."""
    schedule = inlined.copy()
    blocks = top_blocks(schedule)
    reductions = [b for b in blocks if REDUCTION in iteration_types(schedule, b)]
    if len(reductions) != 1:
        return None
    (block,) = reductions
    producers, consumers = schedule.get_producers(block), schedule.get_consumers(block)
    if len(blocks) != 1 + len(producers) + len(consumers) or len(consumers) > 1:
        return None
    types = iteration_types(schedule, block)
    loops = [schedule.get(loop) for loop in schedule.get_loops(block)]
    if len(loops) != len(types) or set(types) != {SPATIAL, REDUCTION}:
        return None
    extents = [int(loop.extent) for loop in loops]
    spatial = tuple(e for e, t in zip(extents, types, strict=True) if t == SPATIAL)
    reduction = tuple(e for e, t in zip(extents, types, strict=True) if t == REDUCTION)
    if spatial[-1] < MIN_LANES or types != sorted(types):
        return None
    run = runs(schedule.get(block), spatial[-1])
    if run is None:
        return None
    for consumer in consumers:
        own = _extents(schedule, consumer)
        if len(own) != len(spatial) or REDUCTION in iteration_types(schedule, consumer):
            return None
        if own != spatial and (producers or own[-1] != spatial[-1]):
            return None
        if any(written > computed for written, computed in zip(own, spatial, strict=True)):
            return None
    return Loops(spatial, reduction, 0, 0, 0, _strided(schedule.get(block)), run)


def _extents(schedule: Any, block: Any) -> tuple[int, ...]:
    return tuple(int(schedule.get(loop).extent) for loop in schedule.get_loops(block))


def _has_padded_rows(inlined: Any, computed: tuple[int, ...]) -> bool:
    """Whether fewer rows are written than ``computed`` (``frontend/padded_rows.py``)."""
    schedule = inlined.copy()
    consumers = schedule.get_consumers(_reduction_block(schedule))
    return any(_extents(schedule, consumer) != computed for consumer in consumers)


def _reduction_block(schedule: Any) -> Any:
    """The only one."""
    (block,) = (b for b in top_blocks(schedule) if REDUCTION in iteration_types(schedule, b))
    return block


def _last_spatial(block: Any) -> Any:
    return [v.var for v in block.iter_vars if int(v.iter_type) == SPATIAL][-1]


def _strided(block: Any) -> bool:
    """Whether neighbours of the last spatial loop are further apart in what is read."""
    from tvm.sym import detect_linear_equation
    from tvm.tirx import IntImm

    last = _last_spatial(block)
    for read in block.reads:
        if len(read.region):
            index = list(read.region)[-1].min
            if _divisor(index, last, "FloorMod") is not None:
                continue
            linear = detect_linear_equation(index, [last])
            if not linear or not isinstance(linear[0], IntImm) or int(linear[0]) > 1:
                return True
    return False


def runs(block: Any, extent: int) -> int | None:
    """How many neighbours of the last spatial loop are neighbours in all that is read: all of its
    ``extent``, or as many as packed weights have in one piece; None if they are not even that."""
    from tvm.tirx import Evaluate
    from tvm.tirx.analysis import undefined_vars

    last = _last_spatial(block)
    found = extent
    for read in block.reads:
        for dimension in list(read.region)[:-1]:
            if any(last.same_as(variable) for variable in undefined_vars(Evaluate(dimension.min))):
                packed = _divisor(dimension.min, last, "FloorDiv")
                if packed is None or found % packed:
                    return None
                found = packed
    return found


def _divisor(index: Any, variable: Any, operation: str) -> int | None:
    """The number in an index ``variable // number`` or ``variable % number``."""
    from tvm import tirx

    if not isinstance(index, getattr(tirx, operation)) or not variable.same_as(index.a):
        return None
    return int(index.b) if isinstance(index.b, tirx.IntImm) else None


def _has_padding(inlined: Any) -> bool:
    schedule = inlined.copy()
    return any(
        schedule.get_producers(block)
        for block in top_blocks(schedule)
        if REDUCTION in iteration_types(schedule, block)
    )


def _tile(schedule: Any, serial: bool, pad_place: str) -> None:
    """The schedule itself; the factors that it draws on the way are thrown away."""
    block = _reduction_block(schedule)
    types = iteration_types(schedule, block)
    producers = list(schedule.get_producers(block))
    consumers = list(schedule.get_consumers(block))
    if consumers:
        schedule.set_scope(block, 0, "local")
        written = consumers[0]
    else:
        written = schedule.cache_write(block, 0, "local")
    outer, inner, registers, vector = _split_spatial(schedule, written)
    schedule.compute_at(block, inner[-1], preserve_unit_loops=True)
    schedule.vectorize(registers[-1])
    for loop in registers[:-1]:
        schedule.unroll(loop)
    first = _split_reduction(schedule, block, types, vector)
    shared = schedule.fuse(*outer)
    for producer in producers:
        if pad_place == "outer":
            schedule.compute_at(producer, shared, preserve_unit_loops=True)
        elif not serial:
            rows = schedule.get_loops(producer)
            schedule.parallel(schedule.fuse(*rows[:-2]) if len(rows) > 2 else rows[0])
    if not serial:
        schedule.parallel(shared)
    schedule.decompose_reduction(block, first)


def _tile_padded_rows(schedule: Any, serial: bool, pad_place: str) -> None:
    """The same where fewer rows are written than computed: the tile decides what is around it, and
    what is written follows, with a condition on its rows. There is no padding of inputs to place,
    see ``_find``."""
    block = _reduction_block(schedule)
    types = iteration_types(schedule, block)
    (written,) = schedule.get_consumers(block)
    schedule.set_scope(block, 0, "local")
    count = types.count(SPATIAL)
    loops = schedule.get_loops(block)
    outer, inner, registers, vector = _split_loops(schedule, loops[:count])
    reduction, unrolled = _split_reductions(schedule, loops[count:])
    schedule.reorder(*outer, *inner, *reduction, *unrolled, *registers)
    schedule.vectorize(registers[-1])
    for loop in (*unrolled, *registers[:-1]):
        schedule.unroll(loop)
    schedule.reverse_compute_at(written, inner[-1], preserve_unit_loops=True)
    rows = schedule.get_loops(written)[-count:]
    row, lanes = schedule.split(rows[-1], vector)
    schedule.vectorize(lanes)
    for loop in (*rows[:-1], row):
        schedule.unroll(loop)
    shared = schedule.fuse(*outer)
    if not serial:
        schedule.parallel(shared)
    schedule.decompose_reduction(block, reduction[0])


def _split_spatial(
    schedule: Any, written: Any
) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    """Loops outside, inside, in registers (the vector last); the factors of the last two."""
    outer, inner, registers, vector = _split_loops(schedule, schedule.get_loops(written))
    schedule.reorder(*outer, *inner, *registers)
    return outer, inner, registers, vector


def _split_loops(
    schedule: Any, loops: Sequence[Any]
) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    outer, inner, registers, vector = [], [], [], []
    for loop in loops:
        parts = 4 if loop is loops[-1] else 3
        factors = schedule.sample_perfect_tile(loop, n=parts, max_innermost_factor=64)
        made = schedule.split(loop, factors)
        outer.append(made[0])
        inner.append(made[1])
        registers += made[2:]
        vector = factors[2:]
    return outer, inner, registers, vector


def _split_reduction(schedule: Any, block: Any, types: Sequence[int], vector: Sequence[Any]) -> Any:
    """Reduction outside, registers inside, all of those unrolled; returns the outermost loop."""
    own = schedule.get_loops(block)[-len(types) :]
    spatial = [loop for loop, kind in zip(own, types, strict=True) if kind == SPATIAL]
    reductions = [loop for loop, kind in zip(own, types, strict=True) if kind == REDUCTION]
    serial, unrolled = _split_reductions(schedule, reductions)
    row, lanes = schedule.split(spatial[-1], vector)
    schedule.reorder(*serial, *unrolled, *spatial[:-1], row, lanes)
    schedule.vectorize(lanes)
    for loop in (*unrolled, *spatial[:-1], row):
        schedule.unroll(loop)
    return serial[0]


def _split_reductions(schedule: Any, loops: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Those that are run and those that are to be unrolled."""
    serial, unrolled = [], []
    for loop in loops:
        factors = schedule.sample_perfect_tile(loop, n=2, max_innermost_factor=64)
        first, second = schedule.split(loop, factors)
        serial.append(first)
        unrolled.append(second)
    return serial, unrolled
