"""What a Relax expression is, without importing TVM where nothing is lowered."""

from __future__ import annotations

import enum
from typing import Any


class OpPattern(enum.IntEnum):
    """TVM's ``OpPatternKind``, which has no names in Python: what an operator may be fused with."""

    INJECTIVE = 2
    OUT_ELEMENTWISE_FUSABLE = 4
    OPAQUE = 8


_ELEMENTWISE = frozenset(
    f"relax.{name}"
    for name in (
        *("add", "clip", "divide", "maximum", "minimum", "multiply", "power", "subtract"),
        *("abs", "ceil", "cos", "erf", "exp", "floor", "log", "negative", "round", "rsqrt"),
        *("sigmoid", "sin", "sqrt", "square", "tanh", "quantize", "dequantize"),
        *("nn.gelu", "nn.gelu_tanh", "nn.leakyrelu", "nn.relu", "nn.silu"),
    )
)


def is_operator(expression: Any, name: str) -> bool:
    """Whether it is a call of the operator ``relax.…``."""
    from tvm import ir, relax

    return (
        isinstance(expression, relax.Call)
        and isinstance(expression.op, ir.Op)
        and expression.op.name == name
    )


def is_constant(expression: Any) -> bool:
    """Whether its value is in the module."""
    from tvm.ir.expr import GenericConst

    return isinstance(expression, GenericConst)


def is_dense_convolution(call: Any) -> bool:
    """Whether a ``relax.nn.conv2d`` is channels last and in one group, has constant weights, and
    sums in its input's type."""
    attributes, (data, weights) = call.attrs, call.args
    layouts = (attributes.data_layout, attributes.kernel_layout, attributes.out_layout)
    return (
        layouts == ("NHWC", "HWIO", "NHWC")
        and int(attributes.groups) == 1
        and is_constant(weights)
        and str(call.ty.dtype) == str(data.ty.dtype)
    )


def shape_of(expression: Any) -> tuple[int, ...]:
    """The extents of a tensor, which are known."""
    return tuple(int(extent) for extent in expression.ty.shape)


def is_elementwise(call: Any) -> bool:
    """Whether each element of its result comes of one element of each of its arguments."""
    from tvm import ir

    return isinstance(call.op, ir.Op) and call.op.name in _ELEMENTWISE


def mutate(module: Any, visit: Any) -> Any:
    """Each call that is bound to a variable, in order, through ``visit(mutator, call)``.

    ``mutator.original`` is the call as it is in ``module``.
    """
    from tvm import relax
    from tvm.relax.expr_functor import PyExprMutator, mutator

    @mutator
    class Mutator(PyExprMutator):  # type: ignore[misc]
        """Visits calls after their arguments."""

        original: Any = None

        def visit_call_(self, call: Any) -> Any:
            visited = self.visit_expr_post_order(call)
            self.original = call
            return visit(self, visited)

    mutating = Mutator(module)
    for variable, function in module.functions_items():
        if isinstance(function, relax.Function):
            mutating.builder_.update_func(variable, mutating.visit_expr(function))
    return mutating.builder_.get()


def tidied(module: Any) -> Any:
    """Without what nothing reads, and without variables that are another's name only."""
    import tvm
    from tvm import relax

    passes = [relax.transform.DeadCodeElimination(), relax.transform.CanonicalizeBindings()]
    return tvm.transform.Sequential(passes)(module)
