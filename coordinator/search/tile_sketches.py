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
from dataclasses import dataclass, replace
from typing import Any

from coordinator.frontend.cpu_features import vector_lanes
from coordinator.search.register_tiles import MIN_LANES, Factors, Loops, TileSpace

log = logging.getLogger(__name__)

PAD_PLACES = ("root", "outer")
"""Where the inputs' padding is written: as a whole before, or with each outer tile."""


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
    """Ours for this workload; None if it is no reduction for a CPU with what is around it."""
    if target.kind.name != "llvm":
        return None
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
    lanes = vector_lanes(target)
    threads = int(target.attrs["num-cores"])
    # AVX-512 and NEON have 32 registers, AVX and SSE 16.
    registers = 16 if lanes == 8 or (lanes == 4 and "x86" in str(target)) else 32
    return Loops((), (), lanes, registers, threads)


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
    from tvm.tirx import IntImm

    last = _last_spatial(block)
    for read in block.reads:
        if len(read.region):
            linear = detect_linear_equation(list(read.region)[-1].min, [last])
            if not linear or not isinstance(linear[0], IntImm) or int(linear[0]) > 1:
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
