"""Matrix products, normalisation, softmax and reductions as steps of a oneDNN program."""

from __future__ import annotations

import math

import numpy as np

from .graph import Shape
from .node import Node, Translate
from .windows import whole_pool

_REDUCTIONS = {
    "ReduceMax": "reduction_max",
    "ReduceMean": "reduction_mean",
    "ReduceMin": "reduction_min",
    "ReduceSum": "reduction_sum",
}
_POOLS = {"ReduceMax": "pooling_max", "ReduceMean": "pooling_avg_exclude_padding"}


def _matmul(n: Node) -> str:
    left, right = n.read(0), n.read(1)
    one, other = n.graph.shapes[left], n.graph.shapes[right]
    if min(len(one), len(other)) < 2:
        raise n.refuse("one of its operands is a vector")
    if len(other) == 2 and right in n.graph.constants:
        rows = n.view(left, (math.prod(one[:-1]), one[-1]))
        made = n.step("matmul", [rows, right], (math.prod(one[:-1]), other[1]), bias=False)
        return n.view(made, n.result)
    rank = max(len(one), len(other))
    left = n.view(left, (1,) * (rank - len(one)) + one)
    right = n.view(right, (1,) * (rank - len(other)) + other)
    return n.step("matmul", [left, right], n.result, bias=False)


def _gemm(n: Node) -> str:
    alpha, beta = (float(n.attributes.get(key, 1.0)) for key in ("alpha", "beta"))
    left, right = n.read(0), n.read(1)
    if n.attributes.get("transA", 0):
        left = _turned(n, left)
    if n.attributes.get("transB", 0):
        right = _turned(n, right)
    made = n.step("matmul", [left, right], n.result, bias=False)
    if alpha != 1.0:
        made = n.eltwise(made, "linear", alpha)
    if not n.has(2):
        return made
    added = n.read(2)
    if beta != 1.0:
        added = n.eltwise(added, "linear", beta)
    if n.array(2) is not None and beta == 1.0:
        array = n.graph.constants[added]
        if array.size == 1:
            return n.eltwise(made, "linear", 1.0, float(array.reshape(())))
    shape = n.graph.shapes[added]
    added = n.view(added, (1,) * (2 - len(shape)) + shape)
    return n.step("binary", [made, added], n.result, algorithm="add")


def _turned(n: Node, name: str) -> str:
    shape = n.graph.shapes[name]
    if name in n.graph.constants:
        return n.graph.constant(n.graph.constants[name].T)
    return n.step("transpose", [name], shape[::-1], order=[1, 0])


def _softmax(n: Node) -> str:
    shape = n.shape(0)
    axis = n.attributes.get("axis", -1 if n.opset >= 13 else 1) % len(shape)
    if n.opset < 13 and math.prod(shape[axis + 1 :]) != 1:
        raise n.refuse("before opset 13 it is over several axes")
    algorithm = "softmax" if n.op == "Softmax" else "softmax_log"
    return n.step("softmax", [n.read(0)], shape, algorithm=algorithm, axis=axis)


def _layer_normalization(n: Node) -> str:
    if any(n.outputs[1:]):
        raise n.refuse("it gives mean and deviation, too")
    shape = n.shape(0)
    axis = n.attributes.get("axis", -1) % len(shape)
    width = math.prod(shape[axis:])
    flat = (*(shape[:axis] or (1,)), width)
    scale = np.broadcast_to(n.needed(1), shape[axis:]).reshape(-1)
    shift = np.zeros(width) if not n.has(2) else n.needed(2)
    shift = np.broadcast_to(shift, shape[axis:] if n.has(2) else (width,)).reshape(-1)
    made = n.step(
        "layer_normalization",
        [n.view(n.read(0), flat), n.graph.constant(scale), n.graph.constant(shift)],
        flat,
        epsilon=float(n.attributes.get("epsilon", 1e-5)),
    )
    return n.view(made, shape)


def _batch_normalization(n: Node) -> str:
    if n.attributes.get("training_mode", 0) or any(n.outputs[1:]):
        raise n.refuse("it is for training")
    shape = n.shape(0)
    scale, bias, mean, variance = (n.needed(index).astype(np.float64) for index in range(1, 5))
    factor = scale / np.sqrt(variance + n.attributes.get("epsilon", 1e-5))
    channels: Shape = (1, factor.size, *(1 for _ in shape[2:]))
    made = n.step(
        "binary",
        [n.read(0), n.graph.constant(factor.reshape(channels))],
        shape,
        algorithm="mul",
    )
    shift = n.graph.constant((bias - mean * factor).reshape(channels))
    return n.step("binary", [made, shift], shape, algorithm="add")


def _reduce(n: Node) -> str:
    shape = n.shape(0)
    rank = len(shape)
    axes = n.ints("axes", 1)
    if not axes and n.attributes.get("noop_with_empty_axes", 0):
        return n.read(0)
    axes = sorted(axis % rank for axis in axes or range(rank))
    if n.op in _POOLS and 3 <= rank <= 5 and axes == list(range(2, rank)):
        made = whole_pool(n, _POOLS[n.op])
    else:
        kept = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
        made = n.read(0)
        if kept != shape:  # oneDNN refuses to do nothing
            made = n.step("reduction", [made], kept, algorithm=_REDUCTIONS[n.op])
    return n.view(made, n.result)


LAYERS: dict[str, Translate] = {
    **dict.fromkeys(_REDUCTIONS, _reduce),
    "BatchNormalization": _batch_normalization,
    "Gemm": _gemm,
    "LayerNormalization": _layer_normalization,
    "LogSoftmax": _softmax,
    "MatMul": _matmul,
    "Softmax": _softmax,
}
