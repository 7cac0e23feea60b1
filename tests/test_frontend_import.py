"""Real models through the compiler's front half, and the keys of what comes out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from tvm import relax, topi

from coordinator.frontend.importer import import_model
from coordinator.frontend.tasks import extract_tasks
from coordinator.frontend.workload import canonical_workload, workload_key
from protos.errors import BadModel
from protos.records import TensorSpec
from tests import models

TARGET = '{"kind":"llvm","mcpu":"generic","mtriple":"x86_64-linux-gnu","num-cores":2}'
ROOT = Path(__file__).resolve().parent.parent

PRIM_FUNC = """
# from tvm.script import ir as I
# from tvm.script import tirx as T
@I.ir_module
class Module:
    @T.prim_func(s_tir=True)
    def main(A: T.Buffer(({size}, 4), "float32"), B: T.Buffer(({size}, 4), "float32")):
        for i, j in T.grid({size}, 4):
            with T.sblock("{block}"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = A[vi, vj] * T.float32(2)
"""

GOLDEN_KEY = "dc26d0df0e6d687669cde2f013232a5e"
"""Of PRIM_FUNC. A change means that every record in every log stops answering: then change
``KEY_VERSION``, too, and say so in the changelog."""


def _module(size: int = 8, block: str = "double", names: str = "AB") -> object:
    import tvm

    text = PRIM_FUNC.format(size=size, block=block)
    for old, new in zip("AB", names, strict=True):
        text = text.replace(f"{old}:", f"{new}:").replace(f"{old}[", f"{new}[")
    return tvm.script.from_source(text)


def test_the_key_of_a_known_function() -> None:
    assert workload_key(_module()) == GOLDEN_KEY


def test_a_key_does_not_see_names() -> None:
    assert workload_key(_module(names="XY", block="twice")) == workload_key(_module())


def test_a_key_sees_shapes() -> None:
    assert workload_key(_module(size=9)) != workload_key(_module())


def test_equal_keys_have_equal_canonical_text() -> None:
    import tvm

    texts = {
        tvm.ir.save_json(canonical_workload(module["main"]))  # type: ignore[index]
        for module in (_module(), _module(names="XY", block="twice"))
    }
    assert len(texts) == 1
    canonical = tvm.ir.load_json(texts.pop())
    assert workload_key(canonical) == workload_key(_module())


SCRIPT = """
import sys
from coordinator.frontend.importer import import_model
from tests import models
tasks = import_model(models.small_model(), {}, sys.argv[1]).tasks
print(tasks[0].workload_key)
"""


def test_a_key_is_the_same_in_every_process() -> None:
    keys = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT, TARGET],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(keys) == 1
    assert (
        keys.pop().strip() == import_model(models.small_model(), {}, TARGET).tasks[0].workload_key
    )


def test_a_small_model_is_one_task() -> None:
    imported = import_model(models.small_model(), {}, TARGET)
    (task,) = imported.tasks
    assert task.weight == 1
    assert task.num_outputs == 1
    shapes = [arg.shape for arg in task.args]
    assert shapes[-1] == (4, 16)
    assert sorted(shapes) == sorted([(4, 16), (1, 16, 16), (16,), (4, 16)])
    assert task.flops == pytest.approx(2 * 4 * 16 * 16 + 2 * 4 * 16)
    assert [(tensor.name, tensor.spec) for tensor in imported.inputs] == [
        ("x", TensorSpec((4, 16), "float32"))
    ]


def test_odd_names_are_kept_beside_the_sanitised_ones() -> None:
    data = models.make_model(
        [helper.make_node("Relu", ["gpu_0/data.0"], ["out:0"], "clamp")],
        {"gpu_0/data.0": (2, 3)},
        {"out:0": (2, 3)},
    )
    imported = import_model(data, {}, TARGET)
    assert imported.inputs[0].name == "gpu_0/data.0"
    assert imported.outputs[0].name == "out:0"


def test_a_kernel_with_two_outputs() -> None:
    x = relax.Var("x", relax.TensorType((2, 8), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            halves = builder.call_te(lambda t: topi.split(t, 2, axis=1), x)
            output = builder.emit_output(halves)
        builder.emit_func_output(output)
    (task,) = extract_tasks(builder.get())
    assert task.num_outputs == 2
    assert [arg.shape for arg in task.args] == [(2, 8), (2, 4), (2, 4)]


def test_a_node_that_the_importer_refuses_is_named() -> None:
    node = helper.make_node("TopK", ["x", "k"], ["y", "i"], "best", sorted=0)
    data = models.make_model(
        [node],
        {"x": (4, 5)},
        {"y": (4, 2), "i": (4, 2)},
        {"k": np.array([2], np.int64)},
        {"i": TensorProto.INT64},
    )
    with pytest.raises(
        BadModel, match=r"operator TopK \(node 'best'\) can't be imported: .*sorted"
    ):
        import_model(data, {}, TARGET)


def test_a_shape_that_depends_on_the_input_is_refused() -> None:
    node = helper.make_node("NonZero", ["x"], ["y"], "find")
    data = models.make_model(
        [node], {"x": (4, 5)}, {"y": (2, "n")}, dtypes={"y": TensorProto.INT64}
    )
    with pytest.raises(BadModel, match="the shape of 'y' depends on the model's input"):
        import_model(data, {}, TARGET)


def test_a_model_that_the_reference_refuses() -> None:
    node = helper.make_node("Add", ["x", "z"], ["y"], "sum")
    data = models.make_model([node], {"x": (4, 5), "z": (3, 5)}, {"y": (4, 5)})
    with pytest.raises(BadModel, match="ONNX Runtime, which gives the reference"):
        import_model(data, {}, TARGET)


def test_weights_and_order_of_a_real_model() -> None:
    model = models.magika_model()
    imported = import_model(model.data, model.shapes, TARGET)
    assert imported.tasks == tuple(
        sorted(imported.tasks, key=lambda task: (-task.weight * task.flops, task.workload_key))
    )
    assert len({task.workload_key for task in imported.tasks}) == len(imported.tasks)
    assert all(task.args and 1 <= task.num_outputs < len(task.args) for task in imported.tasks)
    assert imported.inputs[0].spec == TensorSpec((1, 2048), "int32")
    assert imported.outputs[0].spec == TensorSpec((1, 214), "float32")


def test_equal_operators_are_one_task_with_a_weight() -> None:
    weight = np.eye(8, dtype=np.float32) * 0.5
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Tanh", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "v"], ["c"]),
        helper.make_node("Tanh", ["c"], ["y"]),
    ]
    weights = {"w": weight, "v": weight * 2}
    data = models.make_model(nodes, {"x": (8, 8)}, {"y": (8, 8)}, weights)
    (task,) = import_model(data, {}, TARGET).tasks
    assert task.weight == 2
