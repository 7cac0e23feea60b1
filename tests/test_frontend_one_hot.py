"""Products with one-hot rows as look-ups: the same rows, and zeros for what is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
import tvm
from onnx import TensorProto, helper
from tvm import relax

from coordinator.frontend.importer import import_model
from tests.kernels import target_json
from tests.models import make_model

TABLE = np.random.default_rng(0).standard_normal((9, 16)).astype(np.float32)


def embedding(known: Any) -> bytes:
    nodes = [
        helper.make_node("Unsqueeze", ["x", "last"], ["u"]),
        helper.make_node("Equal", ["u", "known"], ["e"]),
        helper.make_node("Cast", ["e"], ["h"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["h", "table"], ["m"]),
        helper.make_node("Relu", ["m"], ["y"]),
    ]
    weights = {"last": np.array([2]), "known": known, "table": TABLE}
    return make_model(nodes, {"x": [2, 7]}, {"y": [2, 7, 16]}, weights, {"x": TensorProto.INT32})


@pytest.mark.parametrize(
    ("known", "looked_up"),
    [
        (np.arange(9, dtype=np.int32).reshape(1, 1, 9), True),
        (np.arange(9, dtype=np.int32), True),
        (np.arange(9, dtype=np.int32)[::-1].copy(), False),
    ],
    ids=["in order", "a row", "not in order"],
)
def test_rows_of_the_table_and_zeros(known: Any, looked_up: bool) -> None:
    data = embedding(known)
    imported = import_model(data, {}, target_json(1))
    names = [task.name for task in imported.tasks]
    assert any("look_up" in name for name in names) is looked_up, names
    assert any("matmul" in name for name in names) is not looked_up, names
    module = tvm.ir.load_json(imported.parts[0].module_json)
    machine = relax.VirtualMachine(relax.build(module, tvm.target.Target("llvm")), tvm.cpu())
    x = np.array([[0, 8, 3, 9, -1, 2**31 - 1, -(2**31)], [1, 2, 3, 4, 5, 6, 7]], np.int32)
    output = machine["main"](tvm.runtime.tensor(x)).numpy()
    (expected,) = onnxruntime.InferenceSession(data).run(None, {"x": x})
    np.testing.assert_array_equal(output, expected)
    assert not expected[0, 3:].any()
