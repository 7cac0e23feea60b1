"""The run: start the processes, send everything, and look at what is left."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.fuzz import verdict
from benchmarks.fuzz.ledger import Ledger
from benchmarks.fuzz.processes import Footprint, Ports, Watched, agent, coordinator
from benchmarks.fuzz.samples import Pool, gateways_messages
from benchmarks.fuzz.speakers import Plan, Speakers, fakes_target
from benchmarks.fuzz.to_agents import FakeCoordinator, listening
from benchmarks.fuzz.verdict import RealJob
from benchmarks.operators import matmul
from coordinator.client import FarmClient
from coordinator.frontend.target import resolve_target
from protos import errors
from protos.records import UNLIMITED_TRIALS, JobSpec, JobState, sha256_hex

WARM_UP = 0.6
SETTLE_S = 3.0
JOB_WITHIN_S = 600.0
ROUGH = 100.0
"""The share by which canaries may be off: what is said here disturbs every timing."""


@dataclass
class Found:
    """What came of it."""

    ledger: Ledger
    crashes: int = 0
    leaked_mb: float = 0.0
    lost: int = 0
    doubled: int = 0


class Farm:
    """One run in a folder of its own."""

    def __init__(self, plan: Plan, folder: Path, progress: Callable[[str], None]) -> None:
        self._plan = plan
        self._folder = folder
        self._progress = progress
        self._ledger = Ledger()
        self._target = resolve_target("auto", 1)
        self._model = matmul(64).model

    async def run(self) -> Found:
        """All of it."""
        with contextlib.ExitStack() as stack:
            served, ports = stack.enter_context(coordinator(self._folder))
            client = stack.enter_context(FarmClient(ports.plain))
            real = self._real_job(stack, ports, client) if self._plan.trials else None
            found = await self._fuzzed(stack, served, real, ports, client)
            if served.alive:
                if real is not None:
                    await self._judge_job(client, real, found)
                log = self._folder / "log.db"
                found.lost, found.doubled = verdict.judge_log(found.ledger, log, real)
        return found

    def _real_job(self, stack: contextlib.ExitStack, ports: Ports, client: FarmClient) -> RealJob:
        """A job that is measured by an agent which does what it should."""
        honest = agent(self._folder, "honest", ports.plain, "--target", self._target, "--cpus", "0")
        watched = stack.enter_context(honest)
        watched.wait_for("session")
        job = client.submit(self._spec(self._target, self._plan.trials), self._model)
        self._progress(f"job {job.job_id} is measured on a real agent")
        return RealJob(watched, job.job_id)

    async def _fuzzed(
        self,
        stack: contextlib.ExitStack,
        served: Watched,
        real: RealJob | None,
        ports: Ports,
        client: FarmClient,
    ) -> Found:
        plan, ledger = self._plan, self._ledger
        self._progress("Hypothesis makes messages")
        pool = Pool(gateways_messages("a-lease"), plan.hypothetical, plan.seed)
        fake = FakeCoordinator(ledger, pool, plan.quota("coordinator", WARM_UP), plan.seed)
        async with listening(fake) as address:
            agents = [
                stack.enter_context(
                    agent(
                        *(self._folder, f"listener-{n}", address, "--replay", "1ms"),
                        *("--target", self._target),
                    )
                )
                for n in range(plan.agents)
            ]
            speaking = Speakers(
                *(plan, ledger, ports, self._folder, client, self._model, self._target)
            )
            watched = [served, *([real.agent] if real else []), *agents]
            stop = asyncio.Event()
            async with speaking.channels() as speak:
                witness = asyncio.create_task(speak.witness(stop))
                fakes_job = asyncio.create_task(self._keep_fakes_busy(client, stop))
                self._progress("a job for fake agents is built")
                await speak.first_lease()
                await asyncio.gather(speak.say(WARM_UP), fake.all_well(plan.agents))
                before = {process: process.footprint() for process in watched if process.alive}
                self._progress(f"{ledger.messages} messages; now the others")
                fake.go_on(plan.quota("coordinator", 1 - WARM_UP))
                rest = asyncio.gather(speak.say(1 - WARM_UP), fake.all_well(plan.agents))
                await self._report_until(rest, served)
                stop.set()
                await asyncio.gather(witness, fakes_job)
            await asyncio.sleep(SETTLE_S)
            return self._judged(watched, before)

    async def _report_until(self, done: asyncio.Future[Any], served: Watched) -> None:
        while not done.done():
            await asyncio.wait({done}, timeout=30.0)
            held = f"{served.footprint().rss_bytes / 1e6:.1f} MB" if served.alive else "gone"
            self._progress(
                f"{self._ledger.messages} messages, {len(self._ledger.acknowledged)} acknowledged, "
                f"{len(self._ledger.unclear)} unclear; the coordinator: {held}"
            )
        await done

    def _judged(self, watched: list[Watched], before: dict[Watched, Footprint]) -> Found:
        crashed = [process for process in watched if not process.alive]
        for process in crashed:
            said = process.said()[-2000:]
            self._ledger.violation(f"{process.name} ended with {process.status}: {said}")
        after = {process: process.footprint() for process in watched if process.alive}
        known = {process: before[process] for process in after if process in before}
        for process, then in known.items():
            now = after[process]
            self._progress(
                f"{process.name}: {then.rss_bytes / 1e6:.1f} → {now.rss_bytes / 1e6:.1f} MB, "
                f"{then.descriptors} → {now.descriptors} files, {then.threads} → {now.threads} "
                "threads"
            )
        leaked = verdict.judge_processes(self._ledger, known, after)
        for process in watched:
            for defect in process.defects():
                self._ledger.violation(defect)
        return Found(self._ledger, crashes=len(crashed), leaked_mb=leaked)

    async def _judge_job(self, client: FarmClient, real: RealJob, found: Found) -> None:
        """Wait for the undisturbed job, and see that it was."""
        deadline = time.monotonic() + JOB_WITHIN_S
        while not (job := client.job(real.job_id)).state.ended and time.monotonic() < deadline:
            await asyncio.sleep(0.5)
        real.trials = job.trials.total - job.trials.from_log
        what = f"job {job.job_id} is {job.state.name.lower()} after {job.trials.total} trials"
        self._progress(what)
        if job.state is not JobState.DONE:
            found.ledger.violation(f"{what}: {job.stage} {job.error}")
        if (sessions := real.agent.said().count(": session ")) != 1:
            found.ledger.violation(f"the real agent had {sessions} sessions")

    def _spec(self, target: str, trials: int) -> JobSpec:
        spec = JobSpec("small", sha256_hex(self._model), target, trials)
        return replace(spec, canary_drift=ROUGH)

    async def _keep_fakes_busy(self, client: FarmClient, stop: asyncio.Event) -> None:
        """A job for the fake agents, and another one whenever it has ended."""
        spec = self._spec(fakes_target(self._target), UNLIMITED_TRIALS)
        job_id = ""
        with contextlib.suppress(errors.Conflict, errors.Unavailable):  # who crashed is counted
            while not stop.is_set():
                if not job_id or client.job(job_id).state.ended:
                    job_id = client.submit(spec, self._model).job_id
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), 2.0)
            client.cancel(job_id)
