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
