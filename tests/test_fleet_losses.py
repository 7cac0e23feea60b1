"""Devices that vanish with what they were given: who is blamed, and that nothing gets lost."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coordinator.fleet import late_results, leases
from coordinator.fleet.fleet import MAX_ATTEMPTS
from coordinator.fleet.registry import Registry
from coordinator.tuning_log import TuningLog
from protos.errors import LogUnavailable
from protos.records import (
    Acknowledgement,
    Candidate,
    Goodbye,
    Heartbeat,
    Lease,
    LeaseFinished,
    Measurement,
    ModelMeasurement,
    ModelVariant,
    ModelWork,
    Telemetry,
    VariantResult,
)
from tests.farm import PATIENCE_S, RealFleet, agent, real_fleet
from tests.kernels import kernel
from tests.test_fleet import (
    QUICK,
    TARGET,
    WORKLOAD,
    FakeAgent,
    Status,
    _logged,
    _measure,
    _work,
    circumstances,
)


def keys(lease: Any) -> list[str]:
    return [trial.candidate_key for trial in lease.kernel.trials]


async def leased(fake: FakeAgent) -> Any:
    """The next lease; acknowledgements are passed over."""
    while not isinstance(said := await fake.receive(), Lease):
        assert isinstance(said, Acknowledgement)
    return said


async def lose(fleet: RealFleet, fake: FakeAgent) -> None:
    """The device vanishes, and the fleet has seen it."""
    await fake.vanish()
    await fleet.devices(TARGET, 0)


async def answer(fleet: RealFleet, fake: FakeAgent, lease: Any) -> None:
    """Every trial is done, and the lease with it; returns when the fleet knows."""
    for key in keys(lease):
        await fake.send(Measurement(WORKLOAD, key, Status.CRASHED, lease_id=lease.lease_id))
    await fake.send(LeaseFinished(lease.lease_id))
    while fleet.fleet.queue.leases.held(lease.lease_id):
        await asyncio.sleep(0.01)


async def newcomer(fleet: RealFleet, instance: str = "") -> FakeAgent:
    fake = FakeAgent(fleet.port)
    await fake.register(instance=instance)
    return fake


def test_a_result_is_kept_once_though_the_coordinator_was_restarted(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            measuring = asyncio.create_task(_measure(fleet, ["doubled"]))
            fake = await newcomer(fleet)
            lease = await leased(fake)
            kind = fake.device.kind
            measuring.cancel()
            await fake.vanish()
        (key,) = keys(lease)
        result = Measurement(WORKLOAD, key, Status.CRASHED, lease_id=lease.lease_id)
        async with real_fleet(tmp_path) as fleet:
            after = await newcomer(fleet)
            for _ in range(2):
                await after.send(result)
                assert await after.receive() == Acknowledgement(lease.lease_id, key)
            assert _logged(fleet, kind) == [Status.CRASHED]
            await after.vanish()

    asyncio.run(scenario())


def test_a_job_waits_for_what_was_measured_while_its_coordinator_was_away(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            measuring = asyncio.create_task(_measure(fleet, ["doubled"]))
            fake = await newcomer(fleet)
            lease = await leased(fake)
            measuring.cancel()
            await fake.vanish()
        (key,) = keys(lease)
        async with real_fleet(tmp_path) as fleet:
            late = fleet.fleet.late_results
            told: list[tuple[str, Status]] = []

            def listen(found: Sequence[tuple[Candidate, Measurement]]) -> None:
                told.extend((candidate.key, result.status) for candidate, result in found)

            late.listen(lease.job_id, listen)
            waiting = asyncio.create_task(late.hear_out(lease.job_id))
            await asyncio.wait_for(late.hear_out("another job"), 1.0)  # has nothing to wait for
            after = await newcomer(fleet)
            await after.send(Measurement(WORKLOAD, key, Status.CRASHED, lease_id=lease.lease_id))
            assert await after.receive() == Acknowledgement(lease.lease_id, key)
            assert told == [(key, Status.CRASHED)]
            assert not waiting.done()
            await after.send(Heartbeat(Telemetry()))
            await asyncio.wait_for(waiting, PATIENCE_S)
            late.forget(lease.job_id)
            await after.send(Measurement(WORKLOAD, key, Status.CRASHED, lease_id=lease.lease_id))
            await after.receive()
            assert len(told) == 1
            await after.vanish()

    asyncio.run(scenario())


def test_a_job_does_not_wait_for_ever_for_a_device_that_stays_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            measuring = asyncio.create_task(_measure(fleet, ["doubled"]))
            fake = await newcomer(fleet)
            lease = await leased(fake)
            await lose(fleet, fake)
            monkeypatch.setattr(late_results, "LONGEST_ABSENCE_S", 0.5)
            await asyncio.wait_for(fleet.fleet.late_results.hear_out(lease.job_id), PATIENCE_S)
            measuring.cancel()

    asyncio.run(scenario())


def test_who_was_on_a_lost_device_goes_on_alone_and_only_the_culprit_is_given_up(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            names = ["doubled", "wrong", "exits"]
            measuring = asyncio.create_task(_measure(fleet, names))
            fake = await newcomer(fleet)
            together = await leased(fake)
            assert len(keys(together)) == 3
            culprit = keys(together)[1]
            await lose(fleet, fake)
            losses = 1
            seen = []
            while losses < 3:
                fake = await newcomer(fleet)
                lease = await leased(fake)
                while keys(lease) != [culprit]:
                    assert len(keys(lease)) == 1
                    seen += keys(lease)
                    await answer(fleet, fake, lease)
                    lease = await leased(fake)
                losses += 1
                await lose(fleet, fake)
            fake = await newcomer(fleet)
            while len(seen) < 2:
                lease = await leased(fake)
                seen += keys(lease)
                await answer(fleet, fake, lease)
            measurements = await asyncio.wait_for(measuring, PATIENCE_S)
            assert sorted(seen) == sorted(set(keys(together)) - {culprit})
            statuses = {m.candidate_key: m.status for m in measurements}
            assert statuses.pop(culprit) is Status.DEVICE_LOST
            assert set(statuses.values()) == {Status.CRASHED}
            poison = await fleet.fleet.lease_log.poisonous(
                fake.device.kind, [kernel(name).sha256 for name in names]
            )
            assert poison == {kernel("wrong").sha256: 3}
            await fake.vanish()

    asyncio.run(scenario())


def test_a_network_that_goes_is_nobodys_fault(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            measuring = asyncio.create_task(_measure(fleet, ["doubled"]))
            for _ in range(MAX_ATTEMPTS + 2):
                fake = await newcomer(fleet, instance="one process")
                lease = await leased(fake)
                await lose(fleet, fake)
            fake = await newcomer(fleet, instance="one process")
            lease = await leased(fake)
            await answer(fleet, fake, lease)
            (measurement,) = await asyncio.wait_for(measuring, PATIENCE_S)
            assert measurement.status is Status.CRASHED
            artifact = kernel("doubled").sha256
            assert not await fleet.fleet.lease_log.poisonous(fake.device.kind, [artifact])
            await fake.vanish()

    asyncio.run(scenario())


def test_an_agent_that_says_goodbye_blames_nobody(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            measuring = asyncio.create_task(_measure(fleet, ["doubled", "doubled"]))
            for _ in range(MAX_ATTEMPTS + 1):
                fake = await newcomer(fleet)
                lease = await leased(fake)
                assert len(keys(lease)) == 2, "still together"
                await fake.send(Goodbye())
                await lose(fleet, fake)
            measuring.cancel()

    asyncio.run(scenario())


def test_a_real_agent_says_goodbye_when_it_is_stopped_and_not_when_it_is_killed(
    tmp_path: Path,
) -> None:
    async def lost(fleet: RealFleet, number: int) -> bool:
        with agent(fleet.port, "board", TARGET) as process:
            await fleet.devices(TARGET, 1)
            while not any(s.leases for s in fleet.fleet.registry.sessions.values()):
                await asyncio.sleep(0.02)
            process.send_signal(number)
            await fleet.devices(TARGET, 0)
        return "board" in fleet.fleet._vanished

    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            measuring = asyncio.create_task(_measure(fleet, ["endless", "doubled"]))
            assert not await lost(fleet, signal.SIGTERM)
            assert await lost(fleet, signal.SIGKILL)
            measuring.cancel()

    asyncio.run(scenario())


async def refuse(fleet: RealFleet, fake: FakeAgent, lease: Any) -> None:
    """A device can't do a lease; returns when the fleet knows."""
    await fake.send(LeaseFinished(lease.lease_id, "no space left on device"))
    while fleet.fleet.queue.leases.held(lease.lease_id):
        await asyncio.sleep(0.01)


