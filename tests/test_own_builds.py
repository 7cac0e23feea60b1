"""`tunefarm agent --build`: a device that builds what it measures."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np
import psutil
import pytest

from coordinator.experiments import EVALUATOR, Experiments, Lab
from coordinator.fleet.builders import Builders
from coordinator.fleet.own_builds import BATCHES_PER_DEVICE
from coordinator.search.proposer import Proposal
from coordinator.selection import ANY, Selector
from coordinator.stages import StageClock
from coordinator.task_run import TaskRun
from device_agent.artifacts import ArtifactCache
from device_agent.build import BuildOutcome, build_kernel, tool_versions
from device_agent.devices.cpu import describe_cpu
from device_agent.own_builds import OwnBuilds
from device_agent.runtime import find_runtime
from protos.errors import ProtocolViolation
from protos.records import (
    Artifact,
    Build,
    BuildWork,
    Built,
    CancelLease,
    Candidate,
    Device,
    DeviceAction,
    JobSpec,
    Lease,
    LeaseFinished,
    Measurement,
    MeasurementStatus,
    Task,
    sha256_hex,
)
from protos.selectors import parse_conditions
from tests import kernels
from tests.farm import PATIENCE_S, RealFleet, agent, real_fleet
from tests.test_fleet import FakeAgent

Status = MeasurementStatus

WORKLOAD = kernels.workload_json(kernels.matmul())
KEY = sha256_hex(WORKLOAD.encode())
TASK = Task("a matmul", KEY, WORKLOAD, 1, kernels.matmul_args(), 1, 2.0 * 64**3)
TARGET = kernels.target_json()
TUNED = Candidate(KEY, kernels.matmul_trace())
BROKEN = Candidate(KEY, '[[["GetSBlock", [], ["nobody", "main"], ["b0"]]], []]')
TOOLS = {"a compiler": "1"}
NO_FEATURES = np.zeros(0, dtype=np.float32)


class CountingBuilders:
    """In place of the build workers on Ray: builds in a thread, and keeps what it was asked for."""

    def __init__(self) -> None:
        self.built: list[str] = []

    async def build(self, task: Task, candidate: Candidate, target_json: str) -> BuildOutcome:
        self.built.append(candidate.trace_json)
        trace = candidate.trace_json
        return await asyncio.to_thread(build_kernel, task.workload_json, trace, target_json)


def lab_of(fleet: RealFleet, device: Device, builders: CountingBuilders) -> Lab:
    job = fleet.log.add_job(JobSpec("m", "0" * 64, TARGET, trials=9), "test", embedded=True)
    fleet.log.set_tasks(job.job_id, [TASK])
    return Lab(
        *(job.job_id, 0, device, fleet.log, fleet.fleet, cast(Builders, builders), StageClock()),
        replace(EVALUATOR, canary_every=0),
        device.builds_with or TOOLS,
    )


def test_a_real_agent_builds_what_it_measures(tmp_path: Path) -> None:
    """The coordinator builds the reference, and the best, which others are compared with."""

    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            with agent(fleet.port, "builds", TARGET, "0", build=1):
                device = await asyncio.wait_for(fleet.fleet.device_for(TARGET), PATIENCE_S)
                assert device.builds_with == tool_versions()
                builders = CountingBuilders()
                lab, run = lab_of(fleet, device, builders), TaskRun(TASK)
                experiments = Experiments(lab)
                proposals = [
                    Proposal(TUNED, NO_FEATURES, None),
                    Proposal(BROKEN, NO_FEATURES, None),
                ]
                tuned, broken = await asyncio.wait_for(experiments.run(run, proposals), PATIENCE_S)
            here = build_kernel(WORKLOAD, TUNED.trace_json, TARGET)
            assert here.artifact is not None
            assert (tuned.status, tuned.artifact_sha256) == (Status.OK, here.artifact.sha256)
            refused = build_kernel(WORKLOAD, BROKEN.trace_json, TARGET)
            assert (broken.status, broken.error) == (Status.BUILD_ERROR, refused.error)
            assert builders.built == ["", TUNED.trace_json]
            assert run.artifacts == {TUNED.key: here.artifact}
            assert tuned.circumstances is not None
            logged = fleet.log.outcomes(KEY, device.kind)
            assert sorted(outcome.status for outcome in logged) == [Status.OK, Status.BUILD_ERROR]

    asyncio.run(scenario())


# ------------------------------------------------------------------------------- the coordinator


class BuildingAgent(FakeAgent):
    """A fake, because no real agent leaves at just this moment."""

    def __init__(self, port: int, name: str = "fake", **said: Any) -> None:
        super().__init__(port, name)
        self.device = replace(self.device, **{"builds_with": TOOLS, **said})

    async def lease(self) -> Lease:
        while not isinstance(said := await self.receive(), Lease):
            pass
        return said

    async def builds(self, lease: Lease) -> None:
        """Say that all of it was built."""
        assert lease.build is not None
        for build in lease.build.builds:
            artifact = Artifact.of(b"code of " + build.trace_json.encode())
            await self.send(Built(lease.lease_id, build.candidate_key, Status.OK, "", artifact))
        await self.send(LeaseFinished(lease.lease_id))

    async def measures(self, lease: Lease) -> None:
        """Say that all of it crashed."""
        assert lease.kernel is not None
        for trial in lease.kernel.trials:
            await self.send(
                Measurement(KEY, trial.candidate_key, Status.CRASHED, lease_id=lease.lease_id)
            )
        await self.send(LeaseFinished(lease.lease_id))


PROPOSALS = [Proposal(TUNED, NO_FEATURES, None), Proposal(Candidate(KEY, ""), NO_FEATURES, None)]
TRACES = [proposal.candidate.trace_json for proposal in PROPOSALS]


@contextlib.asynccontextmanager
async def experiment(
    fleet: RealFleet, builder: BuildingAgent
) -> AsyncIterator[tuple[CountingBuilders, asyncio.Task[list[Measurement]]]]:
    """A batch that the builder was given to build."""
    await builder.register()
    device = await asyncio.wait_for(fleet.fleet.device_for(builder.device.target_json), PATIENCE_S)
    builders = CountingBuilders()
    lab = lab_of(fleet, device, builders)
    running = asyncio.create_task(Experiments(lab).run(TaskRun(TASK), PROPOSALS))
    try:
        yield builders, running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await builder.vanish()


def test_a_batch_goes_to_one_device_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            builder, other = BuildingAgent(fleet.port), FakeAgent(fleet.port, "other")
            await other.register()
            async with experiment(fleet, builder) as (builders, running):
                lease = await builder.lease()
                assert lease.build is not None
                assert [build.trace_json for build in lease.build.builds] == TRACES
                assert lease.build.workload_json == WORKLOAD
                await builder.builds(lease)
                work = await builder.lease()
                assert work.kernel is not None
                assert len(work.kernel.trials) == 2
                assert not any(trial.artifact.data for trial in work.kernel.trials)
                await builder.measures(work)
                measured = await asyncio.wait_for(running, PATIENCE_S)
                assert [one.status for one in measured] == [Status.CRASHED] * 2
                assert builders.built == [""]  # the reference
            await other.send(Measurement(KEY, "c", Status.CRASHED, "a question"))
            assert await other.receive() == CancelLease("a question")  # it was given nothing
            await other.vanish()

    asyncio.run(scenario())


async def _leaves_while_it_builds(fleet: RealFleet, builder: BuildingAgent) -> None:
    lease = await builder.lease()
    assert lease.build is not None
    key = lease.build.builds[0].candidate_key
    await builder.send(Built(lease.lease_id, key, Status.OK, "", Artifact.of(b"half a batch")))
    await builder.vanish()


async def _leaves_before_it_measures(fleet: RealFleet, builder: BuildingAgent) -> None:
    await builder.builds(await builder.lease())
    await builder.lease()
    await builder.vanish()


async def _is_drained_before_it_measures(fleet: RealFleet, builder: BuildingAgent) -> None:
    lease = await builder.lease()
    await fleet.fleet.control(builder.device.name, DeviceAction.DRAIN, "", "the test")
    await builder.builds(lease)


async def _can_not_build(fleet: RealFleet, builder: BuildingAgent) -> None:
    lease = await builder.lease()
    await builder.send(LeaseFinished(lease.lease_id, "the compiler is gone"))


@pytest.mark.parametrize(
    "trouble",
    [
        _leaves_while_it_builds,
        _leaves_before_it_measures,
        _is_drained_before_it_measures,
        _can_not_build,
    ],
)
def test_what_a_device_does_not_do_the_coordinator_builds_for_others(
    trouble: Callable[[RealFleet, BuildingAgent], Any], tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            builder = BuildingAgent(fleet.port)
            other = BuildingAgent(fleet.port, "other", builds_with={})
            async with experiment(fleet, builder) as (builders, running):
                await trouble(fleet, builder)
                while len(builders.built) < 1 + len(TRACES):
                    assert not running.done(), running.exception()
                    await asyncio.sleep(0.01)
                if trouble is not _can_not_build:
                    await other.register()
                measuring = builder if trouble is _can_not_build else other
                work = await measuring.lease()
                assert work.kernel is not None
                leased = {trial.artifact.sha256 for trial in work.kernel.trials}
                assert leased == {
                    outcome.artifact.sha256
                    for trace in TRACES
                    if (outcome := build_kernel(WORKLOAD, trace, TARGET)).artifact is not None
                }
                await measuring.measures(work)
                measured = await asyncio.wait_for(running, PATIENCE_S)
                assert [one.status for one in measured] == [Status.CRASHED] * 2
                assert sorted(builders.built) == sorted(["", *TRACES])
            await other.vanish()

    asyncio.run(scenario())


def test_who_builds_must_have_the_same_compiler_and_work(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            builds, device = (
                fleet.fleet.own_builds,
                Device("fake", kernels.target_json(), "", (), 1),
            )
            fake = BuildingAgent(fleet.port, labels={"rack": "3"})
            await fake.register()
            device = fake.device
            elsewhere = Selector(where=parse_conditions(["rack=4"]))
            assert builds.builder(device.kind, ANY, TOOLS) is not None
            assert builds.builder(device.kind, ANY, {"a compiler": "2"}) is None
            (status,) = fleet.fleet.registry.statuses({})
            assert "its compiler is a compiler 1, not a compiler 2" in status.last_error
            assert builds.builder("another kind", ANY, TOOLS) is None
            assert builds.builder(device.kind, elsewhere, TOOLS) is None
            session = fleet.fleet.registry.session_of("fake")
            assert session is not None
            building = [
                asyncio.create_task(builds.build(session, "j", TASK, [TUNED]))
                for _ in range(BATCHES_PER_DEVICE)
            ]
            leases = [await fake.lease() for _ in building]
            assert builds.builder(device.kind, ANY, TOOLS) is None  # it has enough to do
            building[0].cancel()
            assert await fake.receive() == CancelLease(leases[0].lease_id)
            assert builds.builder(device.kind, ANY, TOOLS) is session
            await fleet.fleet.control("fake", DeviceAction.DRAIN, "", "the test")
            assert builds.builder(device.kind, ANY, TOOLS) is None
            await fake.vanish()
            assert await asyncio.wait_for(building[1], PATIENCE_S) == {}

    asyncio.run(scenario())


CODE = Artifact.of(b"code")
LIES = [
    ("not leased", lambda b: replace(b, candidate_key="another", artifact=CODE)),
    ("without bytes", lambda b: b),
    ("without bytes", lambda b: replace(b, status=Status.BUILD_ERROR, artifact=CODE)),
    ("is CRASHED", lambda b: replace(b, status=Status.CRASHED)),
    ("not what it says", lambda b: replace(b, artifact=replace(CODE, sha256="0" * 64))),
    ("not what it says", lambda b: replace(b, artifact=CODE.without_data())),
]


@pytest.mark.parametrize(("words", "lie"), LIES)
def test_a_build_that_can_not_be_ends_its_stream(
    words: str, lie: Callable[[Built], Built], tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            builder = BuildingAgent(fleet.port)
            async with experiment(fleet, builder):
                lease = await builder.lease()
                assert lease.build is not None
                key = lease.build.builds[0].candidate_key
                await builder.send(lie(Built(lease.lease_id, key, Status.OK)))
                code, details = await builder.refusal()
                assert code is grpc.StatusCode.INVALID_ARGUMENT
                assert words in details

    asyncio.run(scenario())


# ------------------------------------------------------------------------------- the agent


class Building:
    """An agent's builds, and what it reports of them."""

    def __init__(self, processes: int = 1, builds_with: dict[str, str] | None = None) -> None:
        device = describe_cpu("d", TARGET, (0,), False)
        self.said: queue.Queue[Built | LeaseFinished] = queue.Queue()
        device = replace(device, builds_with=builds_with or tool_versions())
        self.builds = OwnBuilds(device, ArtifactCache(_no_fetch), self.said.put, processes)
        self.builds.start()

    def submit(self, *traces: str, timeout_s: float = 60.0, workload: str = WORKLOAD) -> None:
        orders = tuple(Build(f"c{index}", trace) for index, trace in enumerate(traces))
        self.builds.submit(
            Lease("l", "j", PATIENCE_S, build=BuildWork(KEY, workload, orders, timeout_s))
        )

    def next(self) -> Built | LeaseFinished:
        return self.said.get(timeout=PATIENCE_S)

    def __enter__(self) -> Building:
        return self

    def __exit__(self, *_: object) -> None:
        self.builds.close()
        assert not _build_processes()


