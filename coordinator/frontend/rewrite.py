"""Rewrites of the imported graph that cost no accuracy worth the name."""

from __future__ import annotations

from typing import Any

from .expressions import is_constant, is_operator, mutate, shape_of, tidied

_ROUNDING = frozenset(("quantize", "round", "floor", "ceil", "trunc", "astype", "floor_divide"))
"""Operators after which one unit in the last place can be a whole step."""

_TRANSPARENT = frozenset(
    (
        *("add", "subtract", "multiply", "divide", "clip", "minimum", "maximum", "nn.relu"),
        *("where", "reshape"),
    )
)
"""Operators that hand an error on to the next one as it is."""


def split_up(module: Any) -> Any:
    """Batch normalisation with constants as a product and a sum, and a split as slices.

    What is done behind either is fused with it then: TVM's kernel for a split has several outputs,
    and its four operators for a normalisation take constants that it computes in each run.
    """
    return tidied(mutate(module, _split_up))


def _split_up(mutator: Any, call: Any) -> Any:
    from tvm import relax

    made: list[Any] = []
    if is_operator(call, "relax.nn.batch_norm") and all(map(is_constant, call.args[1:])):
        made = [_normalised(mutator, call), *call.args[3:]]
    elif is_operator(call, "relax.split"):
        made = _slices(call)
    return relax.Tuple([mutator.builder_.emit(one) for one in made]) if made else call


def _normalised(mutator: Any, call: Any) -> Any:
    import numpy as np
    from tvm import relax

    attributes, (data, *constants) = call.attrs, call.args
    gamma, beta, mean, variance = (c.value.numpy().astype(np.float64) for c in constants)
    factor = 1 / np.sqrt(variance + float(attributes.epsilon))
    factor = factor * gamma if attributes.scale else factor
    summand = (beta if attributes.center else 0.0) - mean * factor
    axis = int(attributes.axis) % len(shape_of(data))
    shape = [extent if a == axis else 1 for a, extent in enumerate(shape_of(data))]
    dtype = str(data.ty.dtype)
    scaled = relax.op.multiply(data, relax.const(factor.reshape(shape).astype(dtype)))
    return relax.op.add(
        mutator.builder_.emit(scaled), relax.const(summand.reshape(shape).astype(dtype))
    )


def _slices(call: Any) -> list[Any]:
    from tvm import relax

    axis = int(call.attrs.axis)
    slices, begin = [], 0
    for part in call.ty.fields:
        end = begin + int(part.shape[axis])
        slices.append(relax.op.strided_slice(call.args[0], [axis], [begin], [end]))
        begin = end
    return slices


def multiply_by_reciprocals(module: Any) -> Any:
    """``x / c`` with a floating-point constant becomes ``x * (1 / c)``.

    A division costs several times a multiplication on every CPU, and exporters write one into each
    hard-swish. The result differs by at most one unit in the last place. Constants whose reciprocal
    is not finite are left alone, and so is what will be rounded: quantised models have their values
    on a grid, where halves, which that unit moves to the other side, are common.
    """
    import tvm
    from tvm import relax
    from tvm.relax.dpl import is_const, is_op, rewrite_call, wildcard

    divisor = is_const()
    division = is_op("relax.divide")(wildcard(), divisor)

    def rewritten(function: Any) -> Any:
        rounded = _rounded(function)

        def rewrite(call: Any, matched: Any) -> Any:
            reciprocal = _reciprocal(matched[divisor].value.numpy())
            if reciprocal is None or call in rounded:
                return call
            return relax.op.multiply(call.args[0], relax.const(reciprocal))

        return rewrite_call(division, rewrite, function)

    functions = {
        variable: rewritten(function) if isinstance(function, relax.Function) else function
        for variable, function in module.functions.items()
    }
    return tvm.IRModule(functions, attrs=module.attrs)


def _reciprocal(value: Any) -> Any | None:
    """1 / value; None for integers and where it is not finite."""
    import numpy as np

    if not np.issubdtype(value.dtype, np.floating):
        return None
    with np.errstate(divide="ignore", over="ignore"):
        reciprocal = (1 / value.astype(np.float64)).astype(value.dtype)
    return reciprocal if np.isfinite(reciprocal).all() else None


def _rounded(function: Any) -> set[Any]:
    """The calls whose results are rounded, maybe after some plain arithmetic."""
    from tvm import relax

    calls: set[Any] = set()
    variables: set[Any] = set()
    bindings = [binding for block in function.body.blocks for binding in block.bindings]
    for binding in reversed(bindings):
        if not isinstance(binding.value, relax.Call):
            continue
        name, arguments = _operator(binding.value)
        if binding.var in variables:
            calls.add(binding.value)
        if name in _ROUNDING or (name in _TRANSPARENT and binding.var in variables):
            variables.update(arguments)
    return calls


def _operator(call: Any) -> tuple[str, tuple[Any, ...]]:
    """What a call computes and of what; the importer lowers some operators, Clip's, by itself."""
    from tvm import ir

    if not isinstance(call.op, ir.Op):
        return "", ()
    if call.op.name == "relax.call_tir":
        return call.args[0].name_hint.rstrip("0123456789"), tuple(call.args[1])
    return call.op.name.removeprefix("relax."), tuple(call.args)
