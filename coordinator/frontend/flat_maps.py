"""1×1 convolutions as matrix products, where no register tile divides rows and columns of a map.

A map of 7 × 7 has tiles of seven rows and nothing between that and one. For a 1×1 convolution the
map is a matrix of 49 rows, and one more makes that ten tiles of five (``padded_rows``). So such a
convolution becomes a product of the flattened map, which costs nothing: the memory stays as it is.
What works element by element behind it is done on flat maps, too, so that it stays fused.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .expressions import (
    is_constant,
    is_dense_convolution,
    is_elementwise,
    is_operator,
    mutate,
    shape_of,
    tidied,
)
from .padded_rows import padded_rows


def flatten_maps(module: Any) -> Any:
    """The module, channels last, with products instead of these convolutions."""
    return tidied(mutate(module, _flattened))


def _flattened(mutator: Any, call: Any) -> Any:
    if is_operator(call, "relax.reshape"):
        source = _flat(mutator, call.args[0])
        same = source is not None and shape_of(source) == shape_of(call)
        return source if same else call
    if is_operator(call, "relax.nn.conv2d"):
        product = _product(mutator, call)
        return call if product is None else product
    return _behind(mutator, call) if is_elementwise(call) else call


def _product(mutator: Any, call: Any) -> Any | None:
    """The product that a convolution is, in the convolution's shape."""
    from tvm import relax

    if not is_dense_convolution(call):
        return None
    attributes, (data, weights) = call.attrs, call.args
    value = weights.value.numpy()
    moves = [int(number) for number in (*attributes.strides, *attributes.padding)]
    batch, rows, columns, channels = shape_of(data)
    if (
        value.shape[:2] != (1, 1)
        or moves != [1, 1, 0, 0, 0, 0]
        or padded_rows(rows, columns) == rows
    ):
        return None
    flat = _flat(mutator, data)
    shape = (batch, rows * columns, channels)
    if flat is None or shape_of(flat) != shape:
        flat = mutator.builder_.emit(relax.op.reshape(data, shape))
    made = mutator.builder_.emit(relax.op.matmul(flat, relax.const(value[0, 0])))
    return relax.op.reshape(made, (batch, rows, columns, value.shape[-1]))


def _behind(mutator: Any, call: Any) -> Any:
    """What works element by element, on what was reshaped for it."""
    from tvm import relax

    shape = shape_of(call)
    flats = [_flat(mutator, argument) for argument in call.args]
    shapes = {shape_of(flat) for flat in flats if flat is not None}
    if len(shape) != 4 or len(shapes) != 1:
        return call
    (flat_shape,) = shapes
    if flat_shape != (shape[0], shape[1] * shape[2], shape[3]):
        return call
    args = [
        flat if flat is not None else _flattened_operand(mutator, argument, shape)
        for flat, argument in zip(flats, call.args, strict=True)
    ]
    if any(argument is None for argument in args):
        return call
    made = mutator.builder_.emit(relax.Call(call.op, args, call.attrs))
    return relax.op.reshape(made, shape)


def _flat(mutator: Any, expression: Any) -> Any | None:
    """What a map of four dimensions was reshaped from, if that has three."""
    from tvm import relax

    bound = mutator.lookup_binding(expression) if isinstance(expression, relax.Var) else None
    if bound is None or not is_operator(bound, "relax.reshape"):
        return None
    source = bound.args[0]
    return source if len(shape_of(source)) == 3 and len(shape_of(bound)) == 4 else None


def _flattened_operand(mutator: Any, argument: Any, map_shape: tuple[int, ...]) -> Any | None:
    """A number, a constant for each channel, or another map, for flat maps; None for others."""
    from tvm import relax

    if not isinstance(argument.ty, relax.TensorType):
        return argument
    shape = shape_of(argument)
    if shape == map_shape:
        flat = (shape[0], shape[1] * shape[2], shape[3])
        return mutator.builder_.emit(relax.op.reshape(argument, flat))
    if set(shape[:-1]) - {1}:
        return None
    if len(shape) < 4:
        return argument
    if not is_constant(argument):
        return None
    value = argument.value.numpy()
    return relax.const(np.ascontiguousarray(value.reshape(1, 1, shape[-1])))
