"""Matrix products whose rows and columns no tile divides."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax, tirx
from tvm.s_tir import Schedule

from coordinator.frontend.legalization import legalize
from coordinator.frontend.padded_rows import padded_rows
from coordinator.frontend.products import padded_columns
from coordinator.search.sketches import inlined_schedule
from coordinator.search.tile_sketches import register_tiling
from tests.kernels import target_json

TARGET = target_json()


def test_rows_and_columns_are_rounded_up_where_no_tile_divides_them() -> None:
    rows = (1, 3, 4, 7, 11, 13, 37, 49, 109, 197)
    assert [padded_rows(n) for n in rows] == [1, 3, 4, 8, 12, 15, 39, 50, 110, 198]
    assert [padded_rows(n, 13) for n in (1, 8, 13, 109)] == [1, 8, 15, 110]
    assert [padded_rows(n, 8) for n in (1, 13, 109)] == [1, 13, 109], (
        "a tile of one row and four columns"
    )
    assert [padded_rows(n, n) for n in (2, 7, 9, 10, 17, 27, 55)] == [2, 8, 9, 10, 18, 27, 55]
    assert [padded_columns(n) for n in (1, 7, 12, 13, 64, 197)] == [1, 7, 12, 16, 64, 200]


def product(left: tuple[int, ...], right: Any, bias: bool) -> Any:
    """relu(x @ right + 1), or x @ y of a given shape, lowered and fused."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(left, "float32"))
    constant = isinstance(right, np.ndarray)
    y = relax.const(right) if constant else relax.Var("y", relax.TensorType(right, "float32"))
    with builder.function("main", [x] if constant else [x, y]):
        with builder.dataflow():
            value = builder.emit(relax.op.matmul(x, y))
            if bias:
                value = builder.emit(relax.op.add(value, relax.const(np.float32(1.0))))
                value = builder.emit(relax.op.nn.relu(value))
            result = builder.emit_output(value)
        builder.emit_func_output(result)
    with tvm.target.Target(json.loads(TARGET)):
        return relax.get_pipeline("zero")(legalize(builder.get(), {}))


def outputs(module: Any, *arrays: Any) -> Any:
    executable = relax.build(module, tvm.target.Target(json.loads(TARGET)))
    machine = relax.VirtualMachine(executable, tvm.cpu())
    return machine["main"](*(tvm.runtime.tensor(array) for array in arrays)).numpy()


def kernels(module: Any) -> list[Any]:
    return [f for f in module.functions.values() if isinstance(f, tirx.PrimFunc)]


@pytest.mark.parametrize("left", [(1, 13, 24), (2, 3, 37, 24), (13, 24), (16, 24)])
@pytest.mark.parametrize("bias", [False, True])
def test_a_constant_matrix_is_one_kernel_with_what_is_behind(
    left: tuple[int, ...], bias: bool
) -> None:
    generator = np.random.default_rng(0)
    x = generator.standard_normal(left, np.float32)
    matrix = generator.standard_normal((24, 32), np.float32)
    module = product(left, matrix, bias)
    assert len(kernels(module)) == 1
    expected = np.maximum(x @ matrix + 1, 0) if bias else x @ matrix
    np.testing.assert_allclose(outputs(module, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("left", "right", "count"),
    [
        ((1, 3, 13, 24), (1, 3, 24, 13), 3),
        ((1, 3, 13, 13), (1, 3, 13, 32), 1),
        ((2, 16, 24), (2, 24, 16), 1),
        ((5, 24), (24, 9), 3),
    ],
)
def test_what_is_no_constant_is_widened_before_and_cut_behind(
    left: tuple[int, ...], right: tuple[int, ...], count: int
) -> None:
    generator = np.random.default_rng(0)
    x, y = (generator.standard_normal(shape, np.float32) for shape in (left, right))
    module = product(left, right, bias=False)
    assert len(kernels(module)) == count
    np.testing.assert_allclose(outputs(module, x, y), x @ y, rtol=1e-4, atol=1e-5)


def convolution(size: int, kernel: int, stride: int) -> Any:
    """Channels last and without padding, lowered."""
    generator = np.random.default_rng(0)
    weights = relax.const(generator.standard_normal((kernel, kernel, 8, 32), np.float32))
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, size, size, 8), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            layouts = {"data_layout": "NHWC", "kernel_layout": "HWIO"}
            value = builder.emit(relax.op.nn.conv2d(x, weights, stride, **layouts))
            result = builder.emit_output(relax.op.nn.relu(value))
        builder.emit_func_output(result)
    with tvm.target.Target(json.loads(TARGET)):
        return relax.get_pipeline("zero")(legalize(builder.get(), {}))


MATRIX = np.random.default_rng(0).standard_normal((24, 32), np.float32)


@pytest.mark.parametrize(
    ("lowered", "rows"),
    [
        (product((1, 13, 24), MATRIX, bias=False), 15),
        (product((1, 13, 24), MATRIX, bias=True), 15),
        (convolution(13, 1, 1), 15),
        (convolution(27, 3, 2), 15),
    ],
)
def test_the_tiles_of_more_rows_write_those_that_there_are(lowered: Any, rows: int) -> None:
    (function,) = kernels(lowered)
    module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    target = tvm.target.Target(json.loads(TARGET))
    tiling = register_tiling(inlined_schedule(module, target), target, random.Random(0))
    assert tiling is not None
    generator = np.random.default_rng(1)
    arrays = [
        generator.standard_normal(tuple(int(n) for n in buffer.shape), np.float32)
        for buffer in function.params
    ]

    def run(module: Any) -> Any:
        given = [tvm.runtime.tensor(array) for array in arrays]
        tvm.compile(module, target=target).jit()["main"](*given)
        return given[-1].numpy()

    expected = run(module)
    heights = set()
    for serial in (False, True, False, True, True, False):
        trace = tiling.draw(serial)
        schedule = Schedule(module)
        trace.apply_to_schedule(schedule, remove_postproc=True)
        assert 'scope="local"' in str(schedule.mod.script())
        samples = [i for i in trace.insts if i.kind.name == "SamplePerfectTile"]
        factors = [int(factor) for factor in trace.decisions[samples[1]]]
        assert math.prod(factors) == rows
        heights.add(factors[2])
        np.testing.assert_allclose(run(schedule.mod), expected, rtol=1e-4, atol=1e-5)
    assert max(heights) > 1
    assert tiling.step(trace, serial=False) is not None
