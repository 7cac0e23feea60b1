"""Transposed convolutions whose kernels don't overlap, as 1×1 convolutions and a shuffle of pixels.

Where a kernel is as large as its stride each output pixel comes of one input pixel, so that it is a
product with a matrix, and the results, kernel × kernel of them for each input pixel, are put where
they belong: the sub-pixel convolution of Shi et al. (CVPR 2016). TVM computes such a convolution as
one over a map with zeros in between. What does not mind the order of the pixels goes before the
shuffle: operators that work element by element, and 1×1 convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .expressions import (
    is_constant,
    is_dense_convolution,
    is_elementwise,
    is_operator,
    mutate,
    shape_of,
    tidied,
)
from .transposes import TO_FIRST, TO_LAST, has_no_layout


def as_products(module: Any) -> Any:
    """The module, channels first, with such convolutions as 1×1 ones, channels last."""
    return mutate(module, _as_product)


def sink_shuffles(module: Any) -> Any:
    """The module, channels last, with what can be before shuffles of pixels before them."""
    return tidied(mutate(module, _sunk))


def _as_product(mutator: Any, call: Any) -> Any:
    import numpy as np
    from tvm import relax

    if not is_operator(call, "relax.nn.conv2d_transpose") or not _is_product(call):
        return call
    data, weights = call.args
    value = weights.value.numpy()
    inputs, outputs, down, along = value.shape
    matrix = value.transpose(0, 2, 3, 1).reshape(1, 1, inputs, -1)
    made = relax.op.nn.conv2d(
        mutator.builder_.emit(relax.op.permute_dims(data, TO_LAST)),
        relax.const(np.ascontiguousarray(matrix)),
        data_layout="NHWC",
        kernel_layout="HWIO",
        out_layout="NHWC",
    )
    batch, _, rows, columns = shape_of(data)
    shuffle = _Shuffle((batch, rows, columns, down, along, outputs))
    shuffled = shuffle.emit(mutator, mutator.builder_.emit(made))
    return relax.op.permute_dims(mutator.builder_.emit(shuffled), TO_FIRST)


def _is_product(call: Any) -> bool:
    attributes, (data, weights) = call.attrs, call.args
    layouts = (attributes.data_layout, attributes.kernel_layout, attributes.out_layout)
    numbers = (*attributes.padding, *attributes.output_padding)
    return (
        layouts == ("NCHW", "IOHW", "NCHW")
        and int(attributes.groups) == 1
        and is_constant(weights)
        and str(call.ty.dtype) == str(data.ty.dtype)
        and [int(stride) for stride in attributes.strides] == list(shape_of(weights)[2:])
        and not any(int(number) for number in numbers)
        and all(int(dilation) == 1 for dilation in attributes.dilation)
    )


@dataclass(frozen=True)
class _Shuffle:
    """Of pixels, from (batch, rows, columns × down × along, channels) to (batch, rows × down,
    columns × along, channels); ``extents`` are batch, rows, columns, down, along, channels."""

    extents: tuple[int, int, int, int, int, int]

    def before(self, channels: int) -> tuple[int, ...]:
        """The shape of pixels in the order in which they were made, as a map."""
        batch, rows, columns, down, along, _ = self.extents
        return (batch, rows, columns * down * along, channels)

    def emit(self, mutator: Any, made: Any) -> Any:
        """The shuffle of what was made, whatever its shape is."""
        from tvm import relax

        batch, rows, columns, down, along, channels = self.extents
        split = mutator.builder_.emit(relax.op.reshape(made, self.extents))
        ordered = mutator.builder_.emit(relax.op.permute_dims(split, [0, 1, 3, 2, 4, 5]))
        return relax.op.reshape(ordered, (batch, rows * down, columns * along, channels))


def _sunk(mutator: Any, call: Any) -> Any:
    if is_operator(call, "relax.nn.conv2d"):
        return _behind_convolution(mutator, call)
    return _behind_elements(mutator, call) if is_elementwise(call) else call


def _behind_convolution(mutator: Any, call: Any) -> Any:
    from tvm import relax

    data, weights = call.args
    found = _shuffled(mutator, data)
    attributes = call.attrs
    moves = [int(n) for n in (*attributes.strides, *attributes.padding, *shape_of(weights)[:2])]
    if found is None or not is_dense_convolution(call) or moves != [1, 1, 0, 0, 0, 0, 1, 1]:
        return call
    made, shuffle = found
    pixels = relax.op.reshape(made, shuffle.before(shuffle.extents[-1]))
    inner = relax.Call(call.op, [mutator.builder_.emit(pixels), weights], attributes)
    return _with_channels(shuffle, shape_of(weights)[-1]).emit(
        mutator, mutator.builder_.emit(inner)
    )


def _behind_elements(mutator: Any, call: Any) -> Any:
    from tvm import relax

    found = [_shuffled(mutator, argument) for argument in call.args]
    shuffles = {one[1] for one in found if one is not None}
    others = [a for a, one in zip(call.args, found, strict=True) if one is None]
    if len(shuffles) != 1 or not all(map(_is_for_channels, others)):
        return call
    (shuffle,) = shuffles
    shape = shuffle.before(shuffle.extents[-1])
    args = [
        a if one is None else mutator.builder_.emit(relax.op.reshape(one[0], shape))
        for a, one in zip(call.args, found, strict=True)
    ]
    inner = mutator.builder_.emit(relax.Call(call.op, args, call.attrs))
    return shuffle.emit(mutator, inner)


def _is_for_channels(operand: Any) -> bool:
    """Whether it is a number, or a constant with one for each channel."""
    if has_no_layout(operand):
        return True
    return is_constant(operand) and set(shape_of(operand)[:-1]) <= {1}


def _with_channels(shuffle: _Shuffle, channels: int) -> _Shuffle:
    return _Shuffle((*shuffle.extents[:-1], channels))


def _shuffled(mutator: Any, expression: Any) -> tuple[Any, _Shuffle] | None:
    """What a variable is a shuffle of, and which."""
    from tvm import relax

    chain, names = [expression], ("relax.reshape", "relax.permute_dims", "relax.reshape")
    for name in names:
        last = chain[-1]
        bound = mutator.lookup_binding(last) if isinstance(last, relax.Var) else None
        if bound is None or not is_operator(bound, name):
            return None
        if name == "relax.permute_dims" and list(map(int, bound.attrs.axes)) != [0, 1, 3, 2, 4, 5]:
            return None
        chain.append(bound.args[0])
    extents = shape_of(chain[2])
    if len(extents) != 6:
        return None
    shuffle = _Shuffle(extents)
    batch, rows, columns, down, along, channels = extents
    whole = (batch, rows * down, columns * along, channels)
    return (chain[3], shuffle) if shape_of(expression) == whole else None
