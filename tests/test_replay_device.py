"""A replay device: a real agent in a real fleet that runs nothing."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.stages import StageClock
from device_agent.devices.cpu import describe_cpu
from device_agent.devices.replay import (
    FASTEST,
    SLOWEST,
    ReplayRunner,
    describe_replay,
    replayed_latency_s,
)
from device_agent.kernel_run import measure
from device_agent.kernel_runner import LeaseFailedError
from protos import host_lock
from protos.errors import BadTarget, JobFailed
from protos.records import (
    Artifact,
    Candidate,
    EvaluatorConfig,
    KernelWork,
    MeasurementStatus,
    ModelVariant,
    ModelWork,
    TensorSpec,
)
from tests.farm import PATIENCE_S, agent, real_fleet

TARGET = '{"kind":"llvm","mcpu":"cortex-a72","num-cores":4}'
ARGS = (TensorSpec((4,), "float32"),) * 2
WORK = KernelWork("w" * 64, ARGS, 1, 0, Artifact.of(b"reference"), EvaluatorConfig(repeat=6), ())


def test_a_replay_device_is_emulated_and_of_no_real_devices_kind() -> None:
    device = describe_replay("replayed", TARGET, 0.1)
    assert device.emulated
    assert device.cpus == ()
    assert device.num_threads == 4
    assert device.kind == describe_replay("another", TARGET, 0.1).kind
    assert device.kind != describe_replay("slower", TARGET, 0.2).kind
    real = describe_cpu("real", None, None, emulated=True)
    assert describe_replay("r", real.target_json, 0.1).kind != real.kind
    with pytest.raises(BadTarget, match="not JSON"):
        describe_replay("replayed", "cortex", 0.1)


def test_the_latency_is_the_bytes_own() -> None:
    latencies = [replayed_latency_s(bytes([n]), 0.1) for n in range(256)]
    assert latencies == [replayed_latency_s(bytes([n]), 0.1) for n in range(256)]
    assert len(set(latencies)) == 256
    assert 0.1 * FASTEST <= min(latencies) < 0.055
    assert 0.145 < max(latencies) <= 0.1 * SLOWEST


def test_a_measurement_takes_its_time_and_gives_the_repeats() -> None:
    runner = ReplayRunner(0.05)
    runner.prepare(WORK, b"reference")
    assert runner.is_prepared(WORK)
    outcome = measure(runner, WORK, runner.load(WORK, b"bytes"))
    assert outcome.status is MeasurementStatus.OK
    assert outcome.repeats_s == (replayed_latency_s(b"bytes", 0.05),) * 6
    assert outcome.busy_s >= 0.05


def test_a_canary_is_short_and_always_the_same() -> None:
    runner = ReplayRunner(3600.0)
    canary = replace(WORK, args=ARGS[:1])
    outcomes = [measure(runner, canary, runner.load(canary, b"canary")) for _ in range(2)]
    assert outcomes[0].repeats_s == outcomes[1].repeats_s
    assert all(outcome.busy_s < 60 for outcome in outcomes)


def test_closing_ends_the_measurement_under_way() -> None:
    runner = ReplayRunner(3600.0)
    threading.Timer(0.05, runner.close).start()
    with pytest.raises(LeaseFailedError, match="shutting down"):
        measure(runner, WORK, runner.load(WORK, b"bytes"))


def test_a_replay_device_serves_a_fleet(tmp_path: Path) -> None:
    """Over a real session, with an artifact that has to be fetched and while others build."""
    artifacts = [Artifact.of(bytes([n])) for n in range(5)] + [Artifact.of(bytes(1 << 20))]

    async def scenario() -> None:
        async with real_fleet(tmp_path) as farm:
            job_id = farm.job_with(WORK.workload_key, ARGS)
            trials = [
                (Candidate(WORK.workload_key, f"trace {n}"), artifact, None)
                for n, artifact in enumerate(artifacts)
            ]
            with agent(farm.port, "replayed", TARGET, replay="20ms"), host_lock.working():
                await asyncio.wait_for(farm.devices(TARGET, 1), PATIENCE_S)
                device = await farm.fleet.device_for(TARGET)
                clock, started = StageClock(), time.monotonic()
                found = await farm.fleet.measure(job_id, device.kind, WORK, trials, clock)
                took_s = time.monotonic() - started
                assert took_s >= 6 * 0.02
                assert 0 < clock.seconds()["transfer"] < took_s
                work = replace(WORK.evaluator, timeout_s=1.0)
                model = (ModelVariant("tuned", Artifact.of(b"package")),)
                with pytest.raises(JobFailed, match="real device"):
                    await farm.fleet.measure_model(
                        job_id, device.kind, ModelWork(model, Artifact.of(b"examples"), work, 1)
                    )
        assert device.emulated
        assert [m.artifact_sha256 for m in found] == [a.sha256 for a in artifacts]
        for measurement, artifact in zip(found, artifacts, strict=True):
            latency_us = replayed_latency_s(artifact.data, 0.02) * 1e6
            assert measurement.latency_us == pytest.approx(latency_us)
            assert measurement.circumstances is not None
            assert measurement.circumstances.emulated

    asyncio.run(scenario())
