"""Suspect measurements are made again, and a device whose canary stays off gets no work."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

from coordinator.fleet.fleet import MAX_ATTEMPTS
from coordinator.fleet.registry import Registry
from coordinator.fleet.set_aside import (
    FIRST_PAUSE_S,
    LEASES_IN_A_ROW,
    LONGEST_PAUSE_S,
    Standing,
    after_lease,
)
from coordinator.job_runner import stage_line
from coordinator.stages import StageClock
from protos.records import (
    Artifact,
    Candidate,
    DeviceState,
    EvaluatorConfig,
    KernelWork,
    Lease,
    LeaseFinished,
    Measurement,
    MeasurementStatus,
)
from tests.farm import PATIENCE_S, RealFleet, real_fleet
from tests.kernels import VECTORS, target_json
from tests.test_fleet import FakeAgent, circumstances

WORKLOAD = "workload-of-the-test"
WATCHED = EvaluatorConfig(repeat=3, timeout_s=2.0, canary_every=16, canary_drift=0.15)
TARGET = target_json()
BYTES = Artifact.of(b"the bytes of a kernel that nobody runs")
CANARY = Artifact.of(b"the bytes of a canary that nobody runs")

Status = MeasurementStatus


def after(*ratios: float, now: float = 0.0, standing: Standing | None = None) -> Standing:
    standing = standing or Standing()
    for ratio in ratios:
        standing = after_lease(standing, ratio, WATCHED.drifts(ratio), now)
    return standing


# ------------------------------------------------------------------------------- decisions


def test_three_leases_in_a_row_set_a_device_aside_and_it_is_tried_again() -> None:
    assert not after(1.31, 1.28).aside(0.0)
    assert not after(1.31, 1.28, 1.0, 1.35).aside(0.0), "not in a row"
    aside = after(1.31, 1.28, 1.35)
    assert aside.aside(0.0)
    assert aside.reason(1.0) == (
        "canary drifts: 1.31, 1.28, 1.35 of its reference; tried again in 4 s"
    )
    assert not aside.aside(FIRST_PAUSE_S)
    assert aside.reason(FIRST_PAUSE_S) == ""


def test_pauses_double_until_a_lease_is_good() -> None:
    standing, now, pauses = after(*[1.3] * LEASES_IN_A_ROW), 0.0, []
    for _ in range(9):
        pauses.append(standing.until - now)
        now = standing.until
        standing = after(1.3, now=now, standing=standing)
    assert pauses == [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
    assert after(1.0, now=now, standing=standing) == Standing()


def test_a_lease_that_it_held_already_makes_the_pause_no_longer() -> None:
    aside = after(*[1.3] * LEASES_IN_A_ROW)
    assert after(1.4, now=1.0, standing=aside).until == aside.until


def test_a_canary_that_failed_is_told_apart() -> None:
    assert after(*[math.inf] * 3).reason(0.0) == "canary failed; tried again in 5 s"
    assert "canary drifts: 1.30, 1.30" in after(math.inf, 1.3, 1.3).reason(0.0)


class SetClock:
    """A clock that the test sets: nobody waits for ten minutes."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_device_set_aside_is_shown_with_its_reason() -> None:
    clock = SetClock()

    async def scenario() -> None:
        registry = Registry(clock)
        device = FakeAgent.describe("board")
        registry.join(device)
        for ratio in (1.31, 1.28, 1.35):
            registry.lease_ended("board", ratio, True)
        (status,) = registry.statuses({})
        assert status.state is DeviceState.SET_ASIDE
        assert "1.31, 1.28, 1.35 of its reference" in status.last_error
        assert registry.none_left(device.kind).startswith("board (canary drifts")
        waits = stage_line("tuning", registry.none_left(device.kind))
        assert waits.startswith("tuning; it waits for a device: board (canary")
        assert stage_line("tuning", "") == "tuning"
        assert registry.none_left("another kind") == ""
        registry.join(FakeAgent.describe("other"))
        assert registry.none_left(device.kind) == "", "the other one works"
        clock.now = FIRST_PAUSE_S
        assert [s.state for s in registry.statuses({})] == [DeviceState.IDLE] * 2

    asyncio.run(scenario())


# ------------------------------------------------------------------------------- the fleet


