"""Concatenations that need not be made."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from coordinator.frontend.importer import import_model
from protos.records import Shape
from tests.kernels import target_json

TARGET = target_json()
SHAPE = (1, 8, 12, 12)


def model(*behind: Any, filters: int = 8, also: bool = False) -> bytes:
    """Two convolutions, concatenated, then ``behind``, a list of nodes from "c" to "y"; "c" itself
    is an output if ``also``."""
    generator = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(generator.standard_normal(shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Conv", ["x", "w2"], ["b"], pads=[1, 1, 1, 1]),
        helper.make_node("Concat", ["r", "b"], ["c"], axis=1),
        *behind,
    ]
    weights = [
        weight("w1", 8, 8, 1, 1),
        weight("w2", 16, 8, 3, 3),
        weight("w3", filters, 24, 1, 1),
        weight("b3", filters),
        weight("wg", 24, 1, 3, 3),
    ]
    outputs = ["y", "c"] if also else ["y"]
    graph = helper.make_graph(
        nodes,
        "concats",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(onnx.shape_inference.infer_shapes(made).SerializeToString())


CONV = helper.make_node("Conv", ["c", "w3", "b3"], ["y"])
POOL = helper.make_node("MaxPool", ["c"], ["p"], kernel_shape=[3, 3], strides=[2, 2])
CONV_OF_POOL = helper.make_node("Conv", ["p", "w3", "b3"], ["y"])
DEPTHWISE = helper.make_node("Conv", ["c", "wg"], ["y"], group=24)
RELU = helper.make_node("Relu", ["c"], ["y"])
POOL_ONLY = helper.make_node("MaxPool", ["c"], ["y"], kernel_shape=[3, 3], strides=[2, 2])


@pytest.mark.parametrize(
    ("data", "concats"),
    [
        (model(CONV), 0),
        (model(POOL, CONV_OF_POOL), 0),
        (model(CONV, filters=64), 1),  # the sums would be larger than what is copied
        (model(CONV, also=True), 1),
        (model(DEPTHWISE), 1),
        (model(RELU), 1),
        (model(POOL_ONLY), 1),
    ],
)
def test_what_is_read_by_convolutions_alone_is_not_made(data: bytes, concats: int) -> None:
    imported = import_model(data, {"x": Shape(SHAPE)}, TARGET)
    (part,) = imported.parts
    names = [task.name for task in imported.tasks]
    assert sum("concatenate" in name for name in names) == concats, names
    module = tvm.ir.load_json(part.module_json)
    executable = relax.build(module, tvm.target.Target(json.loads(TARGET)))
    x = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    found = relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(x))
    found = [one.numpy() for one in ([found] if hasattr(found, "numpy") else found)]
    expected = onnxruntime.InferenceSession(data).run(None, {"x": x})
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())
