"""Tiles that fit into registers: the factors, and that the programs compute the same."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import te, topi
from tvm.s_tir import Schedule

from coordinator.search.evolution import Evolution
from coordinator.search.register_tiles import (
    MAX_UNROLLED,
    Factors,
    Loops,
    TileSpace,
    divisors,
    tiles,
)
from coordinator.search.sketches import inlined_schedule
from coordinator.search.tile_sketches import RegisterTiling, register_tiling
from device_agent.build import register_intrinsics
from tests.kernels import matmul, target_json

CONVOLUTION = Loops((1, 64, 56, 56), (64, 3, 3), width=16, registers=32, threads=2)
TARGET = target_json(2)
MATMUL = tvm.IRModule({"main": matmul()})


def test_divisors_are_all_of_them_in_order() -> None:
    assert divisors(1) == [1]
    assert divisors(36) == [1, 2, 3, 4, 6, 9, 12, 18, 36]


@pytest.mark.parametrize("registers", [16, 32])
@pytest.mark.parametrize("width", [4, 8, 16])
def test_every_tile_fits_into_the_registers(width: int, registers: int) -> None:
    loops = Loops((1, 64, 56, 56), (64, 3, 3), width, registers, 2)
    found = tiles(loops)
    assert found
    for tile in found:
        vectors = math.prod(tile.registers) * math.ceil(tile.lanes / width)
        assert tile.vectors == vectors < registers
        for extent, factor in zip(loops.spatial[:-1], tile.registers[:-1], strict=True):
            assert extent % factor == 0
        assert loops.spatial[-1] % (tile.registers[-1] * tile.lanes) == 0


def test_reading_with_a_stride_makes_tiles_smaller() -> None:
    strided = tiles(Loops((1, 96, 56, 56), (3, 3), 16, 32, 2, strided=True))
    assert strided
    assert all(math.prod(tile.registers) * tile.lanes <= 30 * 4 for tile in strided)


def _check(loops: Loops, factors: Factors) -> None:
    spatial, reduction = factors[: len(loops.spatial)], factors[len(loops.spatial) :]
    assert [math.prod(f) for f in spatial] == list(loops.spatial)
    assert [math.prod(f) for f in reduction] == list(loops.reduction)
    vectors = math.prod(f[2] for f in spatial) * math.ceil(spatial[-1][3] / loops.width)
    assert vectors * math.prod(f[1] for f in reduction) <= max(MAX_UNROLLED, vectors)


@pytest.mark.parametrize("serial", [False, True])
def test_factors_multiply_to_the_loops_however_often_they_are_changed(serial: bool) -> None:
    rng, space = random.Random(0), TileSpace(CONVOLUTION)
    factors = space.draw(rng, serial)
    different = set()
    for _ in range(200):
        _check(CONVOLUTION, factors)
        different.add(factors)
        factors = space.change(factors, rng, serial)
    assert len(different) > 100


@pytest.mark.parametrize("serial", [False, True])
def test_tiles_of_another_cpu_become_like_ones_of_this(serial: bool) -> None:
    rng = random.Random(0)
    channels_last = replace(CONVOLUTION, spatial=(1, 56, 56, 64))
    there = replace(channels_last, width=8, registers=16)
    narrow, wide = TileSpace(there), TileSpace(channels_last)
    exact = 0
    for _ in range(100):
        factors = narrow.draw(rng, serial)
        assert narrow.refit(factors, 8, rng, serial) == factors, "it is of such a CPU"
        refitted = wide.refit(factors, 8, rng, serial)
        _check(channels_last, refitted)
        assert serial or math.prod(f[0] for f in refitted[:4]) % 2 == 0
        exact += refitted[3][3] == 2 * factors[3][3]
        back = narrow.refit(refitted, 16, rng, serial)
        _check(there, back)
    assert exact > 95
    full = ((1, 1, 1), (28, 1, 2), (8, 1, 7), (1, 2, 2, 16)), ((64, 1), (3, 1), (3, 1))
    for lanes in (16, None):
        fewer = narrow.refit((*full[0], *full[1]), lanes, rng, serial)
        _check(there, fewer)
        assert math.prod(f[2] for f in fewer[:4]) * fewer[3][3] // 8 <= 14, "as many as fit"
    assert wide.refit((*full[0], *full[1]), None, rng, serial) == (*full[0], *full[1])


def test_loops_of_one_thread_are_divided_among_two_as_little_changed_as_may_be() -> None:
    rng, loops = random.Random(0), Loops((1, 56, 56, 144), (3, 3), 16, 32, 2)
    alone = ((1, 1, 1), (1, 14, 4), (1, 28, 2), (1, 9, 1, 16), (3, 1), (3, 1))
    space = TileSpace(loops)
    assert space.refit(alone, 16, rng, serial=True) == alone
    shared = space.refit(alone, 16, rng, serial=False)
    assert shared[2:] == alone[2:]
    assert shared[1] == (2, 7, 4)


def test_threads_get_equal_shares_where_that_is_possible() -> None:
    rng, space = random.Random(0), TileSpace(CONVOLUTION)
    drawn = [space.draw(rng, serial=False) for _ in range(100)]
    even = [math.prod(f[0] for f in factors[:4]) % 2 == 0 for factors in drawn]
    assert sum(even) > 95


def test_many_changes_are_small() -> None:
    rng, space = random.Random(0), TileSpace(CONVOLUTION)
    small = {"threads": 0, "tile": 0}
    for _ in range(300):
        before = space.draw(rng, serial=True)
        after = space.change(before, rng, serial=True)
        outer = [a[0] != b[0] for a, b in zip(before[:4], after[:4], strict=True)]
        tile = [a[2:] != b[2:] for a, b in zip(before[:4], after[:4], strict=True)]
        small["threads"] += sum(outer) == 1 and not any(tile)
        small["tile"] += sum(tile) == 1 and sum(outer) <= 1
    assert min(small.values()) > 300 / 3 / 3, small


def test_a_loop_too_short_for_a_vector_has_no_tile() -> None:
    with pytest.raises(ValueError, match="last loop of 3"):
        TileSpace(Loops((64, 3), (64,), 16, 32, 2))


def _module(inputs: list[Any], output: Any) -> Any:
    return tvm.IRModule({"main": te.create_prim_func([*inputs, output])})


def _convolution(groups: int, stride: int) -> Any:
    x = te.placeholder((1, 8, 12, 16), "float32", "x")
    w = te.placeholder((8, 8 // groups, 3, 3), "float32", "w")
    b = te.placeholder((1, 8, 1, 1), "float32", "b")
    made = topi.nn.group_conv2d_nchw(x, w, stride, 1, 1, groups) if groups > 1 else None
    made = topi.nn.conv2d_nchw(x, w, stride, 1, 1) if made is None else made
    return _module([x, w, b], topi.nn.relu(topi.add(made, b)))


def _pool() -> Any:
    x = te.placeholder((1, 8, 16, 16), "float32", "x")
    return _module([x], topi.nn.pool2d(x, [3, 3], [1, 1], [1, 1], [1, 1, 1, 1], "max"))


def _tiling(module: Any) -> RegisterTiling | None:
    register_intrinsics(TARGET)
    target = tvm.target.Target(json.loads(TARGET))
    return register_tiling(inlined_schedule(module, target), target, random.Random(0))


def _outputs(module: Any, inputs: list[Any]) -> Any:
    function = tvm.compile(module, target=tvm.target.Target(json.loads(TARGET))).jit()["main"]
    arguments = [tvm.runtime.tensor(array) for array in inputs]
    function(*arguments)
    return arguments[-1].numpy()


@pytest.mark.parametrize(
    "module", [MATMUL, _convolution(1, 1), _convolution(1, 2), _convolution(8, 2), _pool()]
)
def test_programs_with_a_register_tile_compute_the_same(module: Any) -> None:
    tiling = _tiling(module)
    assert tiling is not None
    generator = np.random.default_rng(0)
    arrays = [
        generator.random(tuple(int(n) for n in buffer.shape), np.float32)
        for buffer in module["main"].params
    ]
    expected = _outputs(module, arrays).copy()
    trace = tiling.draw(serial=False)
    for serial in (False, True, True, False, False):
        schedule = Schedule(module)
        trace.apply_to_schedule(schedule, remove_postproc=True)
        script = str(schedule.mod.script())
        assert 'scope="local"' in script
        assert "T.vectorized" in script
        np.testing.assert_allclose(_outputs(schedule.mod, arrays), expected, rtol=1e-5)
        trace = tiling.step(schedule.trace, serial)
        parallel = any(i.kind.name == "Parallel" for i in trace.insts)
        assert parallel is not serial


def _softmax() -> Any:
    x = te.placeholder((8, 64), "float32", "x")
    return _module([x], topi.nn.softmax(x))


def _scaled() -> Any:
    x = te.placeholder((8, 64), "float32", "x")
    return _module([x], topi.multiply(x, tvm.tirx.const(2.0, "float32")))


def _mean() -> Any:
    x = te.placeholder((1, 64, 8, 8), "float32", "x")
    return _module([x], topi.sum(x, axis=[2, 3], keepdims=True))


def _transposed_weights() -> Any:
    """Neighbouring outputs read weights a whole row apart."""
    x, w = te.placeholder((8, 64), "float32", "x"), te.placeholder((64, 64), "float32", "w")
    return _module([x, w], topi.matmul(x, w, transp_b=True))


@pytest.mark.parametrize("module", [_softmax(), _scaled(), _mean(), _transposed_weights()])
def test_other_workloads_are_left_to_metaschedule(module: Any) -> None:
    assert _tiling(module) is None
    evolution = Evolution(module, tvm.target.Target(json.loads(TARGET)), "other", 0)
    assert evolution.sample([False] * 2)


def test_a_trace_of_metaschedules_own_is_none_of_ours() -> None:
    tiling = _tiling(MATMUL)
    assert tiling is not None
    assert tiling.step(Schedule(MATMUL).trace, serial=False) is None


@pytest.mark.parametrize(
    ("target", "width", "registers"),
    [
        ({"mcpu": "znver4"}, 16, 32),
        ({"mcpu": "znver3"}, 8, 16),
        ({"mcpu": "x86-64-v2"}, 4, 16),
        ({"mcpu": "cortex-a76", "mtriple": "aarch64-linux-gnu", "mattr": ["+neon"]}, 4, 32),
    ],
)
def test_what_a_cpu_has_for_tiles(target: dict[str, object], width: int, registers: int) -> None:
    import tvm

    from coordinator.search.tile_sketches import cpu

    triple = {"mtriple": "x86_64-linux-gnu"} | target
    known = tvm.target.Target({"kind": "llvm", "num-cores": 2, **triple})
    assert cpu(known) == (width, registers, 2)


def test_a_vector_stays_within_a_piece_of_packed_weights() -> None:
    whole = tiles(Loops((32, 48), (64,), 8, 16, 2))
    packed = tiles(Loops((32, 48), (64,), 8, 16, 2, runs=8))
    assert {tile.lanes for tile in whole} == {4, 6, 8, 16}
    assert {tile.lanes for tile in packed} == {4, 8}


@pytest.mark.parametrize("run", [4, 8, 16])
def test_products_with_packed_weights_have_tiles_and_compute_the_same(run: int) -> None:
    a, b = te.placeholder((12, 8), "float32", "a"), te.placeholder((32 // run, 8, run), "float32")
    k = te.reduce_axis((0, 8), "k")
    product = te.compute(
        (12, 32), lambda i, j: te.sum(a[i, k] * b[j // run, k, j % run], axis=k), name="product"
    )
    module = _module([a, b], product)
    tiling = _tiling(module)
    assert tiling is not None
    generator = np.random.default_rng(0)
    shapes = [(12, 8), (32 // run, 8, run), (12, 32)]
    arrays = [generator.random(shape, np.float32) for shape in shapes]
    expected = arrays[0] @ arrays[1].transpose(1, 0, 2).reshape(8, 32)
    for serial in (False, True):
        schedule = Schedule(module)
        tiling.draw(serial).apply_to_schedule(schedule, remove_postproc=True)
        np.testing.assert_allclose(_outputs(schedule.mod, arrays), expected, rtol=1e-5)


def test_weights_that_are_packed_otherwise_have_no_tile() -> None:
    a, b = te.placeholder((12, 8), "float32", "a"), te.placeholder((2, 8, 16), "float32", "b")
    k = te.reduce_axis((0, 8), "k")
    scattered = te.compute((12, 32), lambda i, j: te.sum(a[i, k] * b[j % 2, k, j // 2], axis=k))
    assert _tiling(_module([a, b], scattered)) is None
