"""1×1 convolutions as matrix products, where no register tile divides rows and columns of a map.

A map of 7 × 7 has tiles of seven rows and nothing between that and one. For a 1×1 convolution the
map is a matrix of 49 rows, and one more makes that ten tiles of five (``padded_rows``). So such a
convolution becomes a product of the flattened map, which costs nothing: the memory stays as it is.
"""

from __future__ import annotations

from typing import Any

from .expressions import is_dense_convolution, is_operator, mutate, shape_of
from .padded_rows import padded_rows


def flatten_maps(module: Any) -> Any:
    """The module, channels last, with products instead of these convolutions."""
    return mutate(module, _product)


def _product(mutator: Any, call: Any) -> Any:
    """The product that a convolution is, in the convolution's shape; other calls as they are."""
    from tvm import relax

    if not is_operator(call, "relax.nn.conv2d") or not is_dense_convolution(call):
        return call
    attributes, (data, weights) = call.attrs, call.args
    value = weights.value.numpy()
    moves = [int(number) for number in (*attributes.strides, *attributes.padding)]
    batch, rows, columns, channels = shape_of(data)
    if (
        value.shape[:2] != (1, 1)
        or moves != [1, 1, 0, 0, 0, 0]
        or padded_rows(rows, columns) == rows
    ):
        return call
    flat = mutator.builder_.emit(relax.op.reshape(data, (batch, rows * columns, channels)))
    made = mutator.builder_.emit(relax.op.matmul(flat, relax.const(value[0, 0])))
    return relax.op.reshape(made, (batch, rows, columns, value.shape[-1]))
