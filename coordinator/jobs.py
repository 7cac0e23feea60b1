"""The jobs of one coordinator: a queue, and the one that runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import replace

from coordinator.fleet.builders import Builders
from coordinator.fleet.fleet import Fleet
from coordinator.frontend.onnx_model import inspect_model
from coordinator.job_runner import JobRunner
from coordinator.tuning_log import TuningLog
from device_agent.build import parse_target
from protos.errors import Conflict, FarmError, JobFailed, LogUnavailable, NotFound, Unavailable
from protos.records import Job, JobSpec, JobState

log = logging.getLogger(__name__)

WATCH_INTERVAL_S = 0.5
HEARTBEAT_S = 5.0
STALE_S = 30.0
"""A job whose coordinator has not been heard of for this long was interrupted."""


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
        self._queue: asyncio.Queue[Job] = asyncio.Queue()
        self._jobs: dict[str, Job] = {}
        self._running: tuple[str, asyncio.Task[Job]] | None = None
        self._stopping = False

    async def take_up(self) -> None:
        """What an earlier coordinator left goes on here."""
        await asyncio.to_thread(self._log.mark_interrupted, STALE_S)
        if not self._embedded:
            for job in await asyncio.to_thread(self._log.unfinished_jobs, False):
                log.info("job %s goes on", job.job_id)
                self._enqueue(job)

    async def stop(self) -> None:
        """Take no more; the job that runs is interrupted, nothing is lost."""
        self._stopping = True
        if self._running is not None:
            self._running[1].cancel()
            await asyncio.gather(self._running[1], return_exceptions=True)

    async def heartbeats(self) -> None:
        """Say in the log that the running job is alive; never returns."""
        while True:
            if self._running is not None:
                try:
                    await asyncio.to_thread(self._log.touch_job, self._running[0])
                except LogUnavailable as error:
                    log.warning("no heartbeat of the running job: %s", error)
            await asyncio.sleep(HEARTBEAT_S)

    async def submit(self, spec: JobSpec, model: bytes) -> Job:
        """Accept a job; raises BadModel or BadTarget if it can't be tuned, and keeps nothing then.

        Submitting what was interrupted continues it: the log answers for what was measured.
        """
        if self._stopping:
            raise Unavailable("the coordinator is shutting down")
        await asyncio.to_thread(parse_target, spec.target_json)
        await asyncio.to_thread(inspect_model, model, spec.shapes)
        sha256 = await asyncio.to_thread(self._log.put_blob, model)
        spec = replace(spec, model_sha256=sha256)
        job = await asyncio.to_thread(self._log.add_job, spec, self._owner, self._embedded)
        self._enqueue(job)
        return job

    def _enqueue(self, job: Job) -> None:
        self._jobs[job.job_id] = job
        self._queue.put_nowait(job)

    async def run(self) -> None:
        """One job after the other, in the order of their submission."""
        while True:
            job = self._jobs[(await self._queue.get()).job_id]
            if job.state.ended:
                continue
            runner = JobRunner(job, self._log, self._fleet, self._builders, self._changed)
            task = asyncio.create_task(self._run(runner))
            self._running = (job.job_id, task)
            try:
                (outcome,) = await asyncio.gather(task, return_exceptions=True)
                if isinstance(outcome, Exception):  # its end could not be written
                    log.error("job %s: %s", job.job_id, outcome)
            finally:
                self._running = None

    async def _run(self, runner: JobRunner) -> Job:
        try:
            return await runner.run()
        except asyncio.CancelledError:
            state = JobState.INTERRUPTED if self._stopping else JobState.CANCELLED
            if self._stopping and not self._embedded:
                state = JobState.QUEUED  # goes on when a coordinator is started again
            await self._end(runner.job, state, "")
            raise
        except FarmError as error:
            return await self._end(runner.job, JobState.FAILED, str(error))
        except Exception as error:
            log.exception("job %s: a defect of tunefarm", runner.job.job_id)
            what = f"a defect of tunefarm, please report it: {type(error).__name__}: {error}"
            return await self._end(runner.job, JobState.FAILED, what)

    async def _end(self, job: Job, state: JobState, error: str) -> Job:
        ended = replace(job, state=state, stage="", error=error, remaining_s=None)
        self._changed(ended)
        await asyncio.to_thread(self._log.save_job, ended)
        return ended

    def _changed(self, job: Job) -> None:
        self._jobs[job.job_id] = job

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
        """Stop a job; raises Conflict if it has ended or is another coordinator's."""
        job = await self.job(job_id)
        if job.state.ended:
            raise Conflict(f"job {job_id} has ended already ({job.state.name.lower()})")
        if job_id not in self._jobs:
            raise Conflict(f"job {job_id} belongs to another coordinator; cancel it there")
        if self._running is not None and self._running[0] == job_id:
            self._running[1].cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running[1]
            return await self.job(job_id)
        return await self._end(job, JobState.CANCELLED, "")

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
