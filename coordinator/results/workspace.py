"""Memory for a model's intermediate results, allocated once instead of in every run.

Relax's virtual machine makes a tensor for every kernel's output in every run: for a small model
that is a sixth of its time. All shapes are fixed here, so a pass moves the allocations of ``main``
into a function ``workspace()`` and hands its tensors to ``main`` as further parameters.
"""

from __future__ import annotations

from typing import Any

WORKSPACE = "workspace"


def pipeline(target: Any) -> Any:
    """Relax's default pipeline for CPUs, with our pass at its end."""
    import tvm
    from tvm.relax.backend.cpu_generic import pipeline as cpu

    return tvm.transform.Sequential(
        [
            *cpu.library_dispatch_passes(target),
            *cpu.legalize_passes(target),
            *cpu.dataflow_lower_passes(target),
            *cpu.finalize_passes(target),
            tvm.transform.module_pass(_move_allocations, opt_level=0),
        ]
    )


def _move_allocations(module: Any, _context: Any) -> Any:
    """``main(inputs)`` to ``main(inputs, *tensors)`` and ``workspace() -> tensors``."""
    import tvm
    from tvm import relax

    main = module["main"]
    moved = [b for block in main.body.blocks for b in block.bindings if _allocates(b)]
    tensors = [binding.var for binding in moved if _is_call_of(binding.value, "alloc_tensor")]
    gone = {binding.var for binding in moved}
    blocks = [
        relax.BindingBlock([b for b in block.bindings if b.var not in gone and not _kills(b, gone)])
        for block in main.body.blocks
    ]
    body = relax.SeqExpr(blocks, main.body.body)
    changed = relax.Function(
        [*main.params, *tensors], body, main.ret_ty, is_pure=False, attrs=main.attrs
    )
    made = relax.Var("made", relax.AnyType())
    make = relax.Call(relax.ExternFunc("vm.builtin.make_tuple"), tensors)
    bindings = [*moved, relax.VarBinding(made, make)]
    workspace = relax.Function(
        [],
        relax.SeqExpr([relax.BindingBlock(bindings)], made),
        relax.AnyType(),
        is_pure=False,
        attrs=tvm.ir.make_node("ir.DictAttrs", global_symbol=WORKSPACE),
    )
    functions = {v: (changed if v.name_hint == "main" else f) for v, f in module.functions.items()}
    functions[tvm.ir.GlobalVar(WORKSPACE)] = workspace
    return tvm.IRModule(functions, attrs=module.attrs)


def storage_sizes(workspace: Any) -> list[int]:
    """Bytes of each piece of memory that the function ``workspace`` allocates."""
    calls = [binding.value for block in workspace.body.blocks for binding in block.bindings]
    return [int(c.args[0].values[0]) for c in calls if _is_call_of(c, "alloc_storage")]


def _is_call_of(value: Any, operator: str) -> bool:
    from tvm import relax
    from tvm.ir import Op

    return (
        isinstance(value, relax.Call)
        and isinstance(value.op, Op)
        and value.op.name == f"relax.vm.{operator}"
    )


def _allocates(binding: Any) -> bool:
    return _is_call_of(binding.value, "alloc_storage") or _is_call_of(binding.value, "alloc_tensor")


def _kills(binding: Any, variables: set[Any]) -> bool:
    return _is_call_of(binding.value, "kill_object") and binding.value.args[0] in variables
