"""Channels last: the same numbers, no transposes between convolutions, weights laid out before."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
import tvm
from onnx import helper
from tvm import relax

from coordinator.frontend.importer import import_model
from coordinator.frontend.target import resolve_target
from tests import models
from tests.models import make_model

TARGET = resolve_target("auto", threads=1)


def compare(data: bytes, tolerance: float = 1e-5) -> Any:
    """Run the untuned module beside ONNX Runtime; returns what was imported."""
    imported = import_model(data, {}, TARGET)
    (part,) = imported.parts
    executable = relax.build(tvm.ir.load_json(part.module_json), tvm.target.Target("llvm"))
    (tensor,) = imported.inputs
    x = np.random.default_rng(0).standard_normal(tensor.spec.shape).astype(np.float32)
    output = relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(x)).numpy()
    (expected,) = onnxruntime.InferenceSession(data).run(None, {tensor.name: x})
    np.testing.assert_allclose(output, expected, atol=tolerance * np.abs(expected).max())
    return imported


def transposes(imported: Any) -> int:
    """How often the module's kernels move a tensor to another layout."""
    return sum(task.weight for task in imported.tasks if "transpose" in task.name)


def net(*between: Any, channels: int = 8) -> bytes:
    """Two convolutions with these nodes, which go from ``c0`` to ``mid``, in between."""
    generator = np.random.default_rng(0)
    weights = {
        "w0": generator.standard_normal((channels, 3, 3, 3)).astype(np.float32),
        "w1": generator.standard_normal((4, channels, 1, 1)).astype(np.float32),
        "low": np.float32(0.0),
        "high": np.float32(6.0),
        "one": np.full((1,), 0.5, np.float32),
        "bias": generator.standard_normal((1, channels, 1, 1)).astype(np.float32),
        "reduce_axes": np.array([2, 3]),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"], "first", pads=[1, 1, 1, 1]),
        *between,
        helper.make_node("Conv", ["mid", "w1"], ["y"], "second"),
    ]
    used = {name for node in nodes for name in node.input}
    kept = {name: value for name, value in weights.items() if name in used}
    return make_model(nodes, {"x": [1, 3, 10, 12]}, {"y": None}, kept)


@pytest.mark.parametrize(
    "between",
    [
        [helper.make_node("Relu", ["c0"], ["mid"])],
        [helper.make_node("Clip", ["c0", "low", "high"], ["mid"])],
        [helper.make_node("Mul", ["c0", "one"], ["mid"])],
        [helper.make_node("Add", ["c0", "bias"], ["mid"])],
        [helper.make_node("HardSwish", ["c0"], ["mid"])],
        [helper.make_node("Sigmoid", ["c0"], ["s"]), helper.make_node("Mul", ["c0", "s"], ["mid"])],
        [
            helper.make_node("MaxPool", ["c0"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Relu", ["p"], ["mid"]),
        ],
        [
            helper.make_node("GlobalAveragePool", ["c0"], ["g"]),
            helper.make_node("Mul", ["c0", "g"], ["mid"]),
        ],
        [
            helper.make_node("Concat", ["c0", "c0"], ["t"], axis=2),
            helper.make_node("Relu", ["t"], ["mid"]),
        ],
    ],
    ids=lambda nodes: "-".join(node.op_type for node in nodes),
)
def test_only_the_ends_of_a_net_are_transposed(between: list[Any]) -> None:
    assert transposes(compare(net(*between))) <= 2


def test_a_convolutions_weights_are_laid_out_beforehand() -> None:
    imported = compare(net(helper.make_node("Relu", ["c0"], ["mid"])))
    shapes = {arg.shape for task in imported.tasks for arg in task.args}
    assert (1, 3, 3, 3, 8) in shapes, "packed: one piece of eight filters"
    assert (1, 10, 12, 8) in shapes
    assert (8, 3, 3, 3) not in shapes


@pytest.mark.parametrize("groups", [8, 2])
def test_groups(groups: int) -> None:
    weight = np.random.default_rng(0).standard_normal((16, 8 // groups, 3, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv", group=groups, strides=[2, 2])
    compare(make_model([node], {"x": [1, 8, 9, 11]}, {"y": [1, 16, 4, 5]}, {"w": weight}))


def test_a_transposed_convolution_that_overlaps_stays_channels_first() -> None:
    weight = np.random.default_rng(0).standard_normal((8, 4, 3, 3)).astype(np.float32)
    up = helper.make_node("ConvTranspose", ["c0", "wt"], ["up"], "up", strides=[2, 2])
    down = helper.make_node("Conv", ["up", "w1"], ["y"], "second")
    first = helper.make_node("Conv", ["x", "w0"], ["c0"], "first", pads=[1, 1, 1, 1])
    generator = np.random.default_rng(1)
    weights = {
        "w0": generator.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "w1": generator.standard_normal((4, 4, 1, 1)).astype(np.float32),
        "wt": weight,
    }
    imported = compare(make_model([first, up, down], {"x": [1, 3, 10, 12]}, {"y": None}, weights))
    assert [task for task in imported.tasks if "conv2d_transpose" in task.name]


def test_a_whole_net() -> None:
    imported = compare(models.mobilenet_v2(64), 1e-4)
    assert transposes(imported) <= 2


def test_a_model_without_convolutions_stays_as_it_is() -> None:
    imported = import_model(models.small_model(), {}, TARGET)
    assert transposes(imported) == 0


def one_dimensional() -> bytes:
    """A convolution along the tokens, as TensorFlow's exporter writes it."""
    generator = np.random.default_rng(0)
    weights = {
        "w": generator.standard_normal((24, 16, 5, 1)).astype(np.float32) / 9,
        "b": generator.standard_normal((24, 1)).astype(np.float32),
        "last": np.array([3]),
        "begin": np.zeros(4, np.int64),
        "end": np.full(4, 2**31 - 1),
    }
    nodes = [
        helper.make_node("Unsqueeze", ["x", "last"], ["u"]),
        helper.make_node("Slice", ["u", "begin", "end"], ["s"]),
        helper.make_node("Transpose", ["s"], ["t"], perm=[0, 2, 1, 3]),
        helper.make_node("Conv", ["t", "w"], ["c"]),
        helper.make_node("Squeeze", ["c", "last"], ["q"]),
        helper.make_node("Add", ["q", "b"], ["a"]),
        helper.make_node("Tanh", ["a"], ["h"]),
        helper.make_node("Mul", ["a", "h"], ["g"]),
        helper.make_node("ReduceMax", ["g"], ["y"], axes=[2], keepdims=0),
    ]
    return make_model(nodes, {"x": [1, 40, 16]}, {"y": [1, 24]}, weights)


def test_a_one_dimensional_convolution_has_its_channels_last() -> None:
    imported = compare(one_dimensional())
    names = [task.name for task in imported.tasks]
    assert transposes(imported) == 0, names
    (heavy,) = [task for task in imported.tasks if "conv2d" in task.name]
    assert heavy.args[-1].shape == (1, 36, 1, 24)
    assert "tanh" in heavy.name, names


def test_a_model_that_tvms_pass_can_not_convert() -> None:
    model = models.magika_model()
    imported = import_model(model.data, model.shapes, TARGET)
    (heavy,) = [task for task in imported.tasks if "conv2d" in task.name]
    assert heavy.args[-1].shape == (1, 508, 1, 512)
    assert transposes(imported) == 0