async def _measure(fleet: RealFleet, count: int = 1) -> list[Measurement]:
    job_id = fleet.job_with(WORKLOAD, VECTORS)
    trials: list[tuple[Candidate, Artifact, float | None]] = [
        (Candidate(WORKLOAD, f"[{index}]"), BYTES, None) for index in range(count)
    ]
    device = await asyncio.wait_for(fleet.fleet.device_for(TARGET), PATIENCE_S)
    work = KernelWork(WORKLOAD, VECTORS, 1, 0, BYTES, WATCHED, (), canary=CANARY)
    return await asyncio.wait_for(
        fleet.fleet.measure(job_id, device.kind, work, trials, StageClock()), PATIENCE_S
    )


async def _next_lease(agent: FakeAgent) -> Lease:
    while not isinstance(record := await agent.receive(), Lease):
        pass
    return record


async def _answer(agent: FakeAgent, lease: Lease, status: Status, ratio: float) -> None:
    """What an agent says whose canary took ``ratio`` after the lease's measurements."""
    assert lease.kernel is not None
    for trial in lease.kernel.trials:
        how = circumstances(agent.device.name)
        await agent.send(
            Measurement(
                *(WORKLOAD, trial.candidate_key, status, lease.lease_id, "", (1e-3,)),
                circumstances=how,
            )
        )
    await agent.send(LeaseFinished(lease.lease_id, "", ratio))


def test_a_suspect_measurement_is_logged_and_made_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            agent = FakeAgent(fleet.port)
            await agent.register()
            measuring = asyncio.create_task(_measure(fleet, 2))
            first = await _next_lease(agent)
            assert first.kernel is not None
            assert first.kernel.canary == CANARY
            await _answer(agent, first, Status.SUSPECT, 1.3)
            second = await _next_lease(agent)
            assert second.kernel is not None
            assert len(second.kernel.trials) == 2
            assert second.kernel.canary == CANARY.without_data(), "its bytes travel once"
            await _answer(agent, second, Status.OK, 1.0)
            measurements = await asyncio.wait_for(measuring, PATIENCE_S)
            assert [measurement.status for measurement in measurements] == [Status.OK] * 2
            logged = fleet.log.outcomes(WORKLOAD, agent.device.kind)
            assert [o.status for o in logged] == [Status.SUSPECT] * 2 + [Status.OK] * 2
            assert [o.latency_us for o in logged[:2]] == [None, None]
            await agent.vanish()

    asyncio.run(scenario())


def test_a_trial_that_is_suspect_three_times_stays_so_and_its_device_is_set_aside(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            agent = FakeAgent(fleet.port)
            await agent.register()
            measuring = asyncio.create_task(_measure(fleet))
            for ratio in (1.31, 1.28, 1.35):
                await _answer(agent, await _next_lease(agent), Status.SUSPECT, ratio)
            (measurement,) = await asyncio.wait_for(measuring, PATIENCE_S)
            assert measurement.status is Status.SUSPECT
            logged = fleet.log.outcomes(WORKLOAD, agent.device.kind)
            assert [o.status for o in logged] == [Status.SUSPECT] * MAX_ATTEMPTS
            while fleet.fleet.registry.none_left(agent.device.kind) == "":
                await asyncio.sleep(0.01)  # the last lease ends after its result
            (status,) = fleet.fleet.registry.statuses({})
            assert status.state is DeviceState.SET_ASIDE
            await agent.vanish()

    asyncio.run(scenario())


def test_a_lease_that_the_canary_refuses_costs_its_trials_no_attempt(tmp_path: Path) -> None:
    """Set aside in the end, the device leaves the trials waiting; another one measures them."""

    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            agent = FakeAgent(fleet.port)
            await agent.register()
            measuring = asyncio.create_task(_measure(fleet))
            for _ in range(LEASES_IN_A_ROW):
                lease = await _next_lease(agent)
                await agent.send(LeaseFinished(lease.lease_id, "the canary drifts", 1.4))
            while fleet.fleet.registry.none_left(agent.device.kind) == "":
                await asyncio.sleep(0.01)
            assert not measuring.done()
            other = FakeAgent(fleet.port, "other")
            await other.register()
            await _answer(other, await _next_lease(other), Status.OK, 1.0)
            (measurement,) = await asyncio.wait_for(measuring, PATIENCE_S)
            assert measurement.ok
            await agent.vanish()
            await other.vanish()

    asyncio.run(scenario())
