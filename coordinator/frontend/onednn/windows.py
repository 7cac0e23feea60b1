"""Convolutions, pooling and resizing as steps of a oneDNN program."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .graph import Array, Shape
from .node import Node, Translate

_ROUNDING_ERROR = 1e-4


def _window(
    n: Node, source: Sequence[int], kernel: Sequence[int]
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Strides, dilations, and padding at the begin and the end of the spatial axes."""
    rank = len(source)
    if not 1 <= rank <= 3:
        raise n.refuse(f"it has {rank} spatial axes")
    strides = n.ints("strides") or [1] * rank
    dilations = n.ints("dilations") or [1] * rank
    mode = n.attributes.get("auto_pad", b"NOTSET")
    if mode in (b"NOTSET", b""):
        pads = n.ints("pads") or [0] * 2 * rank
        if min(pads) < 0:
            raise n.refuse("it has negative pads")
        return strides, dilations, pads[:rank], pads[rank:]
    if mode == b"VALID":
        return strides, dilations, [0] * rank, [0] * rank
    begins, ends = [], []
    for size, width, stride, dilation in zip(source, kernel, strides, dilations, strict=True):
        needed = (math.ceil(size / stride) - 1) * stride + (width - 1) * dilation + 1 - size
        less = max(needed, 0) // 2
        more = max(needed, 0) - less
        begins.append(less if mode == b"SAME_UPPER" else more)
        ends.append(more if mode == b"SAME_UPPER" else less)
    return strides, dilations, begins, ends


