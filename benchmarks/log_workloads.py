"""The workloads of the tuning log's benchmark, and traces that apply to all of them.

Small convolutions (3×3, channels last, with bias and relu) of different shapes, in the farm's
canonical form. The traces are those that the farm's search proposes for one of them.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from typing import Any

from benchmarks.log_records import trace_json
from protos.records import Task, TensorSpec

Shape = tuple[int, int, int]
"""Height and width, channels in, channels out."""

_SHAPES_TRIED, _NUMBERS_TRIED = 6, 16

_SIDES = tuple(range(8, 64, 4))
_CHANNELS = tuple(range(8, 168, 8))


def shapes(count: int) -> list[Shape]:
    """Of as many different convolutions."""
    all_of_them = itertools.product(_CHANNELS, _CHANNELS, _SIDES)
    found = [(side, ci, co) for ci, co, side in itertools.islice(all_of_them, count)]
    if len(found) < count:
        raise ValueError(f"there are shapes for {len(found)} workloads, not for {count}")
    return found


def specs(shape: Shape) -> tuple[TensorSpec, ...]:
    """The parameters: data, weights, bias, output."""
    side, ci, co = shape
    dims = ((1, side, side, ci), (3, 3, ci, co), (co,), (1, side, side, co))
    return tuple(TensorSpec(dim, "float32") for dim in dims)


def module(shape: Shape) -> Any:
    """The convolution as an IRModule."""
    from tvm import te, tirx

    from coordinator.frontend.workload import canonical_workload

    side, ci, _co = shape
    *inputs, output = specs(shape)
    data, weights, bias = (
        te.placeholder(spec.shape, "float32", name)
        for spec, name in zip(inputs, ("data", "weights", "bias"), strict=True)
    )
    axes = [te.reduce_axis((0, extent), name) for extent, name in ((3, "y"), (3, "x"), (ci, "c"))]
    y, x, c = axes
    padded = te.compute(
        (1, side + 2, side + 2, ci),
        lambda n, i, j, k: tirx.if_then_else(
            tirx.all(i >= 1, i <= side, j >= 1, j <= side), data[n, i - 1, j - 1, k], 0.0
        ),
        "padded",
    )
    product = te.compute(
        output.shape,
        lambda n, i, j, k: te.sum(padded[n, i + y, j + x, c] * weights[y, x, c, k], axis=axes),
        "product",
    )
    relu = te.compute(
        output.shape, lambda n, i, j, k: te.max(product[n, i, j, k] + bias[k], 0.0), "relu"
    )
    return canonical_workload(te.create_prim_func([data, weights, bias, relu]))


def task(shape: Shape) -> Task:
    """The convolution as the farm keeps it."""
    import tvm

    from coordinator.frontend.workload import workload_key

    made = module(shape)
    side, ci, co = shape
    text, flops = str(tvm.ir.save_json(made)), 18.0 * side * side * ci * co
    return Task("conv2d", workload_key(made), text, 1, specs(shape), 1, flops)


def proposed_traces(target: str, every: Sequence[Shape]) -> tuple[tuple[str, list[Any]], ...]:
    """Instructions as text and decisions: those of a first batch that apply whatever the shape and
    the decisions, for JSONDatabase replays each trace that it loads, and ends if one fails."""
    from benchmarks.proposing import OURS
    from coordinator.search.proposer import Proposer

    tried_on = random.Random(0).sample(every, min(len(every), _SHAPES_TRIED))
    modules = [module(shape) for shape in (every[0], every[-1], *tried_on)]
    proposals = Proposer(task(max(every)), target, 0, OURS).propose()
    found: dict[str, list[Any]] = {}
    for trace in sorted({proposal.candidate.trace_json for proposal in proposals}):
        instructions, decisions = json.loads(trace)
        tiled = any(isinstance(decision, list) for _index, decision in decisions)
        text = json.dumps(instructions, separators=(",", ":"))
        if tiled and text not in found and _applies(text, decisions, modules):
            found[text] = decisions
    if not found:
        raise RuntimeError("no trace that was proposed applies to all workloads")
    return tuple(found.items())


def _applies(instructions: str, decisions: list[Any], modules: Sequence[Any]) -> bool:
    import tvm
    from tvm.s_tir.schedule import Schedule, ScheduleError, Trace

    try:
        for number, made in itertools.product(range(_NUMBERS_TRIED), modules):
            trace = json.loads(trace_json(instructions, decisions, number))
            Trace.apply_json_to_schedule(trace, Schedule(made))
    except (ScheduleError, tvm.error.InternalError):
        return False
    return True
