"""1×1 convolutions of maps that no tile divides, as products of flat maps."""

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
from coordinator.results.workspace import pipeline
from protos.records import Shape
from tests.kernels import target_json

TARGET = target_json()


def bottleneck(size: int) -> bytes:
    """Expansion, depthwise convolution, projection, and what came in added; a hard-swish and a
    squeeze on the way."""
    generator = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(generator.standard_normal(shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["e"]),
        helper.make_node("HardSwish", ["e"], ["h"]),
        helper.make_node("Conv", ["h", "wd"], ["d"], group=32, pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["d"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Sigmoid", ["g"], ["s"]),
        helper.make_node("Mul", ["r", "s"], ["m"]),
        helper.make_node("Conv", ["m", "w2"], ["p"]),
        helper.make_node("Add", ["p", "x"], ["a"]),
        helper.make_node("Conv", ["a", "w1", "b1"], ["f"]),
        helper.make_node("Add", ["f", "e"], ["y"]),
    ]
    weights = [
        weight("w1", 32, 16, 1, 1),
        weight("b1", 32),
        weight("wd", 32, 1, 3, 3),
        weight("w2", 16, 32, 1, 1),
    ]
    shape = [1, 16, size, size]
    graph = helper.make_graph(
        nodes,
        "bottleneck",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(onnx.shape_inference.infer_shapes(made).SerializeToString())


@pytest.mark.parametrize(("size", "products"), [(7, 3), (13, 3), (8, 0)])
def test_they_compute_the_same_and_stay_fused(size: int, products: int) -> None:
    data, shape = bottleneck(size), (1, 16, size, size)
    imported = import_model(data, {"x": Shape(shape)}, TARGET)
    (part,) = imported.parts
    calls = {task.name: task.weight for task in imported.tasks}
    assert sum(n for name, n in calls.items() if "matmul" in name) == products, calls
    assert not [name for name in calls if name.startswith("reshape")], "views are not run"
    heavy = [name for name in calls if "matmul" in name or "conv2d" in name]
    assert all(name.startswith("fused_") for name in heavy), calls
    module = tvm.ir.load_json(part.module_json)
    target = tvm.target.Target(json.loads(TARGET))
    with target:
        executable = relax.build(module, target, relax_pipeline=pipeline(target))
    machine = relax.VirtualMachine(executable, tvm.cpu())
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    found = machine["main"](tvm.runtime.tensor(x), *machine["workspace"]()).numpy()
    (expected,) = onnxruntime.InferenceSession(data).run(None, {"x": x})
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
