"""Models with operators that can't be imported: cut into parts, and each part run by somebody."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from coordinator.frontend.importer import import_model
from coordinator.frontend.onnx_model import inspect_model, load_model
from coordinator.frontend.parts import Part, cut, reads
from coordinator.frontend.prepass import fold_constants
from coordinator.frontend.target import resolve_target
from protos.errors import BadModel
from tests import models

TARGET = resolve_target("auto", threads=1)


def folded(data: bytes) -> Any:
    return fold_constants(load_model(data, {}))


def nodes_of(model: Any, *operators: str) -> set[int]:
    return {i for i, node in enumerate(model.graph.node) if node.op_type in operators}


def operators(part: Part) -> list[str]:
    return [node.op_type for node in part.model.graph.node]


def run(model: Any, values: dict[str, Any]) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    wanted = {value.name: values[value.name] for value in session.get_inputs()}
    return dict(zip(names, session.run(names, wanted), strict=True))


def test_a_model_without_such_operators_is_one_part() -> None:
    model = folded(models.small_model())
    (part,) = cut(model, ())
    assert part.ours
    assert part.model is model


def test_parts_in_turn_compute_what_the_model_does() -> None:
    model = folded(models.recogniser())
    parts = cut(model, nodes_of(model, "LSTM"))
    assert [part.ours for part in parts] == [True, False, True]
    assert operators(parts[1]) == ["LSTM"]
    values = {"x": np.random.default_rng(1).random((1, 3, 16, 24), np.float32)}
    expected = run(model, values)["y"]
    for part in parts:
        values |= run(part.model, values)
    np.testing.assert_array_equal(values["y"], expected)


def test_a_part_without_heavy_arithmetic_stays_where_its_neighbours_are() -> None:
    model = folded(models.recogniser())
    parts = cut(model, nodes_of(model, "LSTM", "Conv"))
    # What lies between the convolution and the LSTM is pooling and turning.
    assert [part.ours for part in parts] == [False, True]
    assert "MatMul" in operators(parts[1])


def test_parts_that_do_not_depend_on_each_other_run_once_each() -> None:
    weight = np.eye(4, dtype=np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "left"),
        helper.make_node("Det", ["a"], ["d"], "middle"),
        helper.make_node("MatMul", ["x", "w"], ["b"], "right"),
        helper.make_node("Add", ["b", "d"], ["y"], "sum"),
    ]
    model = load_model(models.make_model(nodes, {"x": (4, 4)}, {"y": (4, 4)}, {"w": weight}), {})
    parts = cut(model, nodes_of(model, "Det"))
    assert [operators(part) for part in parts] == [["MatMul", "MatMul"], ["Det", "Add"]]
    assert [value.name for value in parts[1].model.graph.input] == ["a", "b"]


def test_what_follows_a_tensor_of_open_shape_is_not_ours() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "heavy"),
        helper.make_node("NonZero", ["a"], ["found"], "find"),
        helper.make_node("Cast", ["found"], ["numbers"], "cast", to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["numbers"], ["y"], "total", keepdims=0),
    ]
    weights = {"w": np.eye(4, dtype=np.float32)}
    model = load_model(models.make_model(nodes, {"x": (4, 4)}, {"y": ()}, weights), {})
    parts = cut(model, nodes_of(model, "NonZero"))
    assert [operators(part) for part in parts] == [["MatMul"], ["NonZero", "Cast", "ReduceSum"]]


def test_control_flow_reads_what_is_outside_of_it() -> None:
    inner = helper.make_graph(
        [helper.make_node("Add", ["state", "outer"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, ()),
            helper.make_tensor_value_info("on", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, (4, 4)),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, (4, 4)),
        ],
    )
    loop = helper.make_node("Loop", ["count", "", "a"], ["looped"], "loop", body=inner)
    assert set(reads(loop)) == {"count", "a", "outer"}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "first"),
        helper.make_node("MatMul", ["a", "w"], ["outer"], "second"),
        loop,
        helper.make_node("MatMul", ["looped", "w"], ["y"], "third"),
    ]
    weights = {"w": np.eye(4, dtype=np.float32) * 2, "count": np.array(3)}
    data = models.make_model(nodes, {"x": (4, 4)}, {"y": (4, 4)}, weights)
    inspect_model(data, {})
    imported = import_model(data, {}, TARGET)
    assert imported.theirs == ("Loop (node 'loop')",)
    assert [part.ours for part in imported.parts] == [True, False, True]
    assert set(imported.parts[1].inputs) == {"a", "outer"}


def test_each_part_of_ours_is_imported() -> None:
    imported = import_model(models.recogniser(), {}, TARGET)
    assert [part.ours for part in imported.parts] == [True, False, True]
    assert imported.theirs == ("LSTM (node 'memory')",)
    keys = {task.workload_key for task in imported.tasks}
    assert keys == imported.parts[0].workloads | imported.parts[2].workloads
    assert [(t.name, t.spec.shape) for t in imported.inputs] == [("x", (1, 3, 16, 24))]
    assert [(t.name, t.spec.shape) for t in imported.outputs] == [("y", (24, 1, 5))]


def test_an_operator_that_the_importer_refuses_goes_to_the_engine() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "heavy"),
        helper.make_node("TopK", ["a", "k"], ["y", "i"], "best", sorted=0),
    ]
    weights = {"w": np.eye(4, dtype=np.float32), "k": np.array([2])}
    data = models.make_model(
        nodes, {"x": (4, 4)}, {"y": (4, 2), "i": (4, 2)}, weights, {"i": TensorProto.INT64}
    )
    imported = import_model(data, {}, TARGET)
    assert imported.theirs == ("TopK (node 'best')",)
    assert [tensor.spec.dtype for tensor in imported.outputs] == ["float32", "int64"]


def test_an_output_of_open_shape_is_refused() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "heavy"),
        helper.make_node("NonZero", ["a"], ["y"], "find"),
    ]
    data = models.make_model(
        nodes,
        {"x": (4, 4)},
        {"y": (2, "n")},
        {"w": np.eye(4, dtype=np.float32)},
        {"y": TensorProto.INT64},
    )
    with pytest.raises(BadModel, match="the shape of 'y' depends on the model's input"):
        import_model(data, {}, TARGET)
