"""Models for tests: real trained ones out of installed packages, and small ones made here."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from device_agent.examples import read_examples
from protos.records import Shape


@dataclass(frozen=True)
class RealModel:
    """A trained model's file and the shapes to fix its open dimensions with."""

    file_name: str
    data: bytes = field(repr=False)
    shapes: Mapping[str, Shape]


def _packaged(distribution: str, file_name: str) -> bytes:
    """Read from the package's files: it was installed without what it would need to be imported."""
    files = importlib.metadata.files(distribution) or []
    path = next(path for path in files if str(path).endswith(file_name))
    return path.locate().read_bytes()


def cls_model() -> RealModel:
    """PP-OCR's text direction classifier, 0.6 MB."""
    name = "ch_ppocr_mobile_v2.0_cls_infer.onnx"
    data = _packaged("rapidocr-onnxruntime", name)
    return RealModel(name, data, {"x": Shape((1, 3, 48, 192))})


def det_model(size: int = 320) -> RealModel:
    """PP-OCRv4's text detector, 4.7 MB."""
    name = "ch_PP-OCRv4_det_infer.onnx"
    data = _packaged("rapidocr-onnxruntime", name)
    return RealModel(name, data, {"x": Shape((1, 3, size, size))})


def magika_model() -> RealModel:
    """Magika's file type classifier, 3.2 MB, on integers."""
    data = _packaged("magika", "model.onnx")
    return RealModel("magika.onnx", data, {"bytes": Shape((1, 2048))})


