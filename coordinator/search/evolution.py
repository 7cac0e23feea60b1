"""Programs of one workload: MetaSchedule's space and ours sampled and mutated, each once.

MetaSchedule's own evolutionary search begins anew for every batch: it replays hundreds of traces
and extracts the features of each, most of which it has seen before, to hand out sixteen. Here a
program is replayed once, its features stay with it, and a better cost model only means ranking
again (docs/decisions/0010-a-pool-instead-of-generations.md).
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coordinator.frontend.cpu_features import vector_lanes
from coordinator.search.chain_sketches import chain_tiling
from coordinator.search.row_sketches import row_tiling
from coordinator.search.sketches import inlined_schedule
from coordinator.search.tile_sketches import register_tiling
from coordinator.search.traces import trace_to_json
from coordinator.search.transform_sketches import transform_tiling
from cost_model.features import Features, candidate_features

_PARALLEL = "meta_schedule.parallel"
"""The annotation that says how many iterations may be divided among threads; an instruction of the
postprocessing then does so where the loops allow it."""

_VECTORIZE = "meta_schedule.vectorize"
"""Another one of the same block, which MetaSchedule's traces for CPUs always have."""

MAX_UNROLL_STEPS = 64
"""How far MetaSchedule's loops may be unrolled. It would try 512, too: such a program may take half
a minute to compile, and where it is worth it a register tile is as good."""

TILES_SHARE = 0.95
"""Of the programs that are drawn at random, those with a register tile, where the workload has any:
they are faster to build, and more of them are good."""

ATTEMPTS = 3
"""How many samples or mutations are tried for each program that is wanted; many are refused."""


@dataclass(frozen=True)
class Program:
    """A scheduled workload: its whole trace, and its features. Equal programs, equal hash.

    ``serial``: no loop of it is divided among threads.
    """

    trace: Any
    hash: int
    features: Features
    serial: bool


class Evolution:
    """Makes programs that this object has not made or been shown before."""

    def __init__(
        self,
        module: Any,
        target: Any,
        name: str,
        seed: int,
        tiles_share: float = TILES_SHARE,
    ) -> None:
        """``tiles_share`` of what is drawn has a register tile, where the workload has any."""
        from tvm.s_tir import meta_schedule as ms
        from tvm.s_tir.schedule import Trace

        self._module = module
        self._tiles_share = tiles_share
        self._random = random.Random(seed)
        self._extractor = ms.feature_extractor.PerStoreFeature(extract_workload=True)
        self._context = ms.TuneContext(
            mod=module,
            target=target,
            space_generator="post-order-apply",
            task_name=name,
            num_threads=1,
            rand_state=self._seed(),
        )
        generator = self._context.space_generator
        spaces = self._context.generate_design_space()
        self._spaces = [Trace(_less_unrolled(schedule.trace.insts), {}) for schedule in spaces]
        self._parallel = max((_parallel_extent(space) for space in self._spaces), default=0)
        self._postprocs = list(generator.postprocs)
        self._mutators = list(generator.mutator_probs)
        self._weights = [float(generator.mutator_probs[mutator]) for mutator in self._mutators]
        self._tiling = _tiling(module, target, self._random)
        self._seen: set[int] = set()

    def _seed(self) -> int:
        return self._random.randrange(1, 1 << 30)

    def sample(self, serial: Sequence[bool]) -> list[Program]:
        """New programs drawn at random, one for each entry; fewer if too few are found.

        Where ``serial`` is true the program is; elsewhere it uses threads if its loops allow it.
        """

        def draw(alone: bool) -> Any:
            if self._tiling is not None and self._random.random() < self._tiles_share:
                return self._tiling.draw(alone)
            return _with_threads(self._random.choice(self._spaces), 0 if alone else self._parallel)

        return self._make(serial, draw)

    def mutate(self, parents: Sequence[Program], serial: Sequence[bool]) -> list[Program]:
        """New programs, each a step away from one of ``parents``; otherwise like ``sample``."""
        return self._make(
            serial, lambda alone: self._step(self._random.choice(parents).trace, alone)
        )

    def _step(self, trace: Any, serial: bool) -> Any | None:
        from tvm.s_tir.meta_schedule import _ffi_api

        ours = None if self._tiling is None else self._tiling.step(trace, serial)
        if ours is not None or not self._weights:
            return ours
        (mutator,) = self._random.choices(self._mutators, self._weights)
        mutated = _ffi_api.MutatorApply(mutator, trace, self._seed())
        return None if mutated is None else _with_threads(mutated, 0 if serial else self._parallel)

    def _make(self, serial: Sequence[bool], draw: Callable[[bool], Any | None]) -> list[Program]:
        """Programs out of what ``draw`` gives, a trace or None, until there are enough."""
        wanted = list(serial)
        found: list[Any] = []
        for _ in range(ATTEMPTS * len(wanted)):
            if len(found) == len(wanted):
                break
            trace = draw(wanted[len(found)])
            schedule = None if trace is None else self._apply(trace)
            if schedule is not None and self._is_new(schedule):
                found.append(schedule)
        return self._with_features(found)

    def _apply(self, trace: Any) -> Any | None:
        """The schedule that the trace makes, postprocessed; None if a postprocessor refuses."""
        from tvm.s_tir import Schedule

        schedule = Schedule(self._module, seed=self._seed())
        trace.apply_to_schedule(schedule, remove_postproc=True)
        schedule.enter_postproc()
        return schedule if all(step.apply(schedule) for step in self._postprocs) else None

    def _is_new(self, schedule: Any) -> bool:
        code = _hash(schedule)
        new = code not in self._seen
        self._seen.add(code)
        return new

    def _with_features(self, schedules: Sequence[Any]) -> list[Program]:
        from tvm.s_tir.meta_schedule import MeasureCandidate

        if not schedules:
            return []
        candidates = [MeasureCandidate(schedule, []) for schedule in schedules]
        stores = self._extractor.extract_from(self._context, candidates)
        return [
            Program(
                schedule.trace,
                _hash(schedule),
                candidate_features(np.asarray(matrix.numpy()), trace_to_json(schedule.trace)),
                serial=all(i.kind.name != "Parallel" for i in schedule.trace.insts),
            )
            for schedule, matrix in zip(schedules, stores, strict=True)
        ]

    def is_alike(self, lanes: int | None) -> bool:
        """Whether tiles for vectors of so many elements (None: of who knows how many) may be right
        for this CPU's."""
        return lanes in (None, vector_lanes(self._context.target))

    def refit(self, trace_json: str, lanes: int | None, serial: Sequence[bool]) -> list[Program]:
        """New programs like one that was found for a CPU with vectors of ``lanes`` elements (None:
        of who knows how many) and other threads: the same but for what this CPU does with its own
        vectors and threads. One for each entry of ``serial``, as in ``sample``."""
        trace = self._replayed(trace_json).trace

        def fitted(alone: bool) -> Any | None:
            ours = None if self._tiling is None else self._tiling.refit(trace, lanes, alone)
            return ours or _with_threads(_with_threads(trace, 0), 0 if alone else self._parallel)

        schedules = [self._apply(fitted(alone)) for alone in serial]
        return self._with_features([s for s in schedules if s is not None and self._is_new(s)])

    def replay(self, trace_json: str) -> Program:
        """The program of a trace from elsewhere, which will not be made again."""
        schedule = self._replayed(trace_json)
        self._seen.add(_hash(schedule))
        (program,) = self._with_features([schedule])
        return program

    def _replayed(self, trace_json: str) -> Any:
        from tvm.s_tir import Schedule
        from tvm.s_tir.schedule import Trace

        schedule = Schedule(self._module)
        Trace.apply_json_to_schedule(json.loads(trace_json), schedule)
        return schedule


