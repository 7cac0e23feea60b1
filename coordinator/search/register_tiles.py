"""Sketches of ours: an output tile that is accumulated in registers, beside MetaSchedule's space.

MetaSchedule's tiling for CPUs accumulates in memory and leaves it to LLVM to find registers for it,
which takes very long code or does not happen. Here the innermost tile of a matrix product or
convolution has a ``local`` buffer of its own; its loops are unrolled, its last one is vectorised,
and the operators behind it are applied when it is written back. What makes such programs fast is
known (Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 2008,
section 4): so many vectors as fit into the registers. So a tile is drawn among those that fit,
instead of anywhere (docs/decisions/0011-register-tiles.md).
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

log = logging.getLogger(__name__)

MIN_LANES = 4
"""A shorter innermost loop is not worth a vector."""

SPARE_REGISTERS = 2
"""Left for what is multiplied with the accumulators."""

MAX_UNROLLED = 128
"""Vector operations in the unrolled body; longer ones are slow to compile and fill the cache."""

MAX_UNROLLED_REDUCTION = 25
"""Steps of the reduction that are unrolled: a 5×5 kernel whole."""

STRIDED_LANES = 4
"""Single elements that cost as much code as a vector."""

DRAWS = 16
"""How often the division among threads is drawn before one that is uneven is taken."""

PAD_PLACES = ("root", "outer")
"""Where the inputs' padding is written: as a whole before, or with each outer tile."""

Factors = tuple[tuple[int, ...], ...]
"""Of each spatial loop (outer, inner, registers), the last one's with lanes; then of each reduction
loop (serial, unrolled)."""


@dataclass(frozen=True)
class Loops:
    """Extents of a reduction's loops, and what the CPU has for them."""

    spatial: tuple[int, ...]
    reduction: tuple[int, ...]
    width: int
    """Elements in the widest vector."""
    registers: int
    threads: int
    strided: bool = False
    """Neighbours along the last spatial loop are not neighbours in memory: vectors are put together
    from single elements, which is long code."""

    def vectors(self, lanes: int) -> int:
        """What a vector of this many lanes counts for in registers and in code."""
        return math.ceil(lanes / (min(self.width, STRIDED_LANES) if self.strided else self.width))

    @property
    def accumulators(self) -> int:
        """The most vectors that a tile may have."""
        return self.registers - SPARE_REGISTERS


