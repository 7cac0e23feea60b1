"""What people decide of devices and jobs: drain, quarantine, forget; priorities, pauses, quotas."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from coordinator.client import FarmClient
from coordinator.stages import StageClock
from coordinator.tuning_log import TuningLog
from coordinator.tuning_log.users import Quota, known, quotas, set_quota
from protos import farm_pb2, rpc
from protos.errors import BadRequest, Conflict, Forbidden, NotFound
from protos.farm_pb2_grpc import FarmStub
from protos.records import (
    Artifact,
    Candidate,
    DeviceAction,
    DeviceState,
    EvaluatorConfig,
    Job,
    JobSpec,
    JobState,
    KernelWork,
    Measurement,
    Priority,
    TensorSpec,
    sha256_hex,
)
from tests.farm import PATIENCE_S, RealFleet, agent, real_fleet, served, until
from tests.models import small_model
from tests.test_security_farm import run

pytest_plugins = ("tests.postgres",)

TARGET = '{"kind":"llvm","mcpu":"cortex-a72","num-cores":4}'
ARGS = (TensorSpec((4,), "float32"),) * 2
WORK = KernelWork("w" * 64, ARGS, 1, 0, Artifact.of(b"reference"), EvaluatorConfig(repeat=1), ())


# ------------------------------------------------------------------------------- devices


async def measure(farm: RealFleet, job_id: str, names: str) -> list[Measurement]:
    """As many candidates of one job as there are letters."""
    device = await farm.fleet.device_for(TARGET)
    trials = [
        (Candidate(WORK.workload_key, f"{job_id} {name}"), Artifact.of(name.encode() * 9), None)
        for name in names
    ]
    return await farm.fleet.measure(job_id, device.kind, WORK, trials, StageClock())


def state(farm: RealFleet, name: str) -> tuple[DeviceState, str]:
    known = farm.log.devices()
    (found,) = [s for s in farm.fleet.registry.statuses({}, known) if s.device.name == name]
    return found.state, found.last_error


def by_device(measurements: list[Measurement]) -> Counter[str]:
    return Counter(m.circumstances.device for m in measurements if m.circumstances is not None)


LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEF"


def test_a_drained_device_finishes_and_takes_nothing_new_until_it_is_resumed(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with real_fleet(tmp_path) as farm:
            job_id = farm.job_with(WORK.workload_key, ARGS)
            with (
                agent(farm.port, "left", TARGET, replay="20ms"),
                agent(farm.port, "right", TARGET, replay="20ms"),
            ):
                await asyncio.wait_for(farm.devices(TARGET, 2), PATIENCE_S)
                first = asyncio.create_task(measure(farm, job_id, LETTERS))
                await asyncio.sleep(0.1)  # each has its leases now
                await farm.fleet.control("left", DeviceAction.DRAIN, "new fan", "alice")
                assert state(farm, "left") == (DeviceState.DRAINED, "drained by alice: new fan")
                assert by_device(await first) == {"left": 16, "right": 16}
                assert by_device(await measure(farm, job_id, "123456")) == {"right": 6}
                await farm.fleet.control("left", DeviceAction.RESUME, "", "alice")
                assert state(farm, "left") == (DeviceState.IDLE, "")
                assert by_device(await measure(farm, job_id, "7890")) == {"left": 2, "right": 2}

    asyncio.run(scenario())


def test_what_a_quarantined_device_holds_goes_to_others_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with real_fleet(tmp_path) as farm:
            job_id = farm.job_with(WORK.workload_key, ARGS)
            with (
                agent(farm.port, "left", TARGET, replay="30ms"),
                agent(farm.port, "right", TARGET, replay="30ms"),
            ):
                await asyncio.wait_for(farm.devices(TARGET, 2), PATIENCE_S)
                first = asyncio.create_task(measure(farm, job_id, LETTERS))
                await asyncio.sleep(0.2)
                await farm.fleet.control("left", DeviceAction.QUARANTINE, "", "alice")
                assert state(farm, "left") == (DeviceState.QUARANTINED, "quarantined by alice")
                done = by_device(await first)
                assert done["left"] < 16
                assert done.total() == len(LETTERS), "each once"
                assert farm.log.device_measurements() == done

    asyncio.run(scenario())


def test_a_decision_outlives_agent_and_coordinator(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with real_fleet(tmp_path) as farm:
            with agent(farm.port, "left", TARGET, replay="10ms"):
                await asyncio.wait_for(farm.devices(TARGET, 1), PATIENCE_S)
            await asyncio.wait_for(farm.devices(TARGET, 0), PATIENCE_S)
            await farm.fleet.control("left", DeviceAction.QUARANTINE, "odd", "alice")
        async with real_fleet(tmp_path) as farm:
            await farm.fleet.load_holds()
            now, why = state(farm, "left")
            assert (now, why) == (DeviceState.GONE, "quarantined by alice: odd")
            with agent(farm.port, "left", TARGET, replay="10ms"):
                await asyncio.wait_for(farm.devices(TARGET, 1), PATIENCE_S)
                assert state(farm, "left")[0] is DeviceState.QUARANTINED
                kind = (await farm.fleet.device_for(TARGET)).kind
                assert "left (quarantined by alice: odd)" in farm.fleet.registry.none_left(kind)

    asyncio.run(scenario())


def test_a_device_that_is_gone_can_be_forgotten_and_its_measurements_stay(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with real_fleet(tmp_path) as farm:
            job_id = farm.job_with(WORK.workload_key, ARGS)
            with agent(farm.port, "left", TARGET, replay="10ms", labels=["rack=3"]):
                await asyncio.wait_for(farm.devices(TARGET, 1), PATIENCE_S)
                await measure(farm, job_id, "abc")
                with pytest.raises(Conflict, match="left is connected"):
                    await farm.fleet.control("left", DeviceAction.FORGET, "", "alice")
            await asyncio.wait_for(farm.devices(TARGET, 0), PATIENCE_S)
            assert state(farm, "left")[0] is DeviceState.GONE
            await farm.fleet.control("left", DeviceAction.FORGET, "", "alice")
            assert farm.fleet.registry.statuses({}, farm.log.devices()) == []
            assert farm.log.device_measurements() == {"left": 3}
            for action in DeviceAction:
                with pytest.raises(NotFound, match="no device named 'left'"):
                    await farm.fleet.control("left", action, "", "alice")

    asyncio.run(scenario())


def test_two_jobs_share_a_device_by_their_weights(tmp_path: Path) -> None:
    """Each always has more to measure; after 30 leases the one has had about four times as much."""

    async def scenario() -> None:
        async with real_fleet(tmp_path) as farm:
            jobs = [farm.job_with(WORK.workload_key, ARGS) for _ in range(2)]
            farm.fleet.queue.set_weight(jobs[0], Priority.HIGH.weight)
            farm.fleet.queue.set_weight(jobs[1], Priority.NORMAL.weight)
            with agent(farm.port, "left", TARGET, replay="3ms"):
                await asyncio.wait_for(farm.devices(TARGET, 1), PATIENCE_S)
                names = "".join(map(chr, range(0x4E00, 0x4E00 + 400)))
                both = [asyncio.create_task(measure(farm, job_id, names)) for job_id in jobs]
                while sum((count := _measured(farm, jobs)).values()) < 400:
                    await asyncio.sleep(0.05)
                assert 2.5 < count[jobs[0]] / count[jobs[1]] < 5.5
                for task in both:
                    task.cancel()
                await asyncio.gather(*both, return_exceptions=True)

    asyncio.run(scenario())


def _measured(farm: RealFleet, jobs: list[str]) -> dict[str, int]:
    return {job_id: len(farm.log.history(job_id).records) for job_id in jobs}


# ------------------------------------------------------------------------------- quotas


def test_quotas_are_kept(log: TuningLog) -> None:
    with log.writing() as connection:
        set_quota(connection, "alice", Quota(2, Priority.NORMAL))
        set_quota(connection, "bob", Quota())
    log.add_job(JobSpec("m", "0" * 64, "{}", 1, submitted_by="alice"), "here", embedded=False)
    with log.writing() as connection:
        assert quotas(connection) == {"alice": Quota(2, Priority.NORMAL)}
        assert [(u.name, u.jobs) for u in known(connection)] == [("alice", 1), ("bob", 0)]
        set_quota(connection, "alice", Quota())
        assert quotas(connection) == {}


# ------------------------------------------------------------------------------- a coordinator


@dataclass(frozen=True)
class Farm:
    """A running coordinator with one replayed device."""

    log: Path
    client: FarmClient

    def submit(self, user: str, priority: Priority = Priority.NORMAL) -> Job:
        model = small_model()
        spec = JobSpec(
            "small", sha256_hex(model), TARGET, 100_000, submitted_by=user, canary_drift=100.0
        )
        return self.client.submit(_with(spec, priority), model)

    def until(self, job: Job, condition: Callable[[Job], bool]) -> Job:
        return until(self.client, job, condition)

    def until_tuning(self, job: Job) -> Job:
        return self.until(job, lambda now: now.trials.total > 0)


def _with(spec: JobSpec, priority: Priority) -> JobSpec:
    from dataclasses import replace

    return replace(spec, priority=priority)


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    folder = tmp_path_factory.mktemp("farm")
    with (
        served(folder) as port,
        agent(port, "replayed", TARGET, replay="5ms"),
        FarmClient(f"127.0.0.1:{port}") as client,
    ):
        yield Farm(folder / "log.db", client)


def command(farm: Farm, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(*arguments, "--coordinator", farm.client.address)


def test_a_short_job_does_not_wait_for_a_long_one_and_a_paused_one_goes_on(farm: Farm) -> None:
    long = farm.submit("alice")
    farm.until_tuning(long)
    short = farm.submit("bob")
    farm.until_tuning(short)
    assert farm.client.job(long.job_id).state is JobState.RUNNING

    paused = command(farm, "jobs", "pause", long.job_id)
    assert paused.returncode == 0, paused.stderr
    assert "paused" in paused.stdout
    with pytest.raises(Conflict, match="paused already"):
        farm.client.pause(long.job_id)
    before = farm.client.job(long.job_id).trials.total
    done = farm.client.job(short.job_id).trials.total
    farm.until(short, lambda now: now.trials.total > done)
    held = farm.client.job(long.job_id)
    assert (held.state, held.trials.total) == (JobState.PAUSED, before)

    resumed = command(farm, "jobs", "resume", long.job_id)
    assert resumed.returncode == 0, resumed.stderr
    farm.until(long, lambda now: now.trials.total > before)
    with pytest.raises(Conflict, match="is not paused"):
        farm.client.resume(long.job_id)
    farm.client.pause(long.job_id)
    for job in (long, short):
        assert farm.client.cancel(job.job_id).state is JobState.CANCELLED
        for call in (farm.client.cancel, farm.client.pause, farm.client.resume):
            with pytest.raises(Conflict):
                call(job.job_id)


def test_priorities_and_quotas_are_heeded(farm: Farm) -> None:
    limits = ("users", "set", "carol", "--log", str(farm.log))
    done = run(*limits, "--max-running", "1", "--highest-priority", "normal")
    assert done.returncode == 0, done.stderr
    with pytest.raises(Forbidden, match="carol's jobs have the priority normal at most"):
        farm.submit("carol", Priority.HIGH)
    first, second = farm.submit("carol"), farm.submit("carol", Priority.LOW)
    farm.until_tuning(first)
    farm.until(second, lambda now: now.stage == "waiting: carol may have 1 running at a time")
    refused = command(farm, "jobs", "priority", first.job_id, "high")
    assert (refused.returncode, "normal at most" in refused.stderr) == (2, True)
    assert run(*limits, "--max-running", "any", "--highest-priority", "any").returncode == 0
    changed = command(farm, "jobs", "priority", first.job_id, "high")
    assert changed.returncode == 0, changed.stderr
    assert farm.client.job(first.job_id).spec.priority is Priority.HIGH
    farm.until_tuning(second)
    listed = command(farm, "jobs", "list")
    assert re.search(rf"{first.job_id} .* high ", listed.stdout)
    shown = run("users", "list", "--log", str(farm.log))
    assert re.search(r"carol +2 +any +any", shown.stdout)
    for job in (first, second):
        farm.client.cancel(job.job_id)


def test_devices_are_drained_by_the_command(farm: Farm) -> None:
    job = farm.submit("dave")
    farm.until_tuning(job)
    done = command(farm, "devices", "drain", "replayed", "--reason", "new fan")
    assert "replayed: drained (drained by the coordinator's machine: new fan)" in done.stdout
    farm.until(job, lambda now: "replayed (drained by" in now.stage)
    assert "drained" in command(farm, "devices").stdout
    assert "replayed: " in command(farm, "devices", "resume", "replayed").stdout
    total = farm.client.job(job.job_id).trials.total
    farm.until(job, lambda now: now.trials.total > total)
    farm.client.cancel(job.job_id)
    for arguments, complaint in (
        (("devices", "forget", "replayed"), "stop its agent"),
        (("devices", "drain", "nobody"), "no device named 'nobody'"),
    ):
        refused = command(farm, *arguments)
        assert (refused.returncode, complaint in refused.stderr) == (2, True)
    with (
        rpc.channel(farm.client.address) as channel,
        pytest.raises(BadRequest, match="0 is no DeviceAction"),
        rpc.client_errors("nothing", farm.client.address),
    ):
        stub = FarmStub(channel)  # type: ignore[no-untyped-call]
        stub.ControlDevice(farm_pb2.ControlDeviceRequest(device="replayed"), timeout=10)
