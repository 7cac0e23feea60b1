"""The fleet with real agents over real gRPC: faults are measurements, nothing gets lost."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from coordinator.fleet.fleet import MAX_ATTEMPTS
from coordinator.stages import StageClock
from protos import convert, farm_pb2, farm_pb2_grpc
from protos.records import (
    PROTOCOL_VERSION,
    Artifact,
    CancelLease,
    Candidate,
    Circumstances,
    Device,
    DeviceAction,
    EvaluatorConfig,
    Heartbeat,
    KernelWork,
    Measurement,
    MeasurementStatus,
    Registration,
    Telemetry,
)
from tests.farm import PATIENCE_S, RealFleet, agent, real_fleet
from tests.kernels import VECTORS, kernel, target_json

WORKLOAD = "workload-of-the-test"
QUICK = EvaluatorConfig(repeat=3, min_repeat_ms=1, timeout_s=2.0)
TARGET = target_json()

Status = MeasurementStatus


def _work(config: EvaluatorConfig = QUICK) -> KernelWork:
    return KernelWork(WORKLOAD, VECTORS, 1, 0, kernel("doubled"), config, ())


async def _measure(fleet: RealFleet, names: Sequence[str]) -> list[Measurement]:
    """Each kernel as a candidate of its own."""
    job_id = fleet.job_with(WORKLOAD, VECTORS)
    trials: list[tuple[Candidate, Artifact, float | None]] = [
        (Candidate(WORKLOAD, f"[{index}]"), kernel(name), None) for index, name in enumerate(names)
    ]
    device = await asyncio.wait_for(fleet.fleet.device_for(TARGET), PATIENCE_S)
    measuring = fleet.fleet.measure(job_id, device.kind, _work(), trials, StageClock())
    return await asyncio.wait_for(measuring, PATIENCE_S)


def _logged(fleet: RealFleet, kind: str) -> list[MeasurementStatus]:
    return [outcome.status for outcome in fleet.log.outcomes(WORKLOAD, kind)]


def test_every_fault_is_a_measurement_and_the_agent_goes_on(tmp_path: Path) -> None:
    names = ["doubled", "segfault", "endless", "wrong", "babbles", "exits", "doubled"]
    expected = [
        Status.OK,
        Status.CRASHED,
        Status.TIMED_OUT,
        Status.WRONG_OUTPUT,
        Status.GARBAGE,
        Status.CRASHED,
        Status.OK,
    ]

    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            with agent(fleet.port, "a", TARGET) as process:
                device = await asyncio.wait_for(fleet.fleet.device_for(TARGET), PATIENCE_S)
                measurements = await _measure(fleet, names)
                assert process.poll() is None
            assert [measurement.status for measurement in measurements] == expected
            assert sorted(_logged(fleet, device.kind)) == sorted(expected)
            wrong = measurements[3]
            assert wrong.max_abs_error == pytest.approx(0.25)
            assert wrong.latency_us is None
            good = measurements[0]
            assert len(good.repeats_s) == QUICK.repeat
            assert good.circumstances is not None
            assert good.circumstances.num_threads == 1
            assert good.circumstances.evaluator == QUICK
            assert "tvm-ffi" in " ".join(good.circumstances.tool_versions)

    asyncio.run(scenario())


def test_two_devices_of_one_kind_divide_a_batch(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            with agent(fleet.port, "a", TARGET, "0"), agent(fleet.port, "b", TARGET, "0"):
                await fleet.devices(TARGET, 2)
                measurements = await _measure(fleet, ["doubled"] * 10)
            by_device = fleet.log.device_measurements()
            assert all(measurement.ok for measurement in measurements)
            assert by_device == {"a": 5, "b": 5}

    asyncio.run(scenario())


def test_an_agent_killed_in_mid_lease_loses_nothing(tmp_path: Path) -> None:
    """Endless kernels hold the lease open; -9 hits the agent between, and another takes over."""

    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            with agent(fleet.port, "first", TARGET) as first:
                device = await asyncio.wait_for(fleet.fleet.device_for(TARGET), PATIENCE_S)
                measuring = asyncio.create_task(_measure(fleet, ["doubled", "endless", "endless"]))
                while not _logged(fleet, device.kind):  # the first result is durable
                    await asyncio.sleep(0.02)
                first.send_signal(signal.SIGKILL)
                with agent(fleet.port, "second", TARGET):
                    measurements = await measuring
            statuses = [measurement.status for measurement in measurements]
            assert statuses == [Status.OK, Status.TIMED_OUT, Status.TIMED_OUT]
            assert len(_logged(fleet, device.kind)) == 3
            last = measurements[-1].circumstances
            assert last is not None
            assert last.device == "second"

    asyncio.run(scenario())


def circumstances(device: str) -> Circumstances:
    """What a device says of how it measured."""
    bare = Telemetry()
    return Circumstances(device, {}, EvaluatorConfig(), 1, (0,), False, bare, bare)


class FakeAgent:
    """A fake, because no real agent lies: a bare stream that says what the test wants said."""

    def __init__(self, port: int, name: str = "fake") -> None:
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self._call = farm_pb2_grpc.AgentGatewayStub(self._channel).Session()
        self.device = self.describe(name)

    @staticmethod
    def describe(name: str) -> Device:
        """The device that it says it is."""
        return Device(name, TARGET, "a CPU", (0,), 1)

    async def register(self, version: int = PROTOCOL_VERSION, instance: str = "") -> None:
        await self.send(Registration(version, self.device, instance))
        await self.receive()

    async def send(self, record: object) -> None:
        await self.send_message(convert.to_agent_message(record))

    async def send_message(self, message: farm_pb2.AgentMessage) -> None:
        """What no record can say goes as a message."""
        await self._call.write(message)

    async def receive(self) -> object:
        message = await asyncio.wait_for(self._call.read(), PATIENCE_S)
        if message is grpc.aio.EOF:
            raise ConnectionError(await self._call.details())
        return convert.from_gateway_message(message)

    async def vanish(self) -> None:
        self._call.cancel()
        await self._channel.close()

    async def refusal(self) -> tuple[grpc.StatusCode, str]:
        code = await asyncio.wait_for(self._call.code(), PATIENCE_S)
        details = await self._call.details()
        await self._channel.close()
        return code, details


def test_a_trial_that_lost_its_device_three_times_is_given_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            measuring = asyncio.create_task(_measure(fleet, ["doubled"]))
            for _ in range(MAX_ATTEMPTS):
                fake = FakeAgent(fleet.port)
                await fake.register()
                await fake.receive()  # the lease
                await fake.vanish()
                await fleet.devices(TARGET, 0)
            (measurement,) = await asyncio.wait_for(measuring, PATIENCE_S)
            assert measurement.status is Status.DEVICE_LOST
            assert _logged(fleet, fake.device.kind) == [Status.DEVICE_LOST]

    asyncio.run(scenario())


def test_a_result_that_comes_twice_is_kept_once_and_acknowledged_twice(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            measuring = asyncio.create_task(_measure(fleet, ["doubled", "doubled"]))
            fake = FakeAgent(fleet.port)
            await fake.register()
            lease = await fake.receive()
            key = lease.kernel.trials[0].candidate_key  # type: ignore[attr-defined]
            result = Measurement(WORKLOAD, key, Status.CRASHED, lease_id=lease.lease_id)  # type: ignore[attr-defined]
            for _ in range(2):
                await fake.send(result)
                assert (await fake.receive()).candidate_key == key  # type: ignore[attr-defined]
            assert _logged(fleet, fake.device.kind) == [Status.CRASHED]
            measuring.cancel()
            await fake.vanish()

    asyncio.run(scenario())


def test_a_late_result_of_an_earlier_session_is_welcome(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            measuring = asyncio.create_task(_measure(fleet, ["doubled"]))
            before = FakeAgent(fleet.port)
            await before.register()
            lease = await before.receive()
            await before.vanish()
            await fleet.devices(TARGET, 0)
            after = FakeAgent(fleet.port)
            await after.register()
            await after.receive()  # the same trial, leased again
            key = lease.kernel.trials[0].candidate_key  # type: ignore[attr-defined]
            late = Measurement(WORKLOAD, key, Status.CRASHED, lease_id=lease.lease_id)  # type: ignore[attr-defined]
            await after.send(late)
            (measurement,) = await asyncio.wait_for(measuring, PATIENCE_S)
            assert measurement == late
            assert _logged(fleet, after.device.kind) == [Status.CRASHED]
            await after.vanish()

    asyncio.run(scenario())


def test_a_result_that_nobody_knows_is_called_off(tmp_path: Path) -> None:
    """As a day after a restart of the coordinator: the agent is told to forget it."""

    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            fake = FakeAgent(fleet.port)
            await fake.register()
            await fake.send(Measurement(WORKLOAD, "unknown", Status.OK, "gone"))
            answer = await fake.receive()
            assert type(answer).__name__ == "CancelLease"
            await fake.vanish()

    asyncio.run(scenario())


def test_what_a_quarantined_device_says_does_not_count_and_its_trials_were_no_attempts(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            measuring = asyncio.create_task(_measure(fleet, ["doubled"]))
            fake = FakeAgent(fleet.port)
            await fake.register()
            for _ in range(MAX_ATTEMPTS + 1):
                lease: Any = await fake.receive()
                key = lease.kernel.trials[0].candidate_key
                result = Measurement(WORKLOAD, key, Status.CRASHED, lease_id=lease.lease_id)
                await fleet.fleet.control("fake", DeviceAction.QUARANTINE, "", "alice")
                assert await fake.receive() == CancelLease(lease.lease_id)
                await fake.send(result)
                assert await fake.receive() == CancelLease(lease.lease_id)
                assert _logged(fleet, fake.device.kind) == []
                await fleet.fleet.control("fake", DeviceAction.RESUME, "", "alice")
            lease = await fake.receive()
            await fake.send(replace(result, lease_id=lease.lease_id))
            (measurement,) = await asyncio.wait_for(measuring, PATIENCE_S)
            assert measurement.status is Status.CRASHED
            assert _logged(fleet, fake.device.kind) == [Status.CRASHED]
            await fake.vanish()

    asyncio.run(scenario())


def test_nobody_answers_a_lease_that_is_not_its_own(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            measuring = asyncio.create_task(_measure(fleet, ["doubled"]))
            holder = FakeAgent(fleet.port, "holder")
            await holder.register()
            lease = await holder.receive()
            thief = FakeAgent(fleet.port, "thief")
            await thief.register()
            key = lease.kernel.trials[0].candidate_key  # type: ignore[attr-defined]
            stolen = Measurement(
                WORKLOAD,
                key,
                Status.OK,
                lease_id=lease.lease_id,  # type: ignore[attr-defined]
                repeats_s=(1e-9,),
            )
            await thief.send(stolen)
            answer = await thief.receive()
            assert type(answer).__name__ == "CancelLease"
            assert _logged(fleet, holder.device.kind) == []
            assert not measuring.done()
            measuring.cancel()
            await holder.vanish()
            await thief.vanish()

    asyncio.run(scenario())


def test_what_breaks_the_contract_ends_its_own_stream_only(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            good = FakeAgent(fleet.port, "good")
            await good.register()

            unregistered = FakeAgent(fleet.port, "unregistered")
            await unregistered.send(Heartbeat(Telemetry()))
            code, details = await unregistered.refusal()
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert "registration" in details

            old = FakeAgent(fleet.port, "old")
            await old.send(Registration(PROTOCOL_VERSION + 1, old.device))
            code, details = await old.refusal()
            assert code is grpc.StatusCode.FAILED_PRECONDITION
            assert "same version" in details

            double = FakeAgent(fleet.port, "good")
            await double.send(Registration(PROTOCOL_VERSION, double.device))
            code, details = await double.refusal()
            assert code is grpc.StatusCode.FAILED_PRECONDITION
            assert "--name" in details

            twice = FakeAgent(fleet.port, "twice")
            await twice.register()
            await twice.send(Registration(PROTOCOL_VERSION, twice.device))
            code, _ = await twice.refusal()
            assert code is grpc.StatusCode.INVALID_ARGUMENT

            await good.send(Heartbeat(Telemetry()))
            names = [device.name for device in fleet.fleet.registry.devices_for(TARGET)]
            assert names == ["good"]
            await good.vanish()

    asyncio.run(scenario())


def test_an_artifact_that_no_lease_names_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            real_fleet(tmp_path) as fleet,
            grpc.aio.insecure_channel(f"127.0.0.1:{fleet.port}") as channel,
        ):
            request = farm_pb2.FetchArtifactRequest(sha256="../../etc/passwd")
            call = farm_pb2_grpc.AgentGatewayStub(channel).FetchArtifact(request)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in call:
                    pass
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    asyncio.run(scenario())
