"""The coordinator of the fleet's benchmark, a process of its own.

``python -m benchmarks.fleet_coordinator PLAN [PROFILE]`` is what ``tunefarm serve --listen-tls``
runs (``coordinator.server.Coordinator``: guard, gateway, fleet, jobs, tuning log), without Ray:
nothing is searched or built here, for 500 candidates a second would take dozens of cores. Instead
it hands the fleet batches of prepared candidates, as many as keep every device supplied: real
traces with a number in each, and artifacts of 32 KB, no two of them alike, which no device loads.

It says its ports as JSON when it listens, begins when it reads a line and says so, says with the
next one how many devices are connected, and ends with the third. With PROFILE the event loop's
thread is profiled by cProfile into that file.
"""

from __future__ import annotations

import asyncio
import cProfile
import itertools
import json
import random
import sys
from pathlib import Path

from benchmarks.fleet_plan import TARGET, Plan, device, recorded_traces
from coordinator.cli.serve import collect_seldom
from coordinator.fleet.dispatcher import LEASES_PER_DEVICE, MAX_TRIALS_PER_LEASE
from coordinator.fleet.fleet import Fleet
from coordinator.server import Coordinator, CoordinatorConfig, SecurePorts
from coordinator.stages import StageClock
from coordinator.tuning_log import TuningLog
from protos.records import (
    Artifact,
    Candidate,
    EvaluatorConfig,
    JobSpec,
    KernelWork,
    Task,
    TensorSpec,
)

ARTIFACT_BYTES = 32 << 10
BATCH = 64
"""As ``coordinator.tuner`` hands them over."""

AHEAD = 4
"""Batches that wait beside what the devices hold."""

JOBS, WORKLOADS = 4, 32
ARGS = (TensorSpec((512, 512), "float32"),) * 3
EVALUATOR = EvaluatorConfig(
    *(1, 2, 1, 10.0, 5.0),
    max_repeat=12,
    max_timing_ms=40,
    contender_ratio=1.5,
    precision=0.02,
    canary_every=16,
    canary_drift=0.15,
    looks=2,
)


class Feeder:
    """Jobs that always want something measured."""

    def __init__(self, log: TuningLog, fleet: Fleet, devices: int) -> None:
        self._fleet = fleet
        self._numbers = itertools.count()
        self._traces = recorded_traces(WORKLOADS)
        self._filling = random.Random(0).randbytes(ARTIFACT_BYTES)
        self._watchers = (self._artifact(), self._artifact())
        wanted = devices * LEASES_PER_DEVICE * MAX_TRIALS_PER_LEASE
        self._batches = -(-wanted // BATCH) + AHEAD
        self._jobs = [self._job(log, number) for number in range(JOBS)]

    @staticmethod
    def _job(log: TuningLog, number: int) -> str:
        spec = JobSpec(f"model-{number}", "0" * 64, TARGET, 1)
        job = log.add_job(spec, "benchmark", embedded=True)
        tasks = [
            Task(f"op-{i}", f"{i:032x}", "{}", 1, ARGS, 1, 1.0)
            for i in range(number, WORKLOADS, JOBS)
        ]
        log.set_tasks(job.job_id, tasks)
        return job.job_id

    def _artifact(self) -> Artifact:
        number = next(self._numbers).to_bytes(16, "big")
        return Artifact.of(number + self._filling[16:])

    async def run(self) -> None:
        """For ever."""
        jobs = itertools.cycle(range(JOBS))
        async with asyncio.TaskGroup() as group:
            for _ in range(self._batches):
                group.create_task(self._measure(next(jobs)))
                await asyncio.sleep(0)

    async def _measure(self, job: int) -> None:
        workloads = itertools.cycle(range(job, WORKLOADS, JOBS))
        reference, canary = self._watchers
        while True:
            number = next(workloads)
            key, trace = f"{number:032x}", self._traces[number % len(self._traces)]
            trials: list[tuple[Candidate, Artifact, float | None]] = []
            for _ in range(BATCH):
                artifact = self._artifact()
                candidate = Candidate(key, f"{trace[:-1]},{int(artifact.data[:16].hex(), 16)}]")
                trials.append((candidate, artifact, 0.5))
            work = KernelWork(key, ARGS, 1, 0, reference, EVALUATOR, (), 100.0, canary)
            kind = device(0).kind
            await self._fleet.measure(self._jobs[job], kind, work, trials, StageClock())


async def serve(plan: Plan) -> None:
    """The whole of it."""
    secure = SecurePorts("127.0.0.1:0", "127.0.0.1:0", plan.authority)
    config = CoordinatorConfig(plan.url, num_builders=0, secure=secure)
    async with Coordinator(config) as coordinator:
        collect_seldom()
        ports = {"port": coordinator.secure_port, "enrol_port": coordinator.enrol_port}
        print(json.dumps(ports), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        feeder = Feeder(coordinator.log, coordinator.fleet, plan.devices)
        feeding = asyncio.create_task(feeder.run())
        print("begun", flush=True)
        await _line_or_failure(feeding)
        print(len(coordinator.fleet.registry.sessions), flush=True)
        await _line_or_failure(feeding)
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)


async def _line_or_failure(feeding: asyncio.Task[None]) -> None:
    """Return with the next line; raises what the feeder raised, which ends by that only."""
    line = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
    await asyncio.wait([feeding, line], return_when=asyncio.FIRST_COMPLETED)
    if feeding.done():
        feeding.result()


def main() -> None:
    """The process."""
    plan = Plan.load(Path(sys.argv[1]))
    if len(sys.argv) > 2:
        profile = cProfile.Profile()
        profile.runcall(asyncio.run, serve(plan))
        profile.dump_stats(sys.argv[2])
    else:
        asyncio.run(serve(plan))


if __name__ == "__main__":
    main()
