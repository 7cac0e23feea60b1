"""What a device can do at most: the kernels that show it, and how it is measured once a kind."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from benchmarks.timing import alternate, contender, seeded
from coordinator.fleet.builders import Builders
from coordinator.fleet.fleet import Fleet
from coordinator.limit_kernels import (
    CACHE,
    CACHED_BYTES,
    MEMORY,
    PEAK,
    SUMS,
    lanes,
    limit_kernels,
    stream_workload,
)
from coordinator.limits import measure_limits
from coordinator.tuning_log import TuningLog
from device_agent.build import BuildOutcome, build_kernel
from device_agent.devices.cpu import last_level_cache_bytes
from protos.records import (
    Candidate,
    Device,
    DeviceLimits,
    MeasurementStatus,
    Task,
    canonical_json,
)
from tests.farm import PATIENCE_S, agent, real_fleet
from tests.kernels import target_json

pytest_plugins = ("tests.postgres",)

TARGET = target_json(2)


class LocalBuilders:
    """Builds in this process; ``fails`` names a kernel that does not build."""

    def __init__(self, fails: str = "") -> None:
        self.built: list[str] = []
        self._fails = fails

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    async def build(self, task: Task, candidate: Candidate, target: str) -> BuildOutcome:
        self.built.append(task.name)
        if task.name == self._fails:
            return BuildOutcome(None, MeasurementStatus.BUILD_ERROR, "no such luck", 0.0, ())
        return build_kernel(task.workload_json, candidate.trace_json, target)


def builders(fails: str = "") -> tuple[LocalBuilders, Builders]:
    local = LocalBuilders(fails)
    return local, cast(Builders, local)


# ------------------------------------------------------------------------- kernels


def test_a_stream_reads_every_element_in_every_pass() -> None:
    kernel = contender("stream", stream_workload(TARGET, 5, 3), "", TARGET)
    timed = alternate([kernel], threads=2, rounds=3)
    (x,) = seeded(kernel.args)
    assert x.shape == (2, 5, SUMS * lanes(TARGET))
    np.testing.assert_allclose(timed["stream"].output, 3 * x.sum(axis=1), rtol=1e-5)


@pytest.mark.parametrize(
    ("cpu", "triple", "count"),
    [
        ("x86-64-v2", "x86_64-linux-gnu", 4),
        ("znver3", "x86_64-linux-gnu", 8),
        ("skylake-avx512", "x86_64-linux-gnu", 16),
        ("cortex-a76", "aarch64-linux-gnu", 4),
    ],
)
def test_the_widest_vector_of_a_target(cpu: str, triple: str, count: int) -> None:
    target = {"kind": "llvm", "mcpu": cpu, "mtriple": triple, "num-cores": 1}
    assert lanes(canonical_json(target)) == count


def test_what_one_run_is_counted_as() -> None:
    kernels = {kernel.name: kernel for kernel in limit_kernels(TARGET, 16 << 20)}
    assert set(kernels) == {PEAK, MEMORY, CACHE}
    memory, cache = kernels[MEMORY], kernels[CACHE]
    assert memory.amount == memory.args[0].size_bytes == 64 << 20
    assert cache.args[0].size_bytes == 2 * CACHED_BYTES
    assert cache.amount % cache.args[0].size_bytes == 0
    assert kernels[PEAK].args[0].shape == kernels[PEAK].args[-1].shape
    unknown = {kernel.name: kernel for kernel in limit_kernels(TARGET, 0)}
    assert unknown[MEMORY].amount == 128 << 20
    enormous = {kernel.name: kernel for kernel in limit_kernels(TARGET, 1 << 40)}
    assert enormous[MEMORY].amount == 1 << 30


# ------------------------------------------------------------------------- the device


def caches(folder: Path, cpu: int, *found: tuple[str, str, str, str]) -> None:
    for index, values in enumerate(found):
        cache = folder / f"cpu{cpu}" / "cache" / f"index{index}"
        cache.mkdir(parents=True)
        for name, value in zip(("level", "type", "size", "shared_cpu_list"), values, strict=True):
            (cache / name).write_text(f"{value}\n")


def test_the_last_level_cache_is_counted_once_for_those_who_share_it(tmp_path: Path) -> None:
    for cpu in range(4):
        own = (("1", "Data", "32K", f"{cpu}"), ("1", "Instruction", "64K", f"{cpu}"))
        caches(tmp_path, cpu, *own, ("3", "Unified", "16384K", "0-1" if cpu < 2 else "2-3"))
    assert last_level_cache_bytes(tmp_path, (0,)) == 16 << 20
    assert last_level_cache_bytes(tmp_path, (0, 1)) == 16 << 20
    assert last_level_cache_bytes(tmp_path, (0, 1, 2, 3)) == 32 << 20


def test_a_board_that_says_nothing_of_its_caches(tmp_path: Path) -> None:
    caches(tmp_path, 0, ("2", "Unified", "", "0"))
    assert last_level_cache_bytes(tmp_path, (0, 1)) == 0


def test_the_limits_of_a_real_device_are_measured_once(tmp_path: Path) -> None:
    async def measured() -> tuple[Device, DeviceLimits | None, DeviceLimits | None, list[str]]:
        async with real_fleet(tmp_path) as farm:
            with agent(farm.port, "bench", TARGET):
                await farm.devices(TARGET, 1)
                device = replace(farm.fleet.registry.devices_for(TARGET)[0], cache_bytes=1 << 20)
                local, build = builders()
                ask = (device, farm.fleet, build, farm.log)
                first = await measure_limits("j", *ask, patience_s=PATIENCE_S)
                second = await measure_limits("j", *ask)
                return device, first, second, local.built

    device, first, second, built = asyncio.run(measured())
    assert first is not None
    assert first == second
    assert built == [PEAK, MEMORY, CACHE]
    assert (first.device, first.cache_bytes) == ("bench", 1 << 20)
    assert first.peak_gflops > 0
    assert first.cache_gb_s > 0
    assert first.memory_gb_s > 0
    log = TuningLog.open(str(tmp_path / "log.db"))
    assert log.limits(device.kind) == first
    log.close()
    with sqlite3.connect(tmp_path / "log.db") as database:
        assert database.execute("SELECT count(*) FROM measurements").fetchone() == (0,)
    database.close()


@pytest.mark.parametrize(("emulated", "fails", "built"), [(True, "", []), (False, PEAK, [PEAK])])
def test_what_can_not_be_measured_is_not_known(
    tmp_path: Path, emulated: bool, fails: str, built: list[str]
) -> None:
    device = Device("d", TARGET, "a CPU", (0, 1), 2, emulated=emulated)
    log = TuningLog.open(str(tmp_path / "log.db"))
    local, build = builders(fails)
    found = asyncio.run(measure_limits("j", device, Fleet(log), build, log))
    assert found is None
    assert local.built == built
    assert log.limits(device.kind) is None
    log.close()


def test_a_job_does_not_wait_for_long(tmp_path: Path) -> None:
    device = Device("d", TARGET, "a CPU", (0, 1), 2)
    log = TuningLog.open(str(tmp_path / "log.db"))
    local, build = builders()

    async def nobody_measures() -> DeviceLimits | None:
        return await measure_limits("j", device, Fleet(log), build, log, patience_s=0.2)

    assert asyncio.run(nobody_measures()) is None
    assert local.built == [PEAK], "it was built and waits for a device"
    log.close()


def test_the_newest_limits_of_a_kind_stand(log: TuningLog) -> None:
    limits = DeviceLimits("d1", 100.0, 20.0, 200.0, 32 << 30)
    log.set_limits("kind", replace(limits, peak_gflops=1.0))
    log.set_limits("kind", limits)
    assert log.limits("kind") == limits
    assert log.limits("another") is None