def _grouped(weights: Array, groups: int) -> Shape:
    """The weights' shape with the groups as an axis of their own, as oneDNN has it."""
    shape: Shape = weights.shape
    return shape if groups == 1 else (groups, shape[0] // groups, *shape[1:])


def _conv(n: Node) -> str:
    weights = n.needed(1)
    source, groups = n.shape(0), n.attributes.get("group", 1)
    strides, dilations, begins, ends = _window(n, source[2:], weights.shape[2:])
    grouped = weights.reshape(_grouped(weights, groups))
    return _weighted(n, "convolution", grouped, (strides, dilations, begins, ends))


def _weighted(
    n: Node, op: str, weights: Array, window: tuple[list[int], list[int], list[int], list[int]]
) -> str:
    """With these weights as oneDNN has them, and the node's bias, if there is one."""
    strides, dilations, begins, ends = window
    reads = [n.read(0), n.graph.constant(weights)]
    if n.has(2):
        reads.append(n.graph.constant(n.needed(2)))
    return n.step(
        op,
        reads,
        n.result,
        bias=n.has(2),
        strides=strides,
        dilations=[one - 1 for one in dilations],
        begins=begins,
        ends=ends,
    )


def _conv_transpose(n: Node) -> str:
    weights = n.needed(1)
    source, groups = n.shape(0), n.attributes.get("group", 1)
    if "output_shape" in n.attributes or n.attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise n.refuse("its padding follows from the shape of its output")
    kernel = weights.shape[2:]
    strides, dilations, begins, _ = _window(n, source[2:], kernel)
    ends = [
        (size - 1) * stride + (width - 1) * dilation + 1 - begin - out
        for size, stride, width, dilation, begin, out in zip(
            source[2:], strides, kernel, dilations, begins, n.result[2:], strict=True
        )
    ]
    # ONNX has the axes of the weights as input and output channels, oneDNN the other way round.
    inputs, outputs = weights.shape[:2]
    turned = weights.reshape(groups, inputs // groups, outputs, *kernel).swapaxes(1, 2)
    shaped = turned if groups > 1 else turned[0]
    return _weighted(n, "deconvolution", shaped, (strides, dilations, begins, ends))


def _pool(n: Node) -> str:
    if len(n.outputs) > 1 and n.outputs[1]:
        raise n.refuse("it gives indices, too")
    source, kernel = n.shape(0), n.ints("kernel_shape") or []
    strides, dilations, begins, ends = _window(n, source[2:], kernel)
    # With ceil_mode the last window may reach beyond the padding.
    reached = [
        (out - 1) * stride + (width - 1) * dilation + 1 - size - begin
        for out, stride, width, dilation, size, begin in zip(
            n.result[2:], strides, kernel, dilations, source[2:], begins, strict=True
        )
    ]
    counts = n.op == "AveragePool" and n.attributes.get("count_include_pad", 0)
    if counts and any(needed > end for needed, end in zip(reached, ends, strict=True)):
        raise n.refuse("with ceil_mode a window reaches beyond the padding that is counted")
    average = "pooling_avg_include_padding" if counts else "pooling_avg_exclude_padding"
    return n.step(
        "pooling",
        [n.read(0)],
        n.result,
        algorithm=average if n.op == "AveragePool" else "pooling_max",
        kernel=kernel,
        strides=strides,
        dilations=[one - 1 for one in dilations],
        begins=begins,
        ends=[max(needed, end) for needed, end in zip(reached, ends, strict=True)],
    )


def whole_pool(n: Node, algorithm: str) -> str:
    """All of the spatial axes pooled to one element."""
    shape = n.shape(0)
    spatial = list(shape[2:])
    if not 1 <= len(spatial) <= 3:
        raise n.refuse(f"it has {len(spatial)} spatial axes")
    zeros = [0] * len(spatial)
    return n.step(
        "pooling",
        [n.read(0)],
        (*shape[:2], *(1 for _ in spatial)),
        algorithm=algorithm,
        kernel=spatial,
        strides=spatial,
        dilations=zeros,
        begins=zeros,
        ends=zeros,
    )


def _global_average(n: Node) -> str:
    return whole_pool(n, "pooling_avg_exclude_padding")


def _global_max(n: Node) -> str:
    return whole_pool(n, "pooling_max")


def _pad(n: Node) -> str:
    """Zeros around the spatial axes, which a convolution that reads it takes over."""
    pads = n.ints("pads", 1) or []
    rank = len(n.shape(0))
    value = n.attributes.get("value", 0.0)
    if n.has(2):
        value = float(n.needed(2).reshape(()))
    begins, ends = pads[:rank], pads[rank:]
    constant = n.attributes.get("mode", b"constant") == b"constant"
    if n.has(3) or not constant or value != 0.0 or rank < 3:
        raise n.refuse("it isn't zeros around all spatial axes")
    if min(pads) < 0 or any((*begins[:2], *ends[:2])):
        raise n.refuse("it pads other than spatial axes, or cuts")
    return n.step("pad", [n.read(0)], n.result, begins=begins[2:], ends=ends[2:])


def _resize(n: Node) -> str:
    source, target = n.shape(0), n.result
    mode = n.attributes.get("mode", b"nearest")
    if n.op == "Upsample":  # which Resize has replaced
        coordinates, rounding = b"asymmetric", b"floor"
    else:
        coordinates = n.attributes.get("coordinate_transformation_mode", b"half_pixel")
        rounding = n.attributes.get("nearest_mode", b"round_prefer_floor")
    if not 3 <= len(source) <= 5 or source[:2] != target[:2]:
        raise n.refuse("it resizes other than spatial axes")
    if n.attributes.get("antialias", 0) or n.attributes.get("exclude_outside", 0):
        raise n.refuse("oneDNN resizes without antialiasing")
    if n.attributes.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        raise n.refuse("it keeps the aspect ratio")
    scales = _scales(n, source, target)
    for size, out, scale in zip(source[2:], target[2:], scales, strict=True):
        same = size == out
        if mode == b"linear":
            half = coordinates == b"half_pixel" or (
                coordinates == b"pytorch_half_pixel" and out > 1
            )
            same = same or (half and math.isclose(scale, out / size))
        elif mode == b"nearest":
            same = same or _same_nearest(coordinates, rounding, size, out, scale)
        if not same:
            raise n.refuse(
                f"oneDNN has no {mode.decode()} resizing with {coordinates.decode()} coordinates "
                f"from {size} to {out}"
            )
    return n.step(
        "resampling",
        [n.read(0)],
        target,
        algorithm="nearest" if mode == b"nearest" else "bilinear",
    )


def _scales(n: Node, source: Shape, target: Shape) -> list[float]:
    """Of the spatial axes, as the node gives them; coordinates are divided by them."""
    given = None
    if "scales" in n.attributes:
        given = np.array(n.attributes["scales"])
    elif n.op == "Upsample" or n.opset < 11:
        given = n.needed(1)
    elif n.has(2) and n.needed(2).size:
        given = n.needed(2)
    if given is None or given.size != len(source):
        return [out / size for size, out in zip(source[2:], target[2:], strict=True)]
    return [float(one) for one in given[2:]]


def _same_nearest(coordinates: bytes, rounding: bytes, size: int, out: int, scale: float) -> bool:
    """Whether oneDNN takes the same elements: it rounds half-pixel coordinates."""
    index = np.arange(out, dtype=np.float64)
    if coordinates in (b"half_pixel", b"pytorch_half_pixel"):
        asked = (index + 0.5) / scale - 0.5
    elif coordinates == b"asymmetric":
        asked = index / scale
    else:
        return False
    theirs = np.clip(np.floor((index + 0.5) * size / out), 0, size - 1)
    # In float32, where two elements are equally near, either may be taken; an element that is
    # asked for exactly is found by both.
    found = []
    for small in (-_ROUNDING_ERROR, _ROUNDING_ERROR):
        near = asked + small
        if rounding in (b"floor", b"ceil"):
            exact = np.abs(asked - np.round(asked)) < _ROUNDING_ERROR
            near = np.where(exact, np.round(asked), near)
            near = np.floor(near) if rounding == b"floor" else np.ceil(near)
        else:
            near = np.round(near)
        found.append(np.array_equal(np.clip(near, 0, size - 1), theirs))
    return all(found)


WINDOWS: dict[str, Translate] = {
    "AveragePool": _pool,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "GlobalAveragePool": _global_average,
    "GlobalMaxPool": _global_max,
    "MaxPool": _pool,
    "Pad": _pad,
    "Resize": _resize,
    "Upsample": _resize,
}
