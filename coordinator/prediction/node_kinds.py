"""What each operator of ONNX costs: its kind, what is fused into it, and its shape (pure)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cost_model.latency import DENSE, DEPTHWISE, ELEMENTWISE, MOVE, NORMALISE, POOL, REDUCE

FREE = frozenset(
    ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Dropout", "Shape", "Size")
)
"""Another view of the same memory, or arithmetic of shapes."""

ELEMENTWISE_KINDS = (ELEMENTWISE, MOVE)

_DENSE = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "LSTM", "GRU", "RNN")
_KINDS = {
    **dict.fromkeys(_DENSE, DENSE),
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), POOL),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "ArgMax", "ArgMin", "TopK"), REDUCE),
    **dict.fromkeys(("Softmax", "LogSoftmax", "LayerNormalization", "LRN"), NORMALISE),
    **dict.fromkeys(("InstanceNormalization", "GroupNormalization"), NORMALISE),
    **dict.fromkeys(("Transpose", "Concat", "Slice", "Split", "Gather", "Pad", "Resize"), MOVE),
    **dict.fromkeys(("Upsample", "Tile", "Expand", "DepthToSpace", "SpaceToDepth"), MOVE),
    **dict.fromkeys(("GatherND", "GatherElements", "ScatterND", "OneHot"), MOVE),
}
UNKNOWN = frozenset(
    (
        *("QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger"),
        *("Attention", "MultiHeadAttention", "GroupQueryAttention", "FusedMatMul", "DeformConv"),
    )
)
"""Products whose shapes are not read here: taken for elementwise ones, they would cost nothing."""

_STEPS = {"Clip": 2, "HardSigmoid": 3, "HardSwish": 4, "Gelu": 5, "PRelu": 2, "Mish": 4}
_STEPS |= {"BatchNormalization": 2, "Elu": 3, "Selu": 4, "LeakyRelu": 2, "Swish": 2}
_HARD = frozenset(
    (
        *("Sigmoid", "Tanh", "Exp", "Erf", "Sqrt", "Log", "Pow", "Gelu", "Softplus", "Mish", "Elu"),
        *("Selu", "Swish", "Reciprocal", "Sin", "Cos"),
    )
)


@dataclass(frozen=True)
class Tensor:
    """Dimensions, and bytes of an element."""

    shape: tuple[int, ...]
    item_bytes: int

    @property
    def size_bytes(self) -> int:
        """What its elements take; a single number is a part of the code."""
        elements = math.prod(self.shape)
        return elements * self.item_bytes if elements > 1 else 0


@dataclass(frozen=True)
class Anchor:
    """The matrix product that a heavy node stands for (``cost_model.latency.Operator``)."""

    kind: str
    rows: int
    depth: int
    width: int
    window: int = 1
    stride: int = 1
    out_hw: tuple[int, int] | None = None


def kind_of(op_type: str) -> str:
    """One of ``cost_model.latency``'s kinds; elementwise is what nothing else is known of."""
    return REDUCE if op_type.startswith("Reduce") else _KINDS.get(op_type, ELEMENTWISE)


def steps_of(op_type: str) -> int:
    """Into how many elementwise operations the compiler splits it."""
    return _STEPS.get(op_type, 1)


def hard_steps(op_type: str) -> int:
    """1 if one of them is no plain arithmetic."""
    return int(op_type in _HARD)


def anchor_of(node: Any, tensors: Mapping[str, Tensor]) -> Anchor:
    """The product that a heavy node stands for; raises KeyError for a tensor of unknown shape."""
    if node.op_type == "ConvTranspose":
        x, weights = tensors[node.input[0]].shape, tensors[node.input[1]].shape
        rows = x[0] * math.prod(x[2:])
        return Anchor(DENSE, rows, weights[0], math.prod(weights[1:]))
    if node.op_type in ("LSTM", "GRU", "RNN"):
        x, weights = tensors[node.input[0]].shape, tensors[node.input[1]].shape
        hidden = tensors[node.input[2]].shape[2]
        return Anchor(DENSE, math.prod(x[:-1]), weights[2] + hidden, weights[0] * weights[1])
    out = tensors[node.output[0]].shape
    if node.op_type == "Conv":
        return _convolution(node, out, tensors[node.input[1]].shape)
    if node.op_type == "Einsum":
        return _einsum(node, out, [tensors[name].shape for name in node.input])
    x = tensors[node.input[0]].shape
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    width = out[-1] if len(tensors[node.input[1]].shape) > 1 else 1
    rows = max(1, math.prod(out) // max(1, width))
    return Anchor(DENSE, rows, x[0] if transposed else x[-1], width)


def _convolution(node: Any, out: tuple[int, ...], weights: tuple[int, ...]) -> Anchor:
    attributes = {attribute.name: attribute for attribute in node.attribute}
    groups = attributes["group"].i if "group" in attributes else 1
    strides = tuple(attributes["strides"].ints) if "strides" in attributes else (1,)
    width, depth, window = weights[0], weights[1], math.prod(weights[2:])
    rows = out[0] * math.prod(out[2:])
    # As the tuned kernel of a depthwise one does: a window for each channel.
    kind = DEPTHWISE if groups > 1 and depth == 1 else DENSE
    flat = (out[2], out[3]) if len(out) == 4 and groups == 1 else None
    return Anchor(kind, rows, depth * window, width, window, max(strides), flat)


def _einsum(node: Any, out: tuple[int, ...], inputs: list[tuple[int, ...]]) -> Anchor:
    equation = next(a.s.decode() for a in node.attribute if a.name == "equation")
    terms = re.sub(r"\s|\.", "", equation).partition("->")[0].split(",")
    sizes = {
        letter: size
        for term, shape in zip(terms, inputs, strict=False)
        for letter, size in zip(term[::-1], shape[::-1], strict=False)
    }
    width = out[-1] if out else 1
    rows = max(1, math.prod(out) // max(1, width))
    return Anchor(DENSE, rows, max(1, math.prod(sizes.values()) // max(1, rows * width)), width)