def _model_run(fleet: RealFleet, kind: str) -> asyncio.Task[Any]:
    work = ModelWork((ModelVariant("tuned", kernel("doubled")),), kernel("doubled"), QUICK, 1)
    return asyncio.create_task(fleet.fleet.measure_model("j", kind, work))


@pytest.mark.parametrize("whole_model", [False, True])
def test_what_a_device_refuses_goes_to_another_and_not_to_it_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_model: bool
) -> None:
    monkeypatch.setattr(leases, "REST_S", PATIENCE_S)

    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            full = FakeAgent(fleet.port, "full")
            await full.register()
            if whole_model:
                measuring = _model_run(fleet, full.device.kind)
            else:
                measuring = asyncio.create_task(_measure(fleet, ["doubled"]))
            refused = await leased(full)
            await refuse(fleet, full, refused)
            session = fleet.fleet.registry.session_of("full")
            assert session is not None
            well = FakeAgent(fleet.port, "well")
            await well.register()
            lease = await leased(well)
            assert not session.leases, "it rests"
            if whole_model:
                assert lease.model == refused.model
                result = VariantResult("tuned", Status.CRASHED)
                said = ModelMeasurement(lease.lease_id, (result,), circumstances("well"))
                await well.send(said)
                assert await asyncio.wait_for(measuring, PATIENCE_S) == said
            else:
                assert keys(lease) == keys(refused)
                await answer(fleet, well, lease)
                (measurement,) = await asyncio.wait_for(measuring, PATIENCE_S)
                assert measurement.status is Status.CRASHED
            await well.vanish()
            await full.vanish()

    asyncio.run(scenario())


