"""What sketches are made of: schedules whose sampled factors are chosen by ourselves."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from coordinator.search.register_tiles import Factors


@dataclass(frozen=True)
class Sketch:
    """Instructions whose sampled factors are still to be chosen.

    ``pad_place`` is where the inputs' padding is written, if there is any.
    """

    instructions: tuple[Any, ...]
    samples: tuple[Any, ...]
    serial: bool
    pad_place: str = ""

    def trace(self, factors: Factors) -> Any:
        """The trace with these factors."""
        from tvm.s_tir.schedule import Trace

        decisions = {i: list(f) for i, f in zip(self.samples, factors, strict=True)}
        return Trace(list(self.instructions), decisions)


def instruction_names(instructions: Sequence[Any]) -> list[str]:
    """Names of the instructions before the postprocessing."""
    names = [str(instruction.kind.name) for instruction in instructions]
    return names[: names.index("EnterPostproc")] if "EnterPostproc" in names else names


def drawn_factors(trace: Any) -> Factors:
    """What was chosen for each of a trace's perfect tiles, in order."""
    samples = [i for i in trace.insts if i.kind.name == "SamplePerfectTile"]
    return tuple(tuple(int(f) for f in trace.decisions[i]) for i in samples)


def is_of(trace: Any, sketches: Sequence[Sketch]) -> bool:
    """Whether a trace is of one of these."""
    names = instruction_names(trace.insts)
    return any(instruction_names(sketch.instructions) == names for sketch in sketches)


def inlined_schedule(module: Any, target: Any) -> Any:
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


def top_blocks(schedule: Any) -> list[Any]:
    """The blocks under the root, in order."""
    return list(schedule.get_child_blocks(schedule.get_sblock("root")))


def iteration_types(schedule: Any, block: Any) -> list[int]:
    """The kind of each of a block's iterations, ``SPATIAL`` or ``REDUCTION`` for most."""
    return [int(variable.iter_type) for variable in schedule.get(block).iter_vars]


SPATIAL, REDUCTION = 0, 2
"""Kinds of iteration, as TVM numbers them."""


def make_sketch(
    inlined: Any, schedule_it: Callable[[Any], None], serial: bool, pad_place: str = ""
) -> Sketch:
    """What ``schedule_it`` does to the schedule; the factors that it draws are thrown away.

    Raises ValueError if a primitive refuses the workload.
    """
    from tvm.s_tir.schedule import ScheduleError

    schedule = inlined.copy()
    try:
        schedule_it(schedule)
    except ScheduleError as error:
        raise ValueError(str(error).partition("\n")[0]) from error
    instructions = tuple(schedule.trace.insts)
    samples = tuple(i for i in instructions if i.kind.name == "SamplePerfectTile")
    return Sketch(instructions, samples, serial, pad_place)


class DrawnTiling:
    """A workload's sketches, one with threads and one without, and traces out of them: what is to
    be chosen is one of a few factors."""

    def __init__(
        self, sketches: Sequence[Sketch], choices: Sequence[Factors], rng: random.Random
    ) -> None:
        """Raises ValueError if there is nothing to choose from."""
        if not choices:
            raise ValueError("no factors fit")
        self._sketches = list(sketches)
        self._choices = list(choices)
        self._random = rng

    def draw(self, serial: bool) -> Any:
        """A trace at random."""
        sketch = next(s for s in self._sketches if s.serial is serial)
        return sketch.trace(self._random.choice(self._choices))

    def step(self, trace: Any, serial: bool) -> Any | None:
        """Another trace of ours; None if this one is not."""
        return self.draw(serial) if is_of(trace, self._sketches) else None

    def refit(self, trace: Any, _lanes: int | None, serial: bool) -> Any | None:
        """The same if this workload may be divided so, otherwise any other; None if it is none of
        ours."""
        if not is_of(trace, self._sketches):
            return None
        factors = drawn_factors(trace)
        sketch = next(s for s in self._sketches if s.serial is serial)
        return sketch.trace(factors) if factors in self._choices else self.draw(serial)
