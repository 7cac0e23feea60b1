"""A 1×1 convolution and the depthwise one behind it in one kernel: found, right, and tiled."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tvm
from onnx import helper
from tvm import relax
from tvm.s_tir import Schedule

from coordinator.frontend.importer import ImportedModel, import_model
from coordinator.frontend.legalization import CHAINED
from coordinator.search.chain_sketches import ChainLoops, ChainSpace, chain_tiling
from coordinator.search.sketches import inlined_schedule
from coordinator.search.tile_sketches import register_tiling
from device_agent.build import register_intrinsics
from protos.records import Task
from tests.kernels import matmul, target_json
from tests.models import make_model

TARGET = target_json(2)


def block(
    rows: int = 40,
    channels: int = 48,
    kernel: int = 3,
    stride: int = 1,
    activation: str = "Clip",
    pads: tuple[int, int, int, int] | None = None,
    twice: bool = False,
) -> bytes:
    """An inverted bottleneck's first half; ``twice`` has something else read what is between."""
    generator = np.random.default_rng(0)
    weights = {
        "w": generator.standard_normal((channels, 8, 1, 1)) / 3,
        "b": generator.standard_normal(channels),
        "d": generator.standard_normal((channels, 1, kernel, kernel)) / kernel,
        "e": generator.standard_normal(channels),
        "low": np.zeros(()),
        "high": np.full((), 6.0),
    }
    between = {
        "Clip": [helper.make_node("Clip", ["c", "low", "high"], ["r"])],
        "Swish": [
            helper.make_node("Sigmoid", ["c"], ["s"]),
            helper.make_node("Mul", ["c", "s"], ["r"]),
        ],
    }[activation]
    around = list(pads or [kernel // 2] * 4)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"]),
        *between,
        helper.make_node(
            "Conv", ["r", "d", "e"], ["f"], group=channels, strides=[stride] * 2, pads=around
        ),
        helper.make_node("Relu", ["f"], ["g"]),
    ]
    outputs: dict[str, Any] = {"g": None}
    if twice:
        nodes.append(helper.make_node("Neg", ["r"], ["n"]))
        outputs["n"] = None
    used = {name for node in nodes for name in node.input}
    kept = {name: value.astype(np.float32) for name, value in weights.items() if name in used}
    return make_model(nodes, {"x": [1, 8, rows, rows]}, outputs, kept)


def chained(data: bytes) -> ImportedModel:
    """The model with its chain in one kernel."""
    (variant,) = import_model(data, {}, TARGET).variants
    assert variant.tile == CHAINED
    return import_model(data, {}, TARGET, {variant.convolution: CHAINED})


def chain_task(data: bytes) -> Task:
    (task,) = [task for task in chained(data).tasks if task.name.startswith("chain")]
    return task


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2},
        {"kernel": 5, "activation": "Swish"},
        {"kernel": 5, "stride": 2, "rows": 42},
        {"pads": (0, 0, 1, 1), "stride": 2},
    ],
    ids=lambda options: "-".join(f"{k}={v}" for k, v in options.items()) or "plain",
)
def test_a_chain_computes_the_same(options: dict[str, Any]) -> None:
    data = block(**options)
    imported = chained(data)
    names = [task.name for task in imported.tasks]
    assert not [name for name in names if "conv2d" in name or "pointwise" in name], names
    module = tvm.ir.load_json(imported.parts[0].module_json)
    machine = relax.VirtualMachine(relax.build(module, tvm.target.Target("llvm")), tvm.cpu())
    shape = imported.inputs[0].spec.shape
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    output = machine["main"](tvm.runtime.tensor(x)).numpy()
    (expected,) = onnxruntime.InferenceSession(data).run(None, {"x": x})
    np.testing.assert_allclose(output, expected, atol=1e-5 * np.abs(expected).max())


def test_a_variant_says_which_kernels_it_is_instead_of() -> None:
    data = block()
    direct = import_model(data, {}, TARGET)
    (variant,) = direct.variants
    heavy = {task.workload_key for task in direct.tasks if "conv2d" in task.name}
    assert {key for key, count in variant.change.items() if count < 0} == heavy
    (made,) = (key for key, count in variant.change.items() if count > 0)
    assert made == chain_task(data).workload_key
    assert made in {task.workload_key for task in direct.variant_tasks}


@pytest.mark.parametrize(
    "data",
    [
        block(twice=True),
        block(rows=12),
        block(channels=24),
        block(rows=20, channels=160, kernel=7),
    ],
    ids=["read twice", "small", "no whole pieces", "much padding"],
)
def test_others_are_no_chains(data: bytes) -> None:
    assert not import_model(data, {}, TARGET).variants


@pytest.mark.parametrize("stride", [1, 2])
def test_tiled_programs_compute_the_same(stride: int) -> None:
    register_intrinsics(TARGET)
    target = tvm.target.Target(json.loads(TARGET))
    task = chain_task(block(stride=stride))
    module = tvm.ir.load_json(task.workload_json)
    tiling = chain_tiling(inlined_schedule(module, target), target, random.Random(0))
    assert tiling is not None
    assert register_tiling(inlined_schedule(module, target), target, random.Random(0)) is None
    generator = np.random.default_rng(0)
    arrays = [generator.standard_normal(spec.shape, np.float32) for spec in task.args]

    def output(scheduled: Any) -> Any:
        arguments = [tvm.runtime.tensor(array) for array in arrays]
        tvm.compile(scheduled, target=target).jit()["main"](*arguments)
        return arguments[-1].numpy()

    expected = output(module)
    trace = tiling.draw(serial=False)
    for serial in (False, True, False, False):
        schedule = Schedule(module)
        trace.apply_to_schedule(schedule, remove_postproc=True)
        script = str(schedule.mod.script())
        assert script.count('scope="local"') == 2
        assert "T.vectorized" in script
        np.testing.assert_allclose(output(schedule.mod), expected, rtol=1e-5, atol=1e-5)
        trace = tiling.step(trace, serial)


def test_other_workloads_have_no_such_tiles() -> None:
    register_intrinsics(TARGET)
    target = tvm.target.Target(json.loads(TARGET))
    assert (
        chain_tiling(
            inlined_schedule(tvm.IRModule({"main": matmul()}), target), target, random.Random(0)
        )
        is None
    )


LOOPS = ChainLoops(
    rows=56,
    columns=56,
    channels=144,
    inputs=24,
    kernel=(3, 3),
    strides=(2, 2),
    run=16,
    width=8,
    registers=16,
    threads=2,
)


def test_factors_divide_the_loops_and_fit_registers_and_cache() -> None:
    rng, space = random.Random(0), ChainSpace(LOOPS)
    factors = space.draw(rng)
    for _ in range(300):
        factors = space.change(factors, rng)
        rows, columns, channels, read_rows, read_columns, inputs = factors
        assert np.prod(rows) == np.prod(columns) == 56
        assert np.prod(channels) == 144
        assert np.prod(inputs) == 24
        taken = 56 // rows[0]
        assert np.prod(read_rows) == (taken - 1) * 2 + 3
        assert np.prod(read_columns) == 113
        block, lanes = 144 // channels[0], channels[2]
        assert 4 * np.prod(read_rows) * 113 * block <= 512 << 10
        assert rows[0] * channels[0] >= 2, "there is work for both threads"
        for high, wide in ((rows[2], columns[1]), (read_rows[1], read_columns[1])):
            assert 3 <= high * wide * lanes / 8 <= 14


def test_channels_that_no_vector_divides_are_refused() -> None:
    with pytest.raises(ValueError, match="no vector fits"):
        ChainSpace(replace(LOOPS, run=4))
