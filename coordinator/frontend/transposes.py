"""Transposes: sunk behind what does not mind them until they meet their opposites, and constants'
made ahead of time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .expressions import is_constant, is_elementwise, is_operator, mutate, shape_of, tidied

TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
"""Axes that move a map's channels."""

_REDUCTIONS = frozenset(f"relax.{name}" for name in ("max", "mean", "min", "sum"))


def sink_transposes(module: Any) -> Any:
    """Transposes go behind what works element by element, reductions and squeezes; where one meets
    its opposite both go, and what only moves dimensions of one element becomes a reshape."""
    return tidied(mutate(mutate(module, _sunk), _reshaped))


def lay_out_constants(module: Any) -> Any:
    """Reshapes and transposes of constants, and limits of Clips, as constants; TVM would compile a
    kernel for each."""

    def visit(mutator: Any, call: Any) -> Any:
        laid_out = _laid_out(mutator, call)
        return call if laid_out is None else laid_out

    return mutate(module, visit)


def has_no_layout(expression: Any) -> bool:
    """Whether it is a number, or a tensor of one element."""
    from tvm import relax

    kind = getattr(expression, "ty", None)
    if not isinstance(kind, relax.TensorType):
        return not isinstance(kind, relax.TupleType)
    return kind.shape is not None and all(int(extent) == 1 for extent in kind.shape)


def _sunk(mutator: Any, call: Any) -> Any:
    laid_out = _laid_out(mutator, call)
    if laid_out is not None:
        return laid_out
    before = _transposed(mutator, call.args[0]) if call.args else None
    if is_operator(call, "relax.permute_dims"):
        return call if before is None else _joined(before, call)
    if is_elementwise(call):
        return _behind_elements(mutator, call)
    if before is None:
        return call
    if is_operator(call, "relax.squeeze"):
        return _behind_squeeze(mutator, call, before)
    if str(getattr(call.op, "name", "")) in _REDUCTIONS:
        return _behind_reduction(mutator, call, before)
    return call


def _behind_elements(mutator: Any, call: Any) -> Any:
    from tvm import relax

    moved = [_transposed(mutator, argument) for argument in call.args]
    found = {_axes(one) for one in moved if one is not None}
    if len(found) != 1:
        return call
    (axes,) = found
    args = [
        _untransposed(argument, axes) if one is None else one.args[0]
        for argument, one in zip(call.args, moved, strict=True)
    ]
    if any(argument is None for argument in args):
        return call
    inner = mutator.builder_.emit(relax.Call(call.op, args, call.attrs))
    return relax.op.permute_dims(inner, list(axes))


def _behind_squeeze(mutator: Any, call: Any, before: Any) -> Any:
    from tvm import relax

    source, axes = before.args[0], _axes(before)
    extents = shape_of(call.args[0])
    given = call.attrs.axis
    gone = {a for a, e in enumerate(extents) if e == 1} if given is None else _places(given, axes)
    inner = relax.op.squeeze(source, sorted(axes[place] for place in gone))
    return _transpose(mutator, inner, [axes[i] for i in range(len(axes)) if i not in gone])


def _behind_reduction(mutator: Any, call: Any, before: Any) -> Any:
    from tvm import relax

    axes, given = _axes(before), call.attrs.axis
    gone = set(range(len(axes))) if given is None else _places(given, axes)
    keepdims = bool(call.attrs.keepdims)
    function = getattr(relax.op, call.op.name.removeprefix("relax."))
    inner = function(before.args[0], sorted(axes[place] for place in gone), keepdims)
    left = [axis for place, axis in enumerate(axes) if keepdims or place not in gone]
    return _transpose(mutator, inner, left)


def _places(given: Any, axes: tuple[int, ...]) -> set[int]:
    """Axes of an attribute, counted from the front."""
    return {int(axis) % len(axes) for axis in given}


def _transpose(mutator: Any, inner: Any, order: list[int]) -> Any:
    """``order`` names the dimensions that are left by their old places."""
    from tvm import relax

    places = sorted(order)
    axes = [places.index(axis) for axis in order]
    if axes == sorted(axes):
        return inner
    return relax.op.permute_dims(mutator.builder_.emit(inner), axes)


def _reshaped(_mutator: Any, call: Any) -> Any:
    """A transpose that leaves memory as it is, as a reshape."""
    from tvm import relax

    if not is_operator(call, "relax.permute_dims"):
        return call
    extents = shape_of(call.args[0])
    order = [axis for axis in _axes(call) if extents[axis] > 1]
    return relax.op.reshape(call.args[0], shape_of(call)) if order == sorted(order) else call


def _transposed(mutator: Any, expression: Any) -> Any | None:
    """The transpose that a variable is bound to."""
    from tvm import relax

    bound = mutator.lookup_binding(expression) if isinstance(expression, relax.Var) else None
    return bound if bound is not None and is_operator(bound, "relax.permute_dims") else None


def _axes(transpose: Any) -> tuple[int, ...]:
    axes = transpose.attrs.axes
    if axes is None:
        return tuple(reversed(range(len(shape_of(transpose)))))
    return tuple(int(axis) % len(axes) for axis in axes)


def _untransposed(operand: Any, axes: tuple[int, ...]) -> Any | None:
    """What gives this operand when it is transposed by ``axes``; None if it is no constant."""
    import numpy as np
    from tvm import relax

    if has_no_layout(operand):
        return operand
    if not is_constant(operand):
        return None
    value = operand.value.numpy()
    value = value.reshape((1,) * (len(axes) - value.ndim) + value.shape)
    return relax.const(np.ascontiguousarray(value.transpose(np.argsort(axes))))


def _laid_out(mutator: Any, call: Any) -> Any | None:
    """What a call of constants is: a reshape, a transpose, or what the importer asks of the limits
    of a Clip, whether they are numbers."""
    import numpy as np
    from tvm import relax

    name = str(getattr(call.op, "name", "")).removeprefix("relax.")
    known: dict[str, Callable[..., Any]] = {
        "permute_dims": lambda value: value.transpose(_axes(call)),
        "reshape": lambda value, shape: value.reshape(shape),
        "isnan": np.isnan,
        "where": np.where,
    }
    compute = known.get(name)
    values = [_value(mutator, argument) for argument in call.args] if compute is not None else []
    if compute is None or any(value is None for value in values):
        return None
    return relax.const(np.ascontiguousarray(compute(*values)).reshape(shape_of(call)))


def _value(mutator: Any, argument: Any) -> Any | None:
    """Of a constant or a shape; None of what is neither."""
    from tvm import relax

    if isinstance(argument, relax.ShapeExpr):
        return [int(extent) for extent in argument.values]
    bound = mutator.lookup_binding(argument) if isinstance(argument, relax.Var) else argument
    return bound.value.numpy() if is_constant(bound) else None


def _joined(first: Any, second: Any) -> Any:
    """Two transposes as one, or as none."""
    from tvm import relax

    inner = _axes(first)
    axes = [inner[axis] for axis in _axes(second)]
    if axes == sorted(axes):
        return first.args[0]
    return relax.op.permute_dims(first.args[0], axes)
