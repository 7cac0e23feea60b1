"""Winograd's transforms with vectors of channels: the programs compute the same."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
import tvm
from tvm.s_tir import Schedule

from coordinator.frontend.importer import import_model
from coordinator.frontend.variants import Variant
from coordinator.search.evolution import Evolution
from coordinator.search.sketches import DrawnTiling, inlined_schedule
from coordinator.search.tile_sketches import register_tiling
from coordinator.search.transform_sketches import transform_tiling
from device_agent.build import register_intrinsics
from protos.records import Task
from tests.kernels import matmul, target_json
from tests.test_frontend_winograd import SAME, convolution_model

TARGET = target_json(2)


@pytest.fixture(scope="module", params=[(16, 16), (14, 9)], ids=["whole tiles", "tiles over edges"])
def tasks(request: pytest.FixtureRequest) -> dict[str, Task]:
    """Those of a convolution with bias and relu, by the first kernel's name in them."""
    rows, columns = request.param
    data = convolution_model((1, 32, rows, columns, 16), SAME)
    variants: tuple[Variant, ...] = import_model(data, {}, TARGET).variants
    imported = import_model(data, {}, TARGET, {variants[0].convolution: 4})
    names = ("winograd_input", "winograd_products", "winograd_output")
    return {name: task for name in names for task in imported.tasks if name in task.name}


def _tiling(module: Any) -> DrawnTiling | None:
    register_intrinsics(TARGET)
    target = tvm.target.Target(json.loads(TARGET))
    return transform_tiling(inlined_schedule(module, target), target, random.Random(0))


def _outputs(module: Any, inputs: list[Any]) -> Any:
    function = tvm.compile(module, target=tvm.target.Target(json.loads(TARGET))).jit()["main"]
    arguments = [tvm.runtime.tensor(array) for array in inputs]
    function(*arguments)
    return arguments[-1].numpy()


@pytest.mark.parametrize("name", ["winograd_input", "winograd_output"])
def test_programs_with_vectors_of_channels_compute_the_same(
    tasks: dict[str, Task], name: str
) -> None:
    module = tvm.ir.load_json(tasks[name].workload_json)
    tiling = _tiling(module)
    assert tiling is not None
    generator = np.random.default_rng(0)
    arrays = [generator.random(spec.shape, np.float32) for spec in tasks[name].args]
    expected = _outputs(module, arrays).copy()
    trace = tiling.draw(serial=False)
    for serial in (False, True, True, False):
        schedule = Schedule(module)
        trace.apply_to_schedule(schedule, remove_postproc=True)
        script = str(schedule.mod.script())
        assert "T.vectorized" in script
        assert ('scope="local"' in script) is (name == "winograd_output")
        np.testing.assert_allclose(_outputs(schedule.mod, arrays), expected, rtol=1e-5, atol=1e-6)
        following = tiling.step(trace, serial)
        assert following is not None
        trace = following


def test_other_blocks_have_none(tasks: dict[str, Task]) -> None:
    assert _tiling(tvm.IRModule({"main": matmul()})) is None
    assert _tiling(tvm.ir.load_json(tasks["winograd_products"].workload_json)) is None


def test_the_products_have_register_tiles(tasks: dict[str, Task]) -> None:
    module = tvm.ir.load_json(tasks["winograd_products"].workload_json)
    target = tvm.target.Target(json.loads(TARGET))
    assert register_tiling(inlined_schedule(module, target), target, random.Random(0)) is not None


def test_the_search_makes_programs_of_them(tasks: dict[str, Task]) -> None:
    register_intrinsics(TARGET)
    target = tvm.target.Target(json.loads(TARGET))
    for task in tasks.values():
        evolution = Evolution(tvm.ir.load_json(task.workload_json), target, task.name, 0)
        programs = evolution.sample([False, True] * 2)
        assert [program.serial for program in programs] == [False, True] * 2
        assert evolution.mutate(programs, [False])
