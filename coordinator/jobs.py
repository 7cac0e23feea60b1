"""The jobs of one coordinator: those that wait, and those that run."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

from coordinator import job_queue
from coordinator.fleet.builders import Builders
from coordinator.fleet.fleet import Fleet
from coordinator.fleet.terms import Terms
from coordinator.frontend.onnx_model import inspect_model
from coordinator.job_breaks import run_through_breaks
from coordinator.job_runner import LOG_PATIENCE_S, JobRunner
from coordinator.parts import title, whole
from coordinator.selection import Selector
from coordinator.submission import Submissions
from coordinator.tuning_log import TuningLog
from protos.errors import (
    BadRequest,
    Conflict,
    FarmError,
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

REMEMBERED = 256
"""Jobs that have ended and need not be asked of the log."""

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
        self._submissions = Submissions(tuning_log, fleet.registry)
        self._builders = builders
        self._embedded = embedded
        self._owner = f"{socket.gethostname()}:{os.getpid()}"
        self._waiting: dict[str, None] = {}  # their ids in the order in which they came
        self._jobs: dict[str, Job] = {}  # those that run or wait here, and none with parts
        self._wholes: dict[str, Job] = {}  # those that such are parts of
        self._ended: dict[str, None] = {}  # the ids of those of _jobs that have ended, in order
        self._forgotten: Counter[JobState] = Counter()
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
        """Accept a job; raises BadModel or BadTarget if it can't be tuned, NotFound or BadRequest
        if no device can be what it is for, Forbidden if its priority is above the user's, and keeps
        nothing then.

        Submitting what was interrupted continues it: the log answers for what was measured. A job
        for several kinds of device is one job with a part for each, which run like any others.
        """
        if self._stopping:
            raise Unavailable("the coordinator is shutting down")
        await self._submissions.check_priority(spec.submitted_by, spec.priority)
        parts = await self._submissions.parts_of(spec)
        await asyncio.to_thread(inspect_model, model, spec.shapes)
        sha256 = await asyncio.to_thread(self._log.put_blob, model)
        parts = [replace(part, model_sha256=sha256) for part in parts]
        spec = parts.pop() if len(parts) == 1 else replace(spec, model_sha256=sha256)
        job = await asyncio.to_thread(self._log.add_job, spec, self._owner, self._embedded, parts)
        begun = []
        for part in job.parts or (job,):
            why = "" if self._embedded else await self._submissions.never_matched(part.spec)
            begun.append(replace(part, stage=why))
        for part in begun:
            self._enqueue(part)
        return whole(job, begun) if job.parts else begun[0]

    def _enqueue(self, job: Job) -> None:
        self._changed(job)
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
        await self._settle()
        if not self._waiting or self._stopping:
            return False
        limits = {
            user: quota.max_running
            for user, quota in (await self._submissions.quotas()).items()
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

    async def _settle(self) -> None:
        """Jobs that any device with certain labels is good for are for those that have come."""
        for job_id in list(self._waiting):
            job = self._jobs[job_id]
            if job.spec.target_json or job_id not in self._waiting:
                continue
            try:
                parts = self._submissions.settled(job.spec)
            except BadRequest as error:  # too many kinds
                del self._waiting[job_id]
                await self._end(job, JobState.FAILED, str(error))
                continue
            if parts:
                await self._begin_parts(job_id, parts)

    async def _begin_parts(self, job_id: str, parts: Sequence[JobSpec]) -> None:
        settled = await asyncio.to_thread(self._log.settle_job, job_id, parts)
        if job_id in self._waiting:
            del self._waiting[job_id], self._jobs[job_id]
            for part in settled.parts or (settled,):
                self._enqueue(part)
        elif settled.parts:  # it was cancelled or paused meanwhile, and so are its parts
            self._ended.pop(job_id, None)
            state = self._jobs.pop(job_id).state
            for part in settled.parts:
                await self._end(part, state, "")

    def _as_waiting(self, job: Job) -> job_queue.Waiting:
        # The agent of an embedded coordinator comes while the model is imported.
        lacks = "" if self._embedded else self._fleet.registry.missing(Selector.of(job.spec))
        return job_queue.Waiting(job.job_id, job.spec.submitted_by, job.spec.priority, lacks)

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
        self._fleet.queue.set_weight(job.job_id, job.spec.priority.weight)
        self._fleet.queue.set_terms(job.job_id, Terms(Selector.of(job.spec), job.spec.exclusive))
        task = asyncio.create_task(self._run(job.job_id), name=job.job_id)
        self._running[job.job_id] = _Running(self._runner(job), task)

    def _runner(self, job: Job) -> JobRunner:
        return JobRunner(job, self._log, self._fleet, self._builders, self._changed)

    async def _run(self, job_id: str) -> None:
        """A job to its end, whatever that is; raises nothing."""
        held = self._running[job_id]
        try:
            await self._outcome(held)
        except Exception as error:  # its end could not be written
            log.error("job %s: %s", job_id, error)
        finally:
            del self._running[job_id]
            self._fleet.queue.forget_job(job_id)
            self._fleet.late_results.forget(job_id)
            self._changes.set()

    async def _outcome(self, held: _Running) -> None:
        job_id = held.runner.job.job_id

        async def run() -> None:
            held.runner = self._runner(held.runner.job)  # as it was left
            await held.runner.run()

        async def ask_log() -> None:
            await asyncio.to_thread(self._log.touch_job, job_id)

        try:
            await run_through_breaks(
                *(job_id, run, lambda: held.runner.job.trials.total, ask_log, LOG_PATIENCE_S)
            )
        except asyncio.CancelledError:
            if held.leaves_as is None:
                raise
            await self._end(held.runner.job, held.leaves_as, "")
            if held.leaves_as is JobState.QUEUED and not self._stopping:
                self._enqueue(self._jobs[job_id])
        except FarmError as error:
            await self._end(held.runner.job, JobState.FAILED, str(error))
        except Exception as error:
            log.exception("job %s: a defect of tunefarm", job_id)
            what = f"a defect of tunefarm, please report it: {type(error).__name__}: {error}"
            await self._end(held.runner.job, JobState.FAILED, what)

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
        self._ended.pop(job.job_id, None)
        if job.state.ended:
            self._ended[job.job_id] = None
            if len(self._ended) > REMEMBERED:
                self._forget(next(iter(self._ended)))

    def _forget(self, job_id: str) -> None:
        """Leave one that has ended to the log."""
        del self._ended[job_id]
        job = self._jobs.pop(job_id)
        self._wholes.pop(job.parent_id, None)
        self._forgotten[job.state] += 1

    # ------------------------------------------------------------- what is asked and told

    def states(self) -> Counter[JobState]:
        """How many of the jobs that this coordinator has had are in which state."""
        return Counter(job.state for job in self._jobs.values()) + self._forgotten

    async def job(self, job_id: str) -> Job:
        """The job as it is now, with its parts; raises NotFound."""
        if job_id in self._jobs:
            return self._jobs[job_id]
        job = self._wholes.get(job_id)
        if job is None:
            job = await asyncio.to_thread(self._log.job, job_id)
            if job.parts and all(part.job_id in self._jobs for part in job.parts):
                self._wholes[job_id] = job  # the log needs not be asked again
        return self._now(job)

    def _now(self, stored: Job) -> Job:
        """What the log has of a job, and of its parts, as it is now."""
        if stored.parts:
            return whole(stored, [self._now(part) for part in stored.parts])
        return self._jobs.get(stored.job_id, stored)

    async def newest(self, limit: int, project: str = "") -> list[Job]:
        """The newest jobs of the tuning log, the running ones as they are now."""
        return [self._now(job) for job in await asyncio.to_thread(self._log.jobs, limit, project)]

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
        job = await self.job(job_id)
        if job.state is JobState.PAUSED:
            raise Conflict(f"job {job_id} is paused already")
        return await self._leave(job_id, JobState.PAUSED, "pause")

    async def resume(self, job_id: str) -> Job:
        """Let a paused job go on; raises Conflict if it is not paused."""
        job = await self.job(job_id)
        paused = [one for one in job.parts or (job,) if one.state is JobState.PAUSED]
        if not paused:
            raise Conflict(f"job {job_id} is not paused, it is {job.state.name.lower()}")
        for one in paused:
            self._enqueue(await self._end(one, JobState.QUEUED, ""))
        return await self.job(job_id)

    async def _leave(self, job_id: str, state: JobState, what: str) -> Job:
        job = await self.job(job_id)
        if job.state.ended:
            raise Conflict(f"job {job_id} has ended already ({job.state.name.lower()})")
        if job.parts:
            left = [p for p in job.parts if not p.state.ended and p.state is not state]
            refused: list[Conflict] = []
            for part in left:
                try:
                    await self._leave(part.job_id, state, what)
                except Conflict as error:  # it has ended meanwhile, or is another coordinator's
                    refused.append(error)
            if left and len(refused) == len(left):
                raise refused[0]
            return await self.job(job_id)
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
        await self._submissions.check_priority(job.spec.submitted_by, priority)
        await asyncio.to_thread(self._log.set_priority, job_id, priority)
        self._wholes.pop(job_id, None)
        for part in job.parts:
            if not part.state.ended:
                await self.set_priority(part.job_id, priority)
        if (held := self._running.get(job_id)) is not None:
            held.runner.set_priority(priority)
            self._fleet.queue.set_weight(job_id, priority.weight)
        elif job_id in self._jobs:
            known = self._jobs[job_id]
            self._changed(replace(known, spec=replace(known.spec, priority=priority)))
        self._changes.set()
        return await self.job(job_id)

    async def package(self, job_id: str) -> tuple[str, bytes]:
        """File name and bytes of a finished job's wheel; raises Conflict if there is none."""
        job = await self.job(job_id)
        if job.parts:
            done = ", ".join(title(part) for part in job.parts if part.result is not None)
            raise Conflict(
                f"job {job_id} has a package for each kind of device; fetch those of its parts: "
                f"{done or 'none is done yet'}"
            )
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