def test_a_device_that_refused_is_asked_again_after_its_rest_if_there_is_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "REST_S", 0.2)

    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            only = await newcomer(fleet)
            measuring = asyncio.create_task(_measure(fleet, ["doubled"]))
            await refuse(fleet, only, await leased(only))
            await answer(fleet, only, await leased(only))
            (measurement,) = await asyncio.wait_for(measuring, PATIENCE_S)
            assert measurement.status is Status.CRASHED
            await only.vanish()

    asyncio.run(scenario())


def test_each_further_refusal_makes_the_rest_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 4.9, 5.1, 5.1, 20.0, 20.2])
    monkeypatch.setattr(leases, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    device = FakeAgent.describe("full")
    batch = leases.Batch("job", device.kind, _work())
    session = Registry(lambda: 0.0).join(device)
    batch.rest(session)
    assert [batch.resting, batch.resting] == [{session.session_id}, set()]
    batch.rest(session)
    assert [batch.resting, batch.resting] == [{session.session_id}, set()]


class LogAway:
    """A fake, because no database is away for just one transaction: in place of a log's
    ``record_many``, it refuses so often to write results, or (``leases``) what is none."""

    def __init__(self, log: TuningLog, times: int = 1, leases: bool = False) -> None:
        self._write = log.record_many
        self._leases = leases
        self.left = times

    def __call__(self, results: Sequence[Any], also: Sequence[Any] = ()) -> Any:
        if self.left and (also if self._leases else results):
            self.left -= 1
            raise LogUnavailable("it is restarted")
        return self._write(results, also)


def test_a_trial_is_not_forgotten_because_the_log_was_away_when_it_was_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            away = LogAway(fleet.log)
            monkeypatch.setattr(fleet.log, "record_many", away)
            measuring = asyncio.create_task(_measure(fleet, ["doubled"]))
            for _ in range(MAX_ATTEMPTS):
                fake = await newcomer(fleet)
                await leased(fake)
                await lose(fleet, fake)
            fake = await newcomer(fleet)
            await answer(fleet, fake, await leased(fake))
            (measurement,) = await asyncio.wait_for(measuring, PATIENCE_S)
            assert away.left == 0
            assert measurement.status is Status.CRASHED

    asyncio.run(scenario())


def test_a_lease_waits_for_a_log_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            away = LogAway(fleet.log, leases=True)
            fake = await newcomer(fleet)
            monkeypatch.setattr(fleet.log, "record_many", away)
            measuring = asyncio.create_task(_measure(fleet, ["doubled"]))
            await answer(fleet, fake, await leased(fake))
            (measurement,) = await asyncio.wait_for(measuring, PATIENCE_S)
            assert away.left == 0
            assert measurement.status is Status.CRASHED

    asyncio.run(scenario())


def test_nobody_is_blamed_for_a_log_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            away = LogAway(fleet.log, times=MAX_ATTEMPTS + 1)
            monkeypatch.setattr(fleet.log, "record_many", away)
            measuring = asyncio.create_task(_measure(fleet, ["doubled"]))
            while away.left:
                fake = await newcomer(fleet)
                lease = await leased(fake)
                (key,) = keys(lease)
                result = Measurement(WORKLOAD, key, Status.CRASHED, lease_id=lease.lease_id)
                await fake.send(result)  # not acknowledged: the session ends
                await fleet.devices(TARGET, 0)
                await fake.vanish()
            fake = await newcomer(fleet)
            await answer(fleet, fake, await leased(fake))
            (measurement,) = await asyncio.wait_for(measuring, PATIENCE_S)
            assert measurement.status is Status.CRASHED, "and not given up as lost with its device"

    asyncio.run(scenario())
