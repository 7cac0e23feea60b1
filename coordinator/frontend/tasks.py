"""The unique fused operators of a lowered model, with how often it runs each."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from protos.errors import BadModel
from protos.records import Task, TensorSpec

from .expressions import is_operator
from .workload import argument_specs, canonical_workload, workload_key

log = logging.getLogger(__name__)


def extract_tasks(lowered: Any, known: Iterable[Task] = ()) -> tuple[Task, ...]:
    """Each fused operator once, the most arithmetic (weight × flops) first.

    ``known`` are tasks of another module, which need not be described again if this one has them.
    Raises BadModel for a call that is no plain kernel: one that writes into its inputs or takes
    scalars could not be timed or checked on its own.
    """
    import tvm

    described = {task.workload_key: task for task in known}
    weights: Counter[str] = Counter()
    keys: dict[str, str] = {}
    for call in _kernel_calls(lowered):
        name = call.args[0].name_hint
        if name not in keys:
            function = lowered[name]
            module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
            try:
                args = argument_specs(function)
            except ValueError as error:
                raise BadModel(f"the fused operator {name!r} can't be tuned: {error}") from error
            keys[name] = key = workload_key(module)
            if key not in described:
                workload = canonical_workload(function)
                described[key] = _task(key, name, workload, args, _num_outputs(call))
        weights[keys[name]] += 1
    log.info("%d kernels called, %d unique", weights.total(), len(weights))
    return merge_tasks([[replace(described[key], weight=n) for key, n in weights.items()]])


def call_order(modules: Iterable[str]) -> tuple[str, ...]:
    """The workload keys of the kernels of a model's modules (JSON), each once, in the order in
    which they first run."""
    import tvm

    found: dict[str, None] = {}
    for module in modules:
        lowered = tvm.ir.load_json(module)
        for call in _kernel_calls(lowered):
            function = lowered[call.args[0].name_hint].with_attr("global_symbol", "main")
            found[workload_key(tvm.IRModule({"main": function}))] = None
    return tuple(found)


def merge_tasks(parts: Iterable[Iterable[Task]]) -> tuple[Task, ...]:
    """The tasks of all parts of a model, each once, the most arithmetic (weight × flops) first."""
    found: dict[str, Task] = {}
    for task in (task for tasks in parts for task in tasks):
        before = found.get(task.workload_key)
        weight = task.weight + (before.weight if before else 0)
        found[task.workload_key] = replace(before or task, weight=weight)
    return tuple(sorted(found.values(), key=lambda t: (-t.weight * t.flops, t.workload_key)))


def _task(
    key: str, name: str, workload: Any, args: tuple[TensorSpec, ...], num_outputs: int
) -> Task:
    import tvm

    return Task(
        name=name,
        workload_key=key,
        workload_json=tvm.ir.save_json(workload),
        weight=0,
        args=args,
        num_outputs=num_outputs,
        flops=_flops(workload),
    )


def _kernel_calls(lowered: Any) -> Iterator[Any]:
    """Every call of a PrimFunc that is run, in the order of the model's functions and bindings."""
    from tvm import ir, relax

    calls: list[Any] = []
    views = _views(lowered)

    def visit(expr: Any) -> None:
        if isinstance(expr, relax.Call) and isinstance(expr.op, ir.Op):
            calls.append(expr)

    for variable in sorted(lowered.get_global_vars(), key=lambda item: str(item.name_hint)):
        if isinstance(lowered[variable], relax.Function):
            relax.analysis.post_order_visit(lowered[variable], visit)
    for call in calls:
        operator = call.op.name
        if not operator.startswith("relax.call_tir") or call in views:
            continue
        name = call.args[0].name_hint
        if operator != "relax.call_tir":
            raise BadModel(f"the fused operator {name!r} writes into its inputs ({operator})")
        if len(call.args) > 2 and len(call.args[2]) > 0:
            raise BadModel(f"the fused operator {name!r} takes scalars beside its tensors")
        yield call


def _views(lowered: Any) -> set[Any]:
    """The calls that only give memory another shape. TVM makes views of them when it compiles the
    model (``RewriteDataflowReshape``), but for those that are outputs."""
    from tvm import relax

    return {
        binding.value
        for function in lowered.functions.values()
        if isinstance(function, relax.Function)
        for block in function.body.blocks
        if isinstance(block, relax.DataflowBlock)
        for binding in block.bindings
        if isinstance(binding.var, relax.DataflowVar)
        and is_operator(binding.value, "relax.call_tir")
        and relax.analysis.has_reshape_pattern(lowered[binding.value.args[0]])
    }


def _num_outputs(call: Any) -> int:
    """How many of the kernel's last parameters it writes, by the call's result type."""
    from tvm import relax

    result = call.ty_args[0]
    return len(result.fields) if isinstance(result, relax.TupleType) else 1


def _flops(module: Any) -> float:
    from tvm.s_tir.analysis import estimate_tir_flops

    try:
        return float(estimate_tir_flops(module))
    except Exception as error:
        # The estimate knows loops and blocks only; sorting and the like are neither.
        log.debug("no estimate of the arithmetic: %s", error)
        return 0.0
