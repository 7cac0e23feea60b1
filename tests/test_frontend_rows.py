"""Softmax and layer normalisation with vectors along the rows."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
import tvm
from onnx import helper
from tvm.s_tir import Schedule

from coordinator.frontend.importer import import_model
from coordinator.search.row_sketches import row_tiling
from coordinator.search.sketches import inlined_schedule
from coordinator.search.transform_sketches import transform_tiling
from device_agent.build import register_intrinsics
from protos.records import Task
from tests.kernels import matmul, target_json
from tests.models import make_model
from tests.test_frontend_layouts import compare

LENGTHS = [16, 17, 31, 192, 197]


def softmax(shape: tuple[int, ...], axis: int = -1) -> bytes:
    node = helper.make_node("Softmax", ["x"], ["y"], axis=axis)
    return make_model([node], {"x": shape}, {"y": shape})


def layer_norm(shape: tuple[int, ...], bias: bool = True) -> bytes:
    generator = np.random.default_rng(0)
    weights = {name: generator.random(shape[-1]).astype(np.float32) for name in ("a", "b")}
    inputs = ["x", "a", "b"] if bias else ["x", "a"]
    node = helper.make_node("LayerNormalization", inputs, ["y"], epsilon=1e-5)
    used = {name: weights[name] for name in inputs[1:]}
    return make_model([node], {"x": shape}, {"y": shape}, used)


def vectors(imported: Any) -> bool:
    """Whether the kernels come with vectors of their own."""
    return any("T.vectorized" in str(tvm.ir.load_json(t.workload_json)) for t in imported.tasks)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("outer", [(5,), (2, 3, 4)])
def test_softmax(outer: tuple[int, ...], length: int) -> None:
    assert vectors(compare(softmax((*outer, length)), 1e-6))


@pytest.mark.parametrize("length", LENGTHS)
def test_layer_normalisation(length: int) -> None:
    assert vectors(compare(layer_norm((2, 7, length)), 2e-6))


@pytest.mark.parametrize(
    "data",
    [softmax((4, 15)), softmax((20, 32), axis=0), softmax((2, 5000)), softmax((64,))],
    ids=["short", "columns", "long", "a row"],
)
def test_others_are_left_to_tvm(data: bytes) -> None:
    assert not vectors(compare(data, 1e-5))


def test_a_layer_normalisation_without_bias() -> None:
    compare(layer_norm((3, 40), bias=False), 2e-6)


def test_large_numbers_and_one_that_leads_by_far() -> None:
    scale = helper.make_node("Mul", ["x", "c"], ["m"])
    node = helper.make_node("Softmax", ["m"], ["y"], axis=-1)
    shape = (3, 21)
    factors = np.full((1, 21), 40.0, np.float32)
    compare(make_model([scale, node], {"x": shape}, {"y": shape}, {"c": factors}), 1e-6)


def test_softmax_reads_a_product_with_the_columns_that_are_too_many() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "k"], ["s"]),
        helper.make_node("Softmax", ["s"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "x"], ["y"]),
    ]
    shift = [helper.make_node("Transpose", ["x"], ["k"], perm=[0, 2, 1])]
    data = make_model([*shift, *nodes], {"x": (2, 37, 24)}, {"y": (2, 37, 24)})
    imported = compare(data, 1e-5)
    assert not [task.name for task in imported.tasks if "cut" in task.name]
    assert vectors(imported)


@pytest.fixture(scope="module", params=[softmax((2, 6, 37)), layer_norm((12, 40))])
def task(request: pytest.FixtureRequest) -> Task:
    (task,) = import_model(request.param, {}, target_json(2)).tasks
    return task


def test_programs_that_divide_the_rows_compute_the_same(task: Task) -> None:
    register_intrinsics(target_json(2))
    target = tvm.target.Target(json.loads(target_json(2)))
    module = tvm.ir.load_json(task.workload_json)
    tiling = row_tiling(inlined_schedule(module, target), target, random.Random(0))
    assert tiling is not None
    generator = np.random.default_rng(0)
    arrays = [generator.random(spec.shape, np.float32) for spec in task.args]

    def output(scheduled: Any) -> Any:
        arguments = [tvm.runtime.tensor(array) for array in arrays]
        tvm.compile(scheduled, target=target).jit()["main"](*arguments)
        return arguments[-1].numpy()

    expected = output(module)
    trace = tiling.draw(serial=True)
    for serial in (False, True, False):
        trace = tiling.step(trace, serial)
        schedule = Schedule(module)
        trace.apply_to_schedule(schedule, remove_postproc=True)
        assert ("T.parallel" in str(schedule.mod.script())) is not serial
        np.testing.assert_array_equal(output(schedule.mod), expected)
    assert transform_tiling(inlined_schedule(module, target), target, random.Random(0)) is None


def test_other_blocks_have_no_rows() -> None:
    target = tvm.target.Target(json.loads(target_json(2)))
    register_intrinsics(target_json(2))
    assert (
        row_tiling(
            inlined_schedule(tvm.IRModule({"main": matmul()}), target), target, random.Random(0)
        )
        is None
    )
