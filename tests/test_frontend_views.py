"""Reshapes behind elementwise operators: what is between a product and a reshape stays fused."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper

from tests.models import make_model
from tests.test_frontend_layouts import compare


def node(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


def model(nodes: list[Any], outputs: dict[str, Any]) -> bytes:
    generator = np.random.default_rng(0)
    weights = {
        "w": generator.standard_normal((24, 32)).astype(np.float32) / 5,
        "v": generator.standard_normal((32, 24)).astype(np.float32) / 5,
        "b": generator.standard_normal(32).astype(np.float32),
        "half": np.float32(0.5),
        "flat": np.array([6, 24]),
        "wide": np.array([2, 3, 32]),
        "narrow": np.array([2, 3, 24]),
        "rows": np.array([6, 32]),
    }
    used = {name for one in nodes for name in one.input}
    kept = {name: value for name, value in weights.items() if name in used}
    return make_model(nodes, {"x": [2, 3, 24]}, outputs, kept)


def kernels(imported: Any) -> list[str]:
    """Without the copy of an output that is a view of something else."""
    names = (name for task in imported.tasks for name in [task.name] * task.weight)
    return sorted(name for name in names if not name.startswith("reshape"))


def test_an_activation_and_a_residual_behind_reshapes() -> None:
    nodes = [
        node("Reshape", "x flat", "f"),
        node("MatMul", "f w", "m"),
        node("Reshape", "m wide", "r"),
        node("Add", "r b", "a"),
        node("Sigmoid", "a", "s"),
        node("Mul", "a s", "h"),
        node("Reshape", "h rows", "g"),
        node("MatMul", "g v", "n"),
        node("Reshape", "n narrow", "o"),
        node("Add", "o x", "p"),
        node("Mul", "p half", "y"),
    ]
    names = kernels(compare(model(nodes, {"y": [2, 3, 24]})))
    assert len(names) == 2, names
    assert all("matmul" in name for name in names)


def test_what_is_needed_in_its_shape_is_left() -> None:
    nodes = [
        node("Reshape", "x flat", "f"),
        node("MatMul", "f w", "m"),
        node("Reshape", "m wide", "r"),
        node("ReduceMax", "r", "top", axes=[1], keepdims=1),
        node("Sub", "r top", "d"),
        node("Exp", "d", "y"),
    ]
    names = kernels(compare(model(nodes, {"y": [2, 3, 32]})))
    assert any("subtract" in name and "exp" in name for name in names), names


def test_a_constant_for_each_channel_is_repeated_where_rows_are_split() -> None:
    nodes = [
        node("Reshape", "x flat", "f"),
        node("MatMul", "f w", "m"),
        node("Reshape", "m more", "r"),
        node("Mul", "r e", "y"),
    ]
    weights = {
        "w": np.random.default_rng(0).standard_normal((24, 32)).astype(np.float32),
        "flat": np.array([6, 24]),
        "more": np.array([6, 4, 8]),
        "e": np.arange(1, 9, dtype=np.float32),
    }
    data = make_model(nodes, {"x": [2, 3, 24]}, {"y": [6, 4, 8]}, weights)
    (task,) = [task for task in compare(data).tasks if "matmul" in task.name]
    assert [arg.shape for arg in task.args][2:] == [(1, 32), (6, 32)]


def test_several_reshapes_are_one() -> None:
    nodes = [
        node("Relu", "x", "a"),
        node("Reshape", "a flat", "f"),
        node("Reshape", "f narrow", "g"),
        node("Sigmoid", "g", "y"),
    ]
    assert kernels(compare(model(nodes, {"y": [2, 3, 24]}))) == ["fused_relu_tir_sigmoid"]