def make_model(
    nodes: Sequence[Any],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Mapping[str, Sequence[int | str] | None],
    weights: Mapping[str, Any] | None = None,
    dtypes: Mapping[str, int] | None = None,
) -> bytes:
    """An ONNX file of opset 17; everything is float32 unless ``dtypes`` says otherwise."""
    types = dtypes or {}

    def value(name: str, shape: Sequence[int | str] | None) -> Any:
        return helper.make_tensor_value_info(name, types.get(name, TensorProto.FLOAT), shape)

    graph = helper.make_graph(
        list(nodes),
        "test",
        [value(name, shape) for name, shape in inputs.items()],
        [value(name, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("org.example", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return bytes(model.SerializeToString())


def small_model(size: int = 16) -> bytes:
    """Matmul, bias, relu: ``x`` (4, size) to ``y`` (4, size)."""
    generator = np.random.default_rng(0)
    return make_model(
        [
            helper.make_node("MatMul", ["x", "w"], ["xw"], "multiply"),
            helper.make_node("Add", ["xw", "b"], ["biased"], "bias"),
            helper.make_node("Relu", ["biased"], ["y"], "clamp"),
        ],
        {"x": (4, size)},
        {"y": (4, size)},
        {
            "w": generator.standard_normal((size, size)).astype(np.float32),
            "b": generator.standard_normal(size).astype(np.float32),
        },
    )


def examples_of(packed: bytes) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Inputs and expected outputs of each example in an .npz of these."""
    return [(dict(one.inputs), dict(one.outputs)) for one in read_examples(packed)]


def several_steps(count: int) -> bytes:
    """Matrix products with bias and relu, each another operator: ``x`` (4, 16) to ``y``."""
    generator = np.random.default_rng(0)
    nodes, weights, tensor = [], {}, "x"
    for step in range(count):
        width = 16 + 8 * step
        weights[f"w{step}"] = generator.standard_normal((width, width + 8)).astype(np.float32) * 0.3
        weights[f"b{step}"] = generator.standard_normal(width + 8).astype(np.float32)
        after = "y" if step == count - 1 else f"r{step}"
        nodes += [
            helper.make_node("MatMul", [tensor, f"w{step}"], [f"p{step}"], f"multiply{step}"),
            helper.make_node("Add", [f"p{step}", f"b{step}"], [f"a{step}"], f"bias{step}"),
            helper.make_node("Relu", [f"a{step}"], [after], f"relu{step}"),
        ]
        tensor = after
    return make_model(nodes, {"x": (4, 16)}, {"y": (4, 16 + 8 * count)}, weights)


def recogniser() -> bytes:
    """A convolution, an LSTM, which TVM's importer lacks, and a classifier: ``x`` to ``y``."""
    generator = np.random.default_rng(0)

    def weight(*shape: int) -> Any:
        return (generator.standard_normal(shape) * 0.2).astype(np.float32)

    return make_model(
        [
            helper.make_node("Conv", ["x", "w0", "b0"], ["c0"], "conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c0"], ["r0"], "relu"),
            helper.make_node("MaxPool", ["r0"], ["p0"], "pool", kernel_shape=[16, 1]),
            helper.make_node("Squeeze", ["p0", "height"], ["s0"], "row"),
            helper.make_node("Transpose", ["s0"], ["t0"], "steps", perm=[2, 0, 1]),
            helper.make_node("LSTM", ["t0", "lw", "lr"], ["l0"], "memory", hidden_size=8),
            helper.make_node("Squeeze", ["l0", "direction"], ["l1"], "one_way"),
            helper.make_node("MatMul", ["l1", "wo"], ["logits"], "head"),
            helper.make_node("Softmax", ["logits"], ["y"], "likely"),
        ],
        {"x": (1, 3, 16, 24)},
        {"y": (24, 1, 5)},
        {
            "w0": weight(16, 3, 3, 3),
            "b0": weight(16),
            "wo": weight(8, 5),
            "lw": weight(1, 32, 16),
            "lr": weight(1, 32, 8),
            "height": np.array([2]),
            "direction": np.array([1]),
        },
    )


class _Net:
    """Collects the nodes and random weights of a convolutional net."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: dict[str, Any] = {}
        self._generator = np.random.default_rng(0)

    def add(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{operator.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def weight(self, *shape: int) -> str:
        name = f"weight{len(self.weights)}"
        scale = np.sqrt(2.0 / max(1, int(np.prod(shape[1:]))))
        self.weights[name] = (self._generator.standard_normal(shape) * scale).astype(np.float32)
        return name

    def conv(self, x: str, c_in: int, c_out: int, kernel: int, stride: int, group: int = 1) -> str:
        pads = [kernel // 2] * 4
        inputs = [x, self.weight(c_out, c_in // group, kernel, kernel), self.weight(c_out)]
        return self.add(
            "Conv", inputs, group=group, strides=[stride] * 2, pads=pads, kernel_shape=[kernel] * 2
        )

    def relu6(self, x: str) -> str:
        for name, value in (("zero", 0.0), ("six", 6.0)):
            self.weights.setdefault(name, np.float32(value))
        return self.add("Clip", [x, "zero", "six"])


def mobilenet_v2(size: int = 224) -> bytes:
    """MobileNetV2 (Sandler et al., 2018) with seeded random weights: ``x`` to ``logits``."""
    net = _Net()
    x, channels = net.relu6(net.conv("x", 3, 32, 3, 2)), 32
    stages = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)]
    stages += [(6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for expand, c_out, repeats, first_stride in stages:
        for stride in [first_stride] + [1] * (repeats - 1):
            hidden = channels * expand
            y = x if expand == 1 else net.relu6(net.conv(x, channels, hidden, 1, 1))
            y = net.relu6(net.conv(y, hidden, hidden, 3, stride, group=hidden))
            y = net.conv(y, hidden, c_out, 1, 1)
            x = net.add("Add", [x, y]) if stride == 1 and channels == c_out else y
            channels = c_out
    x = net.relu6(net.conv(x, channels, 1280, 1, 1))
    x = net.add("Flatten", [net.add("GlobalAveragePool", [x])])
    net.nodes.append(
        helper.make_node("Gemm", [x, net.weight(1280, 1000), net.weight(1000)], ["logits"], "head")
    )
    return make_model(net.nodes, {"x": (1, 3, size, size)}, {"logits": (1, 1000)}, net.weights)


def parse(data: bytes) -> Any:
    """The ModelProto of an ONNX file."""
    return onnx.ModelProto.FromString(data)