def _no_fetch(artifact: Artifact) -> bytes:
    raise AssertionError(artifact)


def _build_processes() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if "device_agent.build_process" in process.cmdline():
                found.append(process)
    return found


def test_a_lease_of_builds_is_built_by_several_processes() -> None:
    with Building(processes=2) as building:
        building.submit(TUNED.trace_json, "", BROKEN.trace_json)
        said = [building.next() for _ in range(4)]
        assert said[-1] == LeaseFinished("l")
        built = {one.candidate_key: one for one in said if isinstance(one, Built)}
        statuses = [built[f"c{index}"].status for index in range(3)]
        assert statuses == [Status.OK, Status.OK, Status.BUILD_ERROR]
        assert built["c2"].artifact is None
        assert len(_build_processes()) == 2


def test_a_build_process_that_is_killed_once_is_replaced() -> None:
    with Building() as building:
        building.submit("")
        assert [building.next(), building.next()][-1] == LeaseFinished("l")
        (first,) = _build_processes()
        first.suspend()
        building.submit(TUNED.trace_json)
        first.kill()
        built = building.next()
        assert isinstance(built, Built)
        assert built.status is Status.OK
        (second,) = _build_processes()
        assert second.pid != first.pid


def test_a_build_that_takes_too_long_is_a_timeout_and_the_next_one_is_built() -> None:
    with Building() as building:
        building.submit("")
        assert [building.next(), building.next()][-1] == LeaseFinished("l")
        (process,) = _build_processes()
        process.suspend()
        building.submit(TUNED.trace_json, timeout_s=0.2)
        built = building.next()
        assert isinstance(built, Built)
        assert (built.status, built.artifact) == (Status.BUILD_TIMEOUT, None)
        assert building.next() == LeaseFinished("l")
        building.submit(TUNED.trace_json)
        built = building.next()
        assert isinstance(built, Built)
        assert built.status is Status.OK


