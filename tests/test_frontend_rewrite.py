"""Rewrites of the graph: what they change, what they leave, and that the numbers stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
import tvm
from onnx import TensorProto, helper

from coordinator.frontend.importer import import_model
from tests.kernels import target_json
from tests.models import make_model
from tests.test_frontend_layouts import compare

TARGET = target_json(1)


def _kernels(module: Any) -> str:
    return "\n".join(
        function.script()
        for function in module.functions.values()
        if isinstance(function, tvm.tirx.PrimFunc)
    )


def _divided(divisor: Any, dtype: int = TensorProto.FLOAT) -> bytes:
    node = helper.make_node("Div", ["x", "c"], ["y"])
    return make_model(
        [node], {"x": [4, 8]}, {"y": [4, 8]}, {"c": divisor}, {"x": dtype, "y": dtype}
    )


def _imported(data: bytes) -> Any:
    return tvm.ir.load_json(import_model(data, {}, TARGET).parts[0].module_json)


@pytest.mark.parametrize("divisor", [np.float32(6.0), np.arange(1, 9, dtype=np.float32)])
def test_dividing_by_a_constant_becomes_multiplying(divisor: Any) -> None:
    data = _divided(divisor)
    module = _imported(data)
    assert " / " not in _kernels(module)
    from tvm import relax

    executable = relax.build(module, tvm.target.Target({"kind": "llvm"}))
    x = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    output = relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(x)).numpy()
    (expected,) = onnxruntime.InferenceSession(data).run(None, {"x": x})
    np.testing.assert_allclose(output, expected, rtol=3e-7)


def test_integers_and_divisors_without_a_reciprocal_are_left_alone() -> None:
    integer = _kernels(_imported(_divided(np.int32(6), TensorProto.INT32)))
    assert "div" in integer.lower() or "//" in integer
    subnormal = _kernels(_imported(_divided(np.float32(1e-42))))  # 1e42 is no float32
    assert " / " in subnormal


def test_a_normalisation_is_a_product_and_a_sum() -> None:
    generator = np.random.default_rng(0)
    constants = {name: generator.random(4).astype(np.float32) + 0.5 for name in "abmv"}
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("BatchNormalization", ["r", *constants], ["y"]),
    ]
    shape = [2, 4, 3, 5]
    (task,) = compare(make_model(nodes, {"x": shape}, {"y": shape}, constants)).tasks
    assert task.name == "fused_relu_multiply_add"


def test_the_pieces_of_a_split_are_fused_with_what_reads_them() -> None:
    nodes = [
        helper.make_node("Split", ["x", "sizes"], ["a", "b"], axis=-1),
        helper.make_node("Sigmoid", ["b"], ["s"]),
        helper.make_node("Mul", ["a", "s"], ["y"]),
    ]
    data = make_model(nodes, {"x": [2, 3, 8]}, {"y": [2, 3, 4]}, {"sizes": np.array([4, 4])})
    (task,) = compare(data).tasks
    assert [arg.shape for arg in task.args] == [(2, 3, 8), (2, 3, 4)]
