"""Tuned workloads as the operators that a latency model learns from (pure)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from cost_model.latency import (
    DENSE,
    DEPTHWISE,
    ELEMENTWISE,
    MOVE,
    NORMALISE,
    POOL,
    PRODUCTS,
    REDUCE,
    Operator,
)
from protos.records import TensorSpec

_HARD = frozenset(("sigmoid", "tanh", "exp", "erf", "sqrt", "rsqrt", "log", "power", "softplus"))
_FREE = frozenset(("fused", "tir", "reshape", "squeeze", "expanddims", "broadcastto", "cast"))
_MOVES = frozenset(
    (
        *("transpose", "concatenate", "stridedslice", "split", "take", "pad", "resize2d", "stack"),
        *("tile", "gather", "layouttransform", "widen", "lookup"),
    )
)
_POOLS = frozenset(("maxpool2d", "avgpool2d", "maxpool1d", "avgpool1d"))
_ROWS = frozenset(("layernorm", "softmax", "logsoftmax"))
_SUMS = frozenset(("mean", "sum", "max", "min", "prod"))
_DENSE = frozenset(("conv2d", "conv1d", "matmul"))
_LONG_NAMES = re.compile(
    "(strided_slice|winograd_(?:input|products|output)|(?:max|avg)_pool[12]d|layer_norm|"
    "log_softmax|look_up|broadcast_to|layout_transform|expand_dims)"
)


def operator_of(name: str, args: Sequence[TensorSpec], num_outputs: int) -> Operator | None:
    """The operator of a workload by the compiler's name for it and its parameters.

    None of one that no operator of a model stands for: two convolutions in one kernel.
    """
    words = _words(name)
    inputs, outputs = args[: len(args) - num_outputs], args[len(args) - num_outputs :]
    if "chain" in words or not inputs or not outputs:
        return None
    if "winogradproducts" in words and len(inputs) == 2 and len(inputs[1].shape) == 4:
        return _winograd_products(inputs[0], inputs[1], outputs[0])
    if _DENSE & set(words) and len(inputs) >= 2:
        return _convolution(words, inputs, outputs)
    counted = [word for word in words if word not in _FREE]
    return Operator(
        _light_kind(counted, inputs, outputs),
        in_bytes=_bytes(inputs),
        out_bytes=_bytes(outputs),
        steps=max(0, len(counted) - 1),
        hard=sum(word in _HARD for word in counted),
    )


def _words(name: str) -> list[str]:
    """`fused_conv2d3_tir_sigmoid` is conv2d and sigmoid, and what is only the compiler's."""
    joined = _LONG_NAMES.sub(lambda match: match[0].replace("_", ""), name)
    # The digits that tell operators of one name apart; those of `conv2d` are followed by a letter.
    return [re.sub(r"\d+$", "", word) for word in joined.split("_") if word]


def _light_kind(
    words: Sequence[str], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> str:
    has = set(words)
    if has & _POOLS:
        return POOL
    if has & _ROWS:
        return NORMALISE
    if has & _SUMS and _bytes(inputs) > 2 * _bytes(outputs):
        return REDUCE
    return MOVE if has & _MOVES else ELEMENTWISE


def _winograd_products(x: TensorSpec, weights: TensorSpec, out: TensorSpec) -> Operator:
    tiles, positions, depth = x.shape
    width = weights.shape[1] * weights.shape[3]
    return products(tiles, positions, depth, width, float(weights.size_bytes), out.size_bytes)


def products(
    tiles: int, positions: int, depth: int, width: int, weight_bytes: float, out_bytes: float
) -> Operator:
    """Winograd's products: at each position, ``tiles`` × ``depth`` times ``depth`` × ``width``."""
    rows = tiles * positions
    return Operator(
        PRODUCTS,
        macs=float(rows) * depth * width,
        rows=rows,
        depth=depth,
        width=width,
        in_bytes=4.0 * rows * depth,
        second_bytes=weight_bytes,
        out_bytes=out_bytes,
    )


def _convolution(
    words: Sequence[str], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> Operator | None:
    counted = [word for word in words if word not in _FREE]
    x, weights, out = inputs[0].shape, inputs[1].shape, outputs[0].shape
    matrix = "matmul" in words
    found = _matrix(weights, out) if matrix else _kernel(weights, out)
    if found is None:
        return None
    kind, depth, width, window = found
    # A gate's tiny convolution is followed by a product with a map, whose size the output has.
    gate = not matrix and len(x) == 4 and math.prod(x[:3]) == 1
    rows = 1 if gate else max(1, math.prod(out) // max(1, out[-1]))
    return Operator(
        kind,
        macs=float(rows) * depth * width,
        rows=rows,
        depth=depth,
        width=width,
        window=window,
        in_bytes=float(inputs[0].size_bytes),
        second_bytes=float(inputs[1].size_bytes),
        other_bytes=_bytes(inputs[2:]),
        out_bytes=_bytes(outputs),
        steps=len(counted) - 1,
        hard=sum(word in _HARD for word in counted),
    )


def _matrix(weights: Sequence[int], out: Sequence[int]) -> tuple[str, int, int, int] | None:
    if len(weights) == 3 and weights[2] != out[-1] and weights[0] * weights[2] >= out[-1]:
        return DENSE, weights[1], weights[0] * weights[2], 1  # packed: blocks of columns
    depth = weights[-2] if len(weights) > 1 else weights[0]
    return DENSE, depth, weights[-1] if len(weights) > 1 else 1, 1


def _kernel(weights: Sequence[int], out: Sequence[int]) -> tuple[str, int, int, int] | None:
    """Kind, depth, width and window, by the layout that the weights are in."""
    if len(weights) == 5:  # packed: blocks of output channels
        blocks, high, wide, depth, lanes = weights
        return DENSE, high * wide * depth, blocks * lanes, high * wide
    if len(weights) == 4 and weights[2] == 1 and weights[3] == out[-1]:
        window = weights[0] * weights[1]
        return DEPTHWISE, window, weights[3], window
    return None


def _bytes(specs: Sequence[TensorSpec]) -> float:
    """Of all that are more than a single number, which is as good as a part of the code."""
    return float(sum(spec.size_bytes for spec in specs if math.prod(spec.shape) > 1))