def _tiling(module: Any, target: Any, rng: random.Random) -> Any | None:
    """Our own sketches of a workload, all of which are for CPUs; None if there are none."""
    if target.kind.name != "llvm":
        return None
    inlined = inlined_schedule(module, target)
    tilings = (register_tiling, transform_tiling, row_tiling, chain_tiling)
    found = (tiling(inlined, target, rng) for tiling in tilings)
    return next((one for one in found if one is not None), None)


def _hash(schedule: Any) -> int:
    from tvm_ffi import structural_hash

    return int(structural_hash(schedule.mod))


def _less_unrolled(instructions: Sequence[Any]) -> list[Any]:
    """The same, but the choice of how far to unroll ends at ``MAX_UNROLL_STEPS``."""
    from tvm.s_tir.schedule import Instruction

    def shorter(instruction: Any) -> Any:
        if instruction.kind.name != "SampleCategorical":
            return instruction
        steps = [int(step) for step in instruction.attrs[0]]
        kept = [step for step in steps if step <= MAX_UNROLL_STEPS]
        if not kept or len(kept) == len(steps):
            return instruction
        attributes = [kept, [1 / len(kept)] * len(kept)]
        return Instruction(instruction.kind, instruction.inputs, attributes, instruction.outputs)

    return [shorter(instruction) for instruction in instructions]


def _says(instruction: Any, annotation: str) -> bool:
    return instruction.kind.name == "Annotate" and str(instruction.attrs[0]) == annotation


def _parallel_extent(trace: Any) -> int:
    return max((int(i.inputs[1]) for i in trace.insts if _says(i, _PARALLEL)), default=0)


def _with_threads(trace: Any, extent: int) -> Any:
    """MetaSchedule's trace with up to ``extent`` iterations for threads, if it says nothing else.

    0: for none. The annotation is left out then: even one of 0 gives threads loops of extent one.
    """
    from tvm.s_tir.schedule import Instruction, Trace

    kept = []
    said = any(_says(i, _PARALLEL) for i in trace.insts)
    for instruction in trace.insts:
        if extent == 0 and _says(instruction, _PARALLEL):
            continue
        if extent and not said and _says(instruction, _VECTORIZE):
            inputs = [instruction.inputs[0], extent]
            kept.append(Instruction(instruction.kind, inputs, [_PARALLEL], []))
            said = True
        kept.append(instruction)
    return Trace(kept, trace.decisions)
