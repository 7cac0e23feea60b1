"""Reshapes behind what works element by element, which then stays fused with what is before them.

A reshape costs nothing, the memory stays as it is, but TVM fuses nothing over one: exporters write
them around the matrix products of transformers, and there would be a kernel for each bias,
activation and residual.
"""

from __future__ import annotations

from typing import Any

from .expressions import is_constant, is_elementwise, is_operator, mutate, shape_of, tidied
from .transposes import has_no_layout

_VIEWS = ("relax.reshape", "relax.squeeze", "relax.expand_dims")
_PRODUCTS = ("relax.matmul", "relax.nn.conv2d")
"""What TVM fuses elementwise operators behind."""


MOST_REPEATED = 4096
"""Numbers that a constant may have when its shape needs some of them repeated."""


def sink_reshapes(module: Any) -> Any:
    """The module with reshapes as late as they can be behind matrix products and convolutions."""
    return tidied(mutate(module, _Sinking(_sinkable(module))))


def _is_view(call: Any) -> bool:
    return any(is_operator(call, view) for view in _VIEWS)


def _sinkable(module: Any) -> set[Any]:
    """The elementwise calls that read a reshape which nothing else reads but such calls: what is
    before a reshape that is needed in its shape can't be fused with them anyway."""
    from tvm import relax

    found: set[Any] = set()
    for function in module.functions.values():
        if not isinstance(function, relax.Function):
            continue
        bindings = [binding for block in function.body.blocks for binding in block.bindings]
        needed = _needed_in_their_shape(function, bindings)
        views: set[Any] = set()
        for binding in bindings:
            call = binding.value
            if not isinstance(call, relax.Call):
                continue
            elementwise = is_elementwise(call) and any(a in views for a in call.args)
            if elementwise:
                found.add(call)
            if (elementwise or _is_view(call)) and binding.var not in needed:
                views.add(binding.var)
    return found


def _needed_in_their_shape(function: Any, bindings: Any) -> set[Any]:
    """The variables that something reads which does not work element by element."""
    from tvm import relax

    needed: set[Any] = set()

    def look(expression: Any) -> None:
        if isinstance(expression, relax.Var):
            needed.add(expression)

    for binding in bindings:
        if not isinstance(binding.value, relax.Call) or not is_elementwise(binding.value):
            relax.analysis.post_order_visit(binding.value, look)
    relax.analysis.post_order_visit(function.body.body, look)
    return needed


class _Sinking:
    """Visits calls, and remembers which variables have a product before them."""

    def __init__(self, sinkable: set[Any]) -> None:
        self._sinkable = sinkable
        self._fusable: dict[Any, bool] = {}

    def __call__(self, mutator: Any, call: Any) -> Any:
        from tvm import relax

        if _is_view(call):
            source = _source(mutator, call.args[0])
            source = call.args[0] if source is None else source
            shape = shape_of(call)
            return source if shape_of(source) == shape else relax.op.reshape(source, shape)
        return self._behind_elements(mutator, call) if mutator.original in self._sinkable else call

    def _behind_elements(self, mutator: Any, call: Any) -> Any:
        from tvm import relax

        shape = shape_of(call)
        sources = [_source(mutator, argument) for argument in call.args]
        shapes = {
            shape_of(source)
            for source, argument in zip(sources, call.args, strict=True)
            if source is not None
            and shape_of(argument) == shape
            and self._is_fusable(mutator, source)
        }
        if len(shapes) != 1:
            return call
        (wanted,) = shapes
        args = [
            source
            if source is not None and shape_of(source) == wanted
            else self._operand(mutator, argument, shape, wanted)
            for source, argument in zip(sources, call.args, strict=True)
        ]
        if any(argument is None for argument in args):
            return call
        made = mutator.builder_.emit(relax.Call(call.op, args, call.attrs))
        return relax.op.reshape(made, shape)

    def _operand(
        self, mutator: Any, operand: Any, shape: tuple[int, ...], wanted: tuple[int, ...]
    ) -> Any | None:
        """What is in the place of an operand when the result is ``wanted`` instead of ``shape``."""
        from tvm import relax

        if has_no_layout(operand):
            value = operand.value.numpy() if is_constant(operand) else None
            return operand if value is None else relax.const(value.reshape(()))
        if is_constant(operand):
            return _reshaped_constant(operand.value.numpy(), shape, wanted)
        if shape_of(operand) != shape or self._is_fusable(mutator, operand):
            return None
        return mutator.builder_.emit(relax.op.reshape(operand, wanted))

    def _is_fusable(self, mutator: Any, expression: Any) -> bool:
        """Whether a product is before it, with elementwise operators only in between."""
        from tvm import relax

        if not isinstance(expression, relax.Var):
            return False
        if expression not in self._fusable:
            bound = mutator.lookup_binding(expression)
            self._fusable[expression] = any(is_operator(bound, name) for name in _PRODUCTS) or (
                isinstance(bound, relax.Call)
                and is_elementwise(bound)
                and any(self._is_fusable(mutator, argument) for argument in bound.args)
            )
        return self._fusable[expression]


def _source(mutator: Any, expression: Any) -> Any | None:
    """What a variable is a reshape of."""
    from tvm import relax

    bound = mutator.lookup_binding(expression) if isinstance(expression, relax.Var) else None
    return bound.args[0] if bound is not None and is_operator(bound, "relax.reshape") else None


def _reshaped_constant(value: Any, shape: tuple[int, ...], wanted: tuple[int, ...]) -> Any | None:
    """A constant that is broadcast to ``shape``, for ``wanted``; None if that is a large one."""
    import numpy as np
    from tvm import relax

    whole = np.broadcast_to(value, shape).reshape(wanted)
    for axis in range(whole.ndim):
        first = whole.take([0], axis)
        if (whole == first).all():
            whole = first
    return (
        relax.const(np.ascontiguousarray(whole))
        if whole.size <= max(value.size, MOST_REPEATED)
        else None
    )
