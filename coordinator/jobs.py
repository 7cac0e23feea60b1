"""The jobs of one coordinator: those that wait, and those that run."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

from coordinator import job_queue
from coordinator.fleet.builders import Builders
from coordinator.fleet.fleet import Fleet
from coordinator.frontend.onnx_model import inspect_model
from coordinator.job_runner import JobRunner
from coordinator.tuning_log import TuningLog
from coordinator.tuning_log.users import Quota, quotas
from device_agent.build import parse_target
from protos.errors import (
    Conflict,
    FarmError,
    Forbidden,
    JobFailed,
    LogUnavailable,
    NotFound,
    Unavailable,
)
from protos.records import Job, JobSpec, JobState, Priority

log = logging.getLogger(__name__)

WATCH_INTERVAL_S = 0.5
HEARTBEAT_S = 5.0
STALE_S = 30.0
"""A job whose coordinator has not been heard of for this long was interrupted."""

TURN_S = 1.0
"""So often it is looked whose turn it is, if nothing happens that may change it."""


@dataclass
class _Running:
    """A job that runs. ``leaves_as`` is what it becomes when it is stopped."""

    runner: JobRunner
    task: asyncio.Task[None]
    since: float = field(default_factory=time.monotonic)
    leaves_as: JobState | None = None


class Jobs:
    """Accepts jobs and runs them. Lives on the coordinator's event loop."""

    def __init__(
        self, tuning_log: TuningLog, fleet: Fleet, builders: Builders, embedded: bool
    ) -> None:
        """``embedded``: it touches no other coordinator's jobs."""
        self._log = tuning_log
        self._fleet = fleet
        self._builders = builders
        self._embedded = embedded
        self._owner = f"{socket.gethostname()}:{os.getpid()}"
        self._waiting: dict[str, None] = {}  # their ids in the order in which they came
        self._jobs: dict[str, Job] = {}
        self._running: dict[str, _Running] = {}
        self._changes = asyncio.Event()
        self._stopping = False

    async def take_up(self) -> None:
        """What an earlier coordinator left goes on here."""
        await asyncio.to_thread(self._log.mark_interrupted, STALE_S)
        if not self._embedded:
            for job in await asyncio.to_thread(self._log.unfinished_jobs, False):
                log.info("job %s goes on", job.job_id)
                self._enqueue(replace(job, state=JobState.QUEUED, stage=""))

    async def stop(self) -> None:
        """Take no more; the jobs that run are interrupted, nothing is lost."""
        self._stopping = True
        leaves_as = JobState.INTERRUPTED if self._embedded else JobState.QUEUED
        await asyncio.gather(*(self._stop(job_id, leaves_as) for job_id in list(self._running)))

    async def heartbeats(self) -> None:
        """Say in the log that the running jobs are alive; never returns."""
        while True:
            for job_id in list(self._running):
                try:
                    await asyncio.to_thread(self._log.touch_job, job_id)
                except LogUnavailable as error:
                    log.warning("no heartbeat of job %s: %s", job_id, error)
            await asyncio.sleep(HEARTBEAT_S)

    async def submit(self, spec: JobSpec, model: bytes) -> Job:
        """Accept a job; raises BadModel or BadTarget if it can't be tuned, Forbidden if its
        priority is above the user's, and keeps nothing then.

        Submitting what was interrupted continues it: the log answers for what was measured.
        """
        if self._stopping:
            raise Unavailable("the coordinator is shutting down")
        await self._check_priority(spec.submitted_by, spec.priority)
        await asyncio.to_thread(parse_target, spec.target_json)
        await asyncio.to_thread(inspect_model, model, spec.shapes)
        sha256 = await asyncio.to_thread(self._log.put_blob, model)
        spec = replace(spec, model_sha256=sha256)
        job = await asyncio.to_thread(self._log.add_job, spec, self._owner, self._embedded)
        self._enqueue(job)
        return job

    async def _quotas(self) -> dict[str, Quota]:
        def read() -> dict[str, Quota]:
            with self._log.reading() as connection:
                return quotas(connection)

        return await asyncio.to_thread(read)

    async def _check_priority(self, user: str, priority: Priority) -> None:
        highest = (await self._quotas()).get(user, Quota()).highest_priority
        if highest is not None and priority > highest:
            raise Forbidden(
                f"{user}'s jobs have the priority {highest.name.lower()} at most; an administrator "
                "may change that: tunefarm users set"
            )

    def _enqueue(self, job: Job) -> None:
        self._jobs[job.job_id] = job
        self._waiting[job.job_id] = None
        self._changes.set()

    # ------------------------------------------------------------- whose turn it is

    async def run(self) -> None:
        """Begin jobs as there is room for them; never returns."""
        while True:
            try:
                while await self._take_turn():
                    pass
            except LogUnavailable as error:
                log.warning("while looking whose turn it is: %s", error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changes.wait(), TURN_S)
            self._changes.clear()

    async def _take_turn(self) -> bool:
        """Begin or interrupt one job; whether there was one."""
        if not self._waiting or self._stopping:
            return False
        limits = {
            user: quota.max_running
            for user, quota in (await self._quotas()).items()
            if quota.max_running is not None
        }
        waiting = [self._as_waiting(self._jobs[job_id]) for job_id in self._waiting]
        turn = job_queue.next_turn(
            waiting, [self._as_running(held) for held in self._running.values()], limits
        )
        for job_id, why in turn.why.items():
            self._changed(replace(self._jobs[job_id], stage=why))
        if turn.interrupt is not None:
            log.info("job %s makes room for another one", turn.interrupt)
            await self._stop(turn.interrupt, JobState.QUEUED)
        elif turn.begin is not None:
            self._begin(self._jobs[turn.begin])
        return turn.begin is not None or turn.interrupt is not None

    def _as_waiting(self, job: Job) -> job_queue.Waiting:
        # The agent of an embedded coordinator comes while the model is imported.
        devices = self._fleet.registry.devices_for(job.spec.target_json)
        has_device = self._embedded or bool(devices)
        return job_queue.Waiting(
            job.job_id, job.spec.submitted_by, job.spec.priority, has_device=has_device
        )

    @staticmethod
    def _as_running(held: _Running) -> job_queue.Running:
        job = held.runner.job
        return job_queue.Running(
            job.job_id,
            job.spec.submitted_by,
            job.spec.priority,
            time.monotonic() - held.since,
            tunes=held.runner.tunes,
        )

    def _begin(self, job: Job) -> None:
        del self._waiting[job.job_id]
        self._fleet.set_weight(job.job_id, job.spec.priority.weight)
        runner = JobRunner(job, self._log, self._fleet, self._builders, self._changed)
        task = asyncio.create_task(self._run(runner), name=job.job_id)
        self._running[job.job_id] = _Running(runner, task)

    async def _run(self, runner: JobRunner) -> None:
        """A job to its end, whatever that is; raises nothing."""
        job_id = runner.job.job_id
        try:
            await self._outcome(runner)
        except Exception as error:  # its end could not be written
            log.error("job %s: %s", job_id, error)
        finally:
            del self._running[job_id]
            self._fleet.forget_job(job_id)
            self._changes.set()

    async def _outcome(self, runner: JobRunner) -> None:
        try:
            await runner.run()
        except asyncio.CancelledError:
            state = self._running[runner.job.job_id].leaves_as
            if state is None:
                raise
            await self._end(runner.job, state, "")
            if state is JobState.QUEUED and not self._stopping:
                self._enqueue(self._jobs[runner.job.job_id])
        except FarmError as error:
            await self._end(runner.job, JobState.FAILED, str(error))
        except Exception as error:
            log.exception("job %s: a defect of tunefarm", runner.job.job_id)
            what = f"a defect of tunefarm, please report it: {type(error).__name__}: {error}"
            await self._end(runner.job, JobState.FAILED, what)

    async def _stop(self, job_id: str, leaves_as: JobState) -> None:
        """End the run of a job; returns when that is done."""
        held = self._running.get(job_id)
        if held is not None:
            held.leaves_as = held.leaves_as or leaves_as
            held.task.cancel()
            await asyncio.gather(held.task, return_exceptions=True)

    async def _end(self, job: Job, state: JobState, error: str) -> Job:
        ended = replace(job, state=state, stage="", error=error, remaining_s=None)
        self._changed(ended)
        await asyncio.to_thread(self._log.save_job, ended)
        return ended

    def _changed(self, job: Job) -> None:
        self._jobs[job.job_id] = job

    # ------------------------------------------------------------- what is asked and told

    def states(self) -> Counter[JobState]:
        """How many of the jobs that this coordinator has had are in which state."""
        return Counter(job.state for job in self._jobs.values())

    async def job(self, job_id: str) -> Job:
        """The job as it is now; raises NotFound."""
        if job_id in self._jobs:
            return self._jobs[job_id]
        return await asyncio.to_thread(self._log.job, job_id)

    async def newest(self, limit: int, project: str = "") -> list[Job]:
        """The newest jobs of the tuning log, the running ones as they are now."""
        stored = await asyncio.to_thread(self._log.jobs, limit, project)
        return [self._jobs.get(job.job_id, job) for job in stored]

    async def watch(self, job_id: str) -> AsyncIterator[Job]:
        """The job at every change, until it has ended."""
        last: Job | None = None
        while True:
            job = await self.job(job_id)
            if job != last:
                yield job
                last = job
            if job.state.ended:
                return
            await asyncio.sleep(WATCH_INTERVAL_S)

    async def cancel(self, job_id: str) -> Job:
        """Stop a job for good; raises Conflict if it has ended or is another coordinator's."""
        return await self._leave(job_id, JobState.CANCELLED, "cancel")

    async def pause(self, job_id: str) -> Job:
        """Stop a job until it is resumed; raises Conflict as ``cancel``, or if it is paused."""
        if self._embedded:
            raise Conflict(
                "a job of `tunefarm tune` is not paused: Ctrl-C keeps every measurement, and the "
                "same command goes on"
            )
        if (await self.job(job_id)).state is JobState.PAUSED:
            raise Conflict(f"job {job_id} is paused already")
        return await self._leave(job_id, JobState.PAUSED, "pause")

    async def resume(self, job_id: str) -> Job:
        """Let a paused job go on; raises Conflict if it is not paused."""
        job = await self.job(job_id)
        if job.state is not JobState.PAUSED:
            raise Conflict(f"job {job_id} is not paused, it is {job.state.name.lower()}")
        queued = await self._end(job, JobState.QUEUED, "")
        self._enqueue(queued)
        return queued

    async def _leave(self, job_id: str, state: JobState, what: str) -> Job:
        job = await self.job(job_id)
        if job.state.ended:
            raise Conflict(f"job {job_id} has ended already ({job.state.name.lower()})")
        if job_id not in self._jobs and job.state is not JobState.PAUSED:
            raise Conflict(f"job {job_id} belongs to another coordinator; {what} it there")
        if job_id in self._running:
            await self._stop(job_id, state)
            return await self.job(job_id)
        self._waiting.pop(job_id, None)
        return await self._end(job, state, "")

    async def set_priority(self, job_id: str, priority: Priority) -> Job:
        """What a job gets of the devices from now on; raises Conflict if it has ended, Forbidden if
        that is above its user's."""
        job = await self.job(job_id)
        if job.state.ended:
            raise Conflict(f"job {job_id} has ended already ({job.state.name.lower()})")
        await self._check_priority(job.spec.submitted_by, priority)
        await asyncio.to_thread(self._log.set_priority, job_id, priority)
        if (held := self._running.get(job_id)) is not None:
            held.runner.set_priority(priority)
            self._fleet.set_weight(job_id, priority.weight)
        elif job_id in self._jobs:
            known = self._jobs[job_id]
            self._changed(replace(known, spec=replace(known.spec, priority=priority)))
        self._changes.set()
        return await self.job(job_id)

    async def package(self, job_id: str) -> tuple[str, bytes]:
        """File name and bytes of a finished job's wheel; raises Conflict if there is none."""
        job = await self.job(job_id)
        if job.result is None:
            raise Conflict(
                f"job {job_id} has no package: it is {job.state.name.lower()}"
                + (f" ({job.error})" if job.error else "")
            )
        try:
            data = await asyncio.to_thread(self._log.get_blob, job.result.package_sha256)
        except NotFound as error:
            raise JobFailed(f"the package of job {job_id} is missing in the log") from error
        return job.result.package_filename, data
