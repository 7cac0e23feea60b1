"""Rewrites of the imported graph that cost no accuracy worth the name."""

from __future__ import annotations

from typing import Any


def multiply_by_reciprocals(module: Any) -> Any:
    """``x / c`` with a floating-point constant becomes ``x * (1 / c)``.

    A division costs several times a multiplication on every CPU, and exporters write one into each
    hard-swish. The result differs by at most one unit in the last place. Constants whose reciprocal
    is not finite are left alone.
    """
    import numpy as np
    import tvm
    from tvm import relax
    from tvm.relax.dpl import is_const, is_op, rewrite_call, wildcard

    divisor = is_const()
    division = is_op("relax.divide")(wildcard(), divisor)

    def rewrite(call: Any, matched: Any) -> Any:
        value = matched[divisor].value.numpy()
        if not np.issubdtype(value.dtype, np.floating):
            return call
        with np.errstate(divide="ignore", over="ignore"):
            reciprocal = (1 / value.astype(np.float64)).astype(value.dtype)
        if not np.isfinite(reciprocal).all():
            return call
        return relax.op.multiply(call.args[0], relax.const(reciprocal))

    functions = {
        variable: rewrite_call(division, rewrite, function)
        if isinstance(function, relax.Function)
        else function
        for variable, function in module.functions.items()
    }
    return tvm.IRModule(functions, attrs=module.attrs)
