"""The operators that are compared: ONNX models of one fused operator each, weights seeded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Operator:
    """``model`` is an ONNX file; ``flops`` counts a multiplication with its addition as two."""

    name: str
    model: bytes = field(repr=False)
    flops: float


def matmul(size: int = 512) -> Operator:
    """Matrix product with a constant matrix, and relu: ``x`` (size, size) to ``y``."""
    model = _model(
        [_node("MatMul", ["x", "w"], "z"), _node("Relu", ["z"], "y")],
        (size, size),
        (size, size),
        {"w": (size, size)},
    )
    return Operator("matmul", model, 2.0 * size**3)


def conv2d(channels: int = 64, size: int = 56) -> Operator:
    """ResNet-18's 3×3 convolution with bias and relu, as many channels out as in."""
    shape = (1, channels, size, size)
    model = _model(
        [
            _node("Conv", ["x", "w", "b"], "z", pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
            _node("Relu", ["z"], "y"),
        ],
        shape,
        shape,
        {"w": (channels, channels, 3, 3), "b": (channels,)},
    )
    return Operator("conv2d", model, 2.0 * channels * channels * 9 * size * size)


def depthwise(channels: int = 96, size: int = 112) -> Operator:
    """MobileNetV2's depthwise 3×3 convolution of stride 2 with bias and relu; ``size`` is even."""
    out = size // 2
    model = _model(
        [
            _node(
                "Conv",
                ["x", "w", "b"],
                "z",
                pads=[1, 1, 1, 1],
                kernel_shape=[3, 3],
                strides=[2, 2],
                group=channels,
            ),
            _node("Relu", ["z"], "y"),
        ],
        (1, channels, size, size),
        (1, channels, out, out),
        {"w": (channels, 1, 3, 3), "b": (channels,)},
    )
    return Operator("depthwise", model, 2.0 * channels * 9 * out * out)


def operators(names: Sequence[str] = ()) -> list[Operator]:
    """Those of these names, or all three."""
    known = {operator.name: operator for operator in (matmul(), conv2d(), depthwise())}
    return [known[name] for name in names or known]


def _node(kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(kind, inputs, [output], **attributes)


def _model(
    nodes: list[Any],
    shape_in: Sequence[int],
    shape_out: Sequence[int],
    weights: Mapping[str, Sequence[int]],
) -> bytes:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(0)
    constants = [
        numpy_helper.from_array(generator.standard_normal(shape).astype(np.float32), name)
        for name, shape in weights.items()
    ]
    graph = helper.make_graph(
        nodes,
        "operator",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape_in)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape_out)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())