def divisors(number: int) -> list[int]:
    """In ascending order."""
    low = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return low + [number // d for d in reversed(low) if d * d != number]


@dataclass(frozen=True)
class Tile:
    """One factor for each spatial loop, and how many lanes of the last one are a vector."""

    registers: tuple[int, ...]
    lanes: int
    vectors: int
    weight: float


def _distance(first: Tile, second: Tile) -> int:
    """In how many respects two tiles differ."""
    pairs = zip(first.registers, second.registers, strict=True)
    return sum(a != b for a, b in pairs) + (first.lanes != second.lanes)


def tiles(loops: Loops) -> list[Tile]:
    """Those that fit into the registers, with a weight each: full vectors, many of them."""
    found = []
    for lanes in divisors(loops.spatial[-1]):
        uneven = lanes > loops.width and lanes % loops.width  # LLVM makes a mess of these
        if uneven or not MIN_LANES <= lanes <= 2 * loops.width:
            continue
        native = loops.vectors(lanes)
        # Half a vector is as fast as a whole one where the units are half as wide.
        vector = max(loops.width // 2, 1 << (min(lanes, loops.width) - 1).bit_length())
        filled = lanes / (math.ceil(lanes / loops.width) * vector)
        most = loops.accumulators // native
        choices: list[tuple[tuple[int, ...], int]] = [((), 1)]
        for extent in (*loops.spatial[:-1], loops.spatial[-1] // lanes):
            choices = [
                ((*factors, factor), product * factor)
                for factors, product in choices
                for factor in divisors(extent)
                if product * factor <= most
            ]
        found += [
            Tile(factors, lanes, product * native, filled**2 * product * native)
            for factors, product in choices
        ]
    return found


class TileSpace:
    """Draws and changes factors. Decisions only; raises ValueError if no tile fits."""

    def __init__(self, loops: Loops) -> None:
        self._loops = loops
        self._tiles = tiles(loops)
        if not self._tiles:
            raise ValueError(f"no vector fits into a last loop of {loops.spatial[-1]}")
        self._weights = [tile.weight for tile in self._tiles]

    def draw(self, rng: random.Random, serial: bool) -> Factors:
        """Factors at random."""
        (tile,) = rng.choices(self._tiles, self._weights)
        return (*self._divide(tile, rng, serial), *self._reduce(tile, rng))

    def change(self, factors: Factors, rng: random.Random, serial: bool) -> Factors:
        """Factors that differ in the tile, the division among threads, or the reduction."""
        count = len(self._loops.spatial)
        tile = self._tile_of(factors)
        what = rng.choice(("tile", "threads", "reduction"))
        if what == "reduction":
            return (*factors[:count], *self._reduce(tile, rng))
        if what == "tile":
            tile = self._neighbour(tile, rng)
        fits = self._unrolled(factors) <= self._most(tile)
        return (
            *self._divide(tile, rng, serial),
            *(factors[count:] if fits else self._reduce(tile, rng)),
        )

    def _neighbour(self, tile: Tile, rng: random.Random) -> Tile:
        """One that differs in one factor or in the lanes; any other one if there is none."""
        near = [other for other in self._tiles if _distance(tile, other) == 1]
        (found,) = rng.choices(near or self._tiles, [t.weight for t in near] or self._weights)
        return found

    def _tile_of(self, factors: Factors) -> Tile:
        spatial = factors[: len(self._loops.spatial)]
        registers, lanes = tuple(f[2] for f in spatial), spatial[-1][3]
        vectors = math.prod(registers) * self._loops.vectors(lanes)
        return Tile(registers, lanes, vectors, 1.0)

    def _divide(self, tile: Tile, rng: random.Random, serial: bool) -> Factors:
        """What is around the tile: outer loops, which threads share, and inner ones."""
        threads = self._loops.threads
        extents = [e // r for e, r in zip(self._loops.spatial, tile.registers, strict=True)]
        extents[-1] //= tile.lanes
        outer: list[int] = []
        for _ in range(DRAWS):
            outer = [rng.choice(divisors(extent)) for extent in extents]
            if serial or math.prod(outer) % threads == 0:
                break
        spatial = [
            (first, extent // first, register)
            for first, extent, register in zip(outer, extents, tile.registers, strict=True)
        ]
        return (*spatial[:-1], (*spatial[-1], tile.lanes))

    def _reduce(self, tile: Tile, rng: random.Random) -> Factors:
        left, chosen = self._most(tile), []
        for extent in reversed(self._loops.reduction):
            unrolled = rng.choice([d for d in divisors(extent) if d <= left])
            left //= unrolled
            chosen.append((extent // unrolled, unrolled))
        return tuple(reversed(chosen))

    def _unrolled(self, factors: Factors) -> int:
        return math.prod(f[1] for f in factors[len(self._loops.spatial) :])

    def _most(self, tile: Tile) -> int:
        return max(1, min(MAX_UNROLLED_REDUCTION, MAX_UNROLLED // tile.vectors))


@dataclass(frozen=True)
class Sketch:
    """Instructions whose sampled factors are still to be chosen."""

    instructions: tuple[Any, ...]
    samples: tuple[Any, ...]
    serial: bool
    pad_place: str

    def trace(self, factors: Factors) -> Any:
        """The trace with these factors."""
        from tvm.s_tir.schedule import Trace

        decisions = {i: list(f) for i, f in zip(self.samples, factors, strict=True)}
        return Trace(list(self.instructions), decisions)


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
        samples = [i for i in trace.insts if i.kind.name == "SamplePerfectTile"]
        factors = tuple(tuple(int(f) for f in trace.decisions[i]) for i in samples)
        wanted = [s for s in self._sketches if s.serial is serial and s is not own]
        others = [s for s in wanted if s.pad_place != own.pad_place]
        if own.serial is serial and (not others or self._random.random() < 0.75):
            return own.trace(self._space.change(factors, self._random, serial))
        if own.serial is serial:
            return self._random.choice(others).trace(factors)
        same = next(s for s in wanted if s.pad_place == own.pad_place)
        return same.trace(self._space.change(factors, self._random, serial))

    def _sketch_of(self, trace: Any) -> Sketch | None:
        kinds = _kinds(trace.insts)
        return next((s for s in self._sketches if _kinds(s.instructions) == kinds), None)


def _kinds(instructions: Sequence[Any]) -> list[str]:
    """Names of the instructions before the postprocessing."""
    names = [str(instruction.kind.name) for instruction in instructions]
    return names[: names.index("EnterPostproc")] if "EnterPostproc" in names else names


def register_tiling(module: Any, target: Any, rng: random.Random) -> RegisterTiling | None:
    """Ours for this workload; None if it is not one reduction with what is around it."""
    inlined = _inlined(module, target)
    found = _find(inlined)
    if found is None:
        return None
    spatial, reduction, strided = found
    loops = replace(_cpu(target), spatial=spatial, reduction=reduction, strided=strided)
    places = PAD_PLACES if _has_padding(inlined) else PAD_PLACES[:1]
    try:
        sketches = [_sketch(inlined, s, place) for s in (False, True) for place in places]
        return RegisterTiling(sketches, loops, rng)
    except ValueError as error:
        log.debug("no register tiles: %s", error)
        return None


def _cpu(target: Any) -> Loops:
    from tvm.target.codegen import llvm_get_vector_width

    bits = int(llvm_get_vector_width(target))
    threads = int(target.attrs["num-cores"])
    # AVX-512 and NEON have 32 registers, AVX and SSE 16.
    registers = 16 if bits == 256 or (bits == 128 and "x86" in str(target)) else 32
    return Loops((), (), max(1, bits // 32), registers, threads)


def _inlined(module: Any, target: Any) -> Any:
    """The schedule with everything inlined that MetaSchedule would inline on a CPU."""
    from tvm.s_tir import meta_schedule as ms

    rules = [
        ms.schedule_rule.InlineConstantScalars(),
        ms.schedule_rule.AutoInline(
            into_producer=False,
            into_consumer=True,
            inline_const_tensor=True,
            disallow_if_then_else=True,
            require_injective=True,
            require_ordered=True,
            disallow_op=["tirx.exp"],
        ),
    ]
    context = ms.TuneContext(
        mod=module,
        target=target,
        space_generator=ms.space_generator.PostOrderApply(
            sch_rules=rules, postprocs=[], mutator_probs={}
        ),
        search_strategy="replay-trace",
        task_name="inline",
        num_threads=1,
        rand_state=1,
    )
    return context.generate_design_space()[0]


def _blocks(schedule: Any) -> list[Any]:
    return list(schedule.get_child_blocks(schedule.get_sblock("root")))


def _types(schedule: Any, block: Any) -> list[int]:
    return [int(variable.iter_type) for variable in schedule.get(block).iter_vars]


_SPATIAL, _REDUCTION = 0, 2


def _find(inlined: Any) -> tuple[tuple[int, ...], tuple[int, ...], bool] | None:
    """Extents of the only reduction's spatial and reduction loops, if it is one for tiles.

    And whether it reads with a stride along the last spatial loop.
    """
    schedule = inlined.copy()
    blocks = _blocks(schedule)
    reductions = [b for b in blocks if _REDUCTION in _types(schedule, b)]
    if len(reductions) != 1:
        return None
    (block,) = reductions
    producers, consumers = schedule.get_producers(block), schedule.get_consumers(block)
    if len(blocks) != 1 + len(producers) + len(consumers) or len(consumers) > 1:
        return None
    types = _types(schedule, block)
    loops = [schedule.get(loop) for loop in schedule.get_loops(block)]
    if len(loops) != len(types) or set(types) != {_SPATIAL, _REDUCTION}:
        return None
    extents = [int(loop.extent) for loop in loops]
    spatial = tuple(e for e, t in zip(extents, types, strict=True) if t == _SPATIAL)
    reduction = tuple(e for e, t in zip(extents, types, strict=True) if t == _REDUCTION)
    if spatial[-1] < MIN_LANES or types != sorted(types) or _gathers(schedule.get(block)):
        return None
    for consumer in consumers:
        own = [int(schedule.get(loop).extent) for loop in schedule.get_loops(consumer)]
        if tuple(own) != spatial or _REDUCTION in _types(schedule, consumer):
            return None
    return spatial, reduction, _strided(schedule.get(block))


def _last_spatial(block: Any) -> Any:
    return [v.var for v in block.iter_vars if int(v.iter_type) == _SPATIAL][-1]


def _strided(block: Any) -> bool:
    """Whether neighbours of the last spatial loop are further apart in what is read."""
    from tvm.sym import detect_linear_equation

    last = _last_spatial(block)
    for read in block.reads:
        if len(read.region):
            linear = detect_linear_equation(list(read.region)[-1].min, [last])
            if not linear or int(linear[0]) > 1:
                return True
    return False


def _gathers(block: Any) -> bool:
    """Whether neighbours of the last spatial loop are not neighbours in what is read."""
    from tvm.tirx import Evaluate
    from tvm.tirx.analysis import undefined_vars

    last = _last_spatial(block)
    for read in block.reads:
        for dimension in list(read.region)[:-1]:
            if any(last.same_as(variable) for variable in undefined_vars(Evaluate(dimension.min))):
                return True
    return False


def _has_padding(inlined: Any) -> bool:
    schedule = inlined.copy()
    return any(
        schedule.get_producers(block)
        for block in _blocks(schedule)
        if _REDUCTION in _types(schedule, block)
    )


def _sketch(inlined: Any, serial: bool, pad_place: str) -> Sketch:
    """Raises ValueError if a primitive refuses the workload."""
    from tvm.s_tir.schedule import ScheduleError

    schedule = inlined.copy()
    try:
        _tile(schedule, serial, pad_place)
    except ScheduleError as error:
        raise ValueError(str(error).partition("\n")[0]) from error
    instructions = tuple(schedule.trace.insts)
    samples = tuple(i for i in instructions if i.kind.name == "SamplePerfectTile")
    return Sketch(instructions, samples, serial, pad_place)


def _tile(schedule: Any, serial: bool, pad_place: str) -> None:
    """The schedule itself; the factors that it draws on the way are thrown away."""
    (block,) = (b for b in _blocks(schedule) if _REDUCTION in _types(schedule, b))
    types = _types(schedule, block)
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


def _split_spatial(
    schedule: Any, written: Any
) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    """Loops outside, inside, in registers (the vector last); the factors of the last two."""
    outer, inner, registers, vector = [], [], [], []
    loops = schedule.get_loops(written)
    for loop in loops:
        parts = 4 if loop is loops[-1] else 3
        factors = schedule.sample_perfect_tile(loop, n=parts, max_innermost_factor=64)
        made = schedule.split(loop, factors)
        outer.append(made[0])
        inner.append(made[1])
        registers += made[2:]
        vector = factors[2:]
    schedule.reorder(*outer, *inner, *registers)
    return outer, inner, registers, vector


def _split_reduction(schedule: Any, block: Any, types: Sequence[int], vector: Sequence[Any]) -> Any:
    """Reduction outside, registers inside, all of those unrolled; returns the outermost loop."""
    own = schedule.get_loops(block)[-len(types) :]
    spatial = [loop for loop, kind in zip(own, types, strict=True) if kind == _SPATIAL]
    serial, unrolled = [], []
    for loop in (loop for loop, kind in zip(own, types, strict=True) if kind == _REDUCTION):
        factors = schedule.sample_perfect_tile(loop, n=2, max_innermost_factor=64)
        first, second = schedule.split(loop, factors)
        serial.append(first)
        unrolled.append(second)
    row, lanes = schedule.split(spatial[-1], vector)
    schedule.reorder(*serial, *unrolled, *spatial[:-1], row, lanes)
    schedule.vectorize(lanes)
    for loop in (*unrolled, *spatial[:-1], row):
        schedule.unroll(loop)
    return serial[0]