def test_a_compiler_that_was_replaced_meanwhile_builds_nothing() -> None:
    with Building(builds_with={"tvm": "0.1"}) as building:
        building.submit("")
        said = building.next()
        assert isinstance(said, LeaseFinished)
        assert "start the agent again" in said.error


def test_a_lease_that_is_cancelled_says_nothing_more() -> None:
    with Building() as building:
        building.submit("")
        assert [building.next(), building.next()][-1] == LeaseFinished("l")
        (process,) = _build_processes()
        process.suspend()
        building.submit("", TUNED.trace_json, BROKEN.trace_json)
        building.builds.drop_all()
        process.resume()
        building.submit(BROKEN.trace_json)
        built = building.next()
        assert isinstance(built, Built)
        assert built.status is Status.BUILD_ERROR


def test_a_lease_with_nothing_or_too_much_to_build_is_refused() -> None:
    with Building() as building:
        with pytest.raises(ProtocolViolation, match="nothing to build"):
            building.submit()
        with pytest.raises(ProtocolViolation, match="wait already"):
            building.submit(*["no trace"] * 5000)


def test_an_agent_without_the_compiler_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "tvm.py").write_text("raise ImportError('there is no compiler here')")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "coordinator.cli.main", "agent", "--build"),
            *("--target", TARGET, "--coordinator", "127.0.0.1:9"),
        ],
        env={
            "PYTHONPATH": str(tmp_path),
            "PATH": "",
            "HOME": str(tmp_path),
            "TUNEFARM_TVM_RUNTIME": str(find_runtime()),
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 2
    assert "there is no compiler here" in done.stderr
    assert "tunefarm[agent,compiler]" in done.stderr


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("--build", "2", "--cpus", "0"), "ask for 1 at most"),
        (("--build", "--replay", "1ms"), "leave --build out"),
        (("--build", "0"), "not a whole number from 1"),
    ],
)
def test_what_makes_no_sense_with_build_is_refused_and_why(
    asked: tuple[str, ...], words: str
) -> None:
    command = [sys.executable, "-m", "coordinator.cli.main", "agent", *asked]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 2
    assert words in done.stderr
