"""One job from submission to package."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from coordinator.budget import Budget, Ended, operators_us
from coordinator.experiments import Lab, evaluator_of
from coordinator.finals import Finals, reserve_s
from coordinator.fleet.builders import Builders
from coordinator.fleet.fleet import Fleet
from coordinator.frontend.cpu_features import check_cpu
from coordinator.frontend.target import architecture, cpu_flags
from coordinator.learning import Learning
from coordinator.limits import measure_limits
from coordinator.package.runtimes import runtime_for
from coordinator.results.engines import check_left_to_engine
from coordinator.results.finish import Finisher
from coordinator.search.proposer import SearchConfig
from coordinator.search.worker import SearchPool
from coordinator.selection import Selector
from coordinator.stages import StageClock
from coordinator.training.trainer import Trainer
from coordinator.tuner import Tuner
from coordinator.tuning_log import TuningLog
from device_agent.build import tool_versions
from protos.errors import JobFailed, LogUnavailable
from protos.records import (
    UNLIMITED_TRIALS,
    Device,
    Job,
    JobSpec,
    JobState,
    ModelResult,
    Priority,
    TaskProgress,
)

if TYPE_CHECKING:
    from coordinator.frontend.importer import ImportedModel

log = logging.getLogger(__name__)

SEARCH_ACTORS = 1
"""Processes that search. One proposes faster than two cores can build."""

KEPT_LIMIT_S = 30.0
"""A time limit shorter than this still has its untuned operators timed to the end."""

TUNING = "tuning"
"""The stage in which trials are made."""

LOG_PATIENCE_S = 60.0
"""How long a job goes on without its tuning log: a server that is restarted is back by then."""


def stage_line(stage: str, aside: str) -> str:
    """What people see of a stage; ``aside`` says why each device gets no work, if none does."""
    return f"{stage}; it waits for a device: {aside}" if aside else stage


def _target_us(spec: JobSpec, beside_ms: float) -> float | None:
    """What the operators may take together, if the model has a target latency."""
    if spec.target_latency_ms is None:
        return None
    return max(spec.target_latency_ms - beside_ms, 0.0) * 1e3


class JobRunner:
    """Runs one job; ``job`` is its newest state, ``changed`` is told of every new one."""

    def __init__(
        self,
        job: Job,
        tuning_log: TuningLog,
        fleet: Fleet,
        builders: Builders,
        changed: Callable[[Job], None],
    ) -> None:
        self.job = job
        self._log = tuning_log
        self._fleet = fleet
        self._builders = builders
        self._changed = changed
        self._clock = StageClock()
        self._started = 0.0
        self._tuner: Tuner | None = None
        self._budget: Budget | None = None
        self._from_log: int | None = None
        self._ended: Ended | None = None
        self._stage = ""

    @property
    def tunes(self) -> bool:
        """Whether it tunes now: interrupted, it goes on later and has lost next to nothing."""
        return self._stage == TUNING

    def set_priority(self, priority: Priority) -> None:
        """Show another priority from now on."""
        self.job = replace(self.job, spec=replace(self.job.spec, priority=priority))
        self._changed(self.job)

    async def run(self) -> Job:
        """To the end; raises a FarmError if it can't be done."""
        await self._set(state=JobState.RUNNING, stage="importing the model")
        spec = self.job.spec
        model = await asyncio.to_thread(self._log.get_blob, spec.model_sha256)
        with self._helpers() as helpers:  # they load the compiler while the model is imported
            imported = await self._import(model, {} if self.job.spec.direct_convolutions else None)
            tasks = imported.all_tasks
            await asyncio.to_thread(self._log.set_tasks, self.job.job_id, tasks)
            device = await self._device()
            check_cpu(await self._builders.run(cpu_flags, device.target_json), device)
            check_left_to_engine(imported.theirs, device)
            # Better now than after hours of tuning: other machines' may have to be downloaded.
            await asyncio.to_thread(runtime_for, architecture(device.target_json))
            watch = asyncio.create_task(self._say_what_it_waits_for(device.kind))
            try:
                await self._tune(imported, device, *helpers)
                await self._measure_limits(device)
                result = await self._finish(model, imported, device)
                result = await self._tune_on(model, imported, device, result)
            finally:
                watch.cancel()
        stage_s = self._clock.seconds()
        log.info("job %s: seconds per stage: %s", self.job.job_id, stage_s)
        await self._set(
            state=JobState.DONE,
            stage="",
            tasks=self._tasks(result),
            result=result,
            remaining_s=None,
            stage_s=stage_s,
        )
        return self.job

    @contextlib.contextmanager
    def _helpers(self) -> Iterator[tuple[SearchPool, Trainer]]:
        """Processes that search and train, stopped at the end if not before."""
        spec = self.job.spec
        search = SearchPool(SEARCH_ACTORS, spec.target_json, spec.seed, SearchConfig())
        trainer = Trainer(num_threads=1)
        try:
            search.start()
            trainer.start()
            yield search, trainer
        finally:
            search.stop()
            trainer.stop()

    async def _tune_on(
        self, model: bytes, imported: ImportedModel, device: Device, result: ModelResult
    ) -> ModelResult:
        """Again, as long as the operators are as fast as the target latency asks and the whole
        model, which has more to do, is not."""
        target_ms = self.job.spec.target_latency_ms
        while (
            target_ms is not None
            and self._ended is Ended.TARGET
            and self._tuner is not None
            and result.packaged_ms > target_ms
        ):
            operators_ms = operators_us([run.state() for run in self._tuner.runs]) / 1e3
            beside_ms = max(result.tuned_ms - operators_ms, 0.0)
            with self._helpers() as helpers:
                await self._tune(imported, device, *helpers, beside_ms=beside_ms)
                result = await self._finish(model, imported, device)
        return result

    async def _import(
        self, model: bytes, algorithms: Mapping[str, int] | None = None
    ) -> ImportedModel:
        from coordinator.frontend.importer import import_model

        spec = self.job.spec
        with self._clock.stage("import"):
            imported: ImportedModel = await self._builders.run(
                import_model, model, spec.shapes, spec.target_json, algorithms
            )
        if not imported.tasks:
            raise JobFailed("the model has no operator that could be tuned")
        return imported

    async def _device(self) -> Device:
        selector = Selector.of(self.job.spec)
        if missing := self._fleet.registry.missing(selector):
            await self._set(stage=f"waiting for {missing}; the target is {selector.target_json}")
        return await self._fleet.device_for(selector)

    async def _tune(
        self,
        imported: ImportedModel,
        device: Device,
        search: SearchPool,
        trainer: Trainer,
        beside_ms: float = 0.0,
    ) -> None:
        """``beside_ms`` is what the whole model takes beside its operators, as far as is known."""
        spec, job_id = self.job.spec, self.job.job_id
        lab = Lab(
            job_id,
            spec.seed,
            device,
            self._log,
            self._fleet,
            self._builders,
            self._clock,
            evaluator_of(spec, device),
            await self._builders.run(tool_versions),
            Selector.of(spec),
        )
        learning = Learning(lab, search, trainer)
        self._tuner = tuner = Tuner(
            lab, imported.all_tasks, search, learning, self._progress, imported.variants
        )
        await self._set(stage="hearing what devices have measured meanwhile")
        self._fleet.late_results.listen(job_id, tuner.take_late)
        await self._fleet.late_results.hear_out(job_id)
        await self._set(stage="reading the tuning log")
        await tuner.remember()
        if self._from_log is None:
            self._from_log = tuner.counts.from_log
        tuner.counts = replace(tuner.counts, from_log=self._from_log)
        deadline = await self._start_time()
        self._budget = Budget(spec.trials, deadline)
        await self._set(stage="timing the untuned operators")

        async def experiments() -> None:
            await self._baseline(tuner, deadline)
            self._budget = Budget(
                spec.trials,
                self._tuning_deadline(deadline, tuner, device),
                _target_us(spec, beside_ms),
                spec.flat_share,
            )
            if tuner.seeded:
                await self._set(stage="timing again what was measured elsewhere")
                await self._time_again(tuner)
            await self._set(stage=TUNING)
            with self._clock.idle():
                self._ended = await tuner.tune(self._budget)
            await self._set(tuning_ended=str(self._ended))
            search.stop()  # a proposal that nobody waits for would keep the device from timing
            trainer.stop()
            self._budget = Budget(spec.trials, deadline)
            await self._set(stage="finals: timing the best again")
            finals = Finals(lab, tuner.experiments, tuner.runs, self._progress)
            with self._clock.stage("finals"):
                await finals.hold(deadline)

        work = asyncio.create_task(experiments())
        saver = asyncio.create_task(self._save_now_and_then())
        try:
            await asyncio.wait({work, saver}, return_when=asyncio.FIRST_COMPLETED)
            (work if work.done() else saver).result()
        finally:
            for task in (work, saver):
                task.cancel()
            await asyncio.gather(work, saver, return_exceptions=True)
            await learning.stop()  # a training that was left over would start its process again
            self._progress()
            self._budget = None  # the tuning time ends here
            # What was spent counts when the same command continues the job.
            await asyncio.shield(asyncio.to_thread(self._log.save_job, self.job))

    async def _start_time(self) -> float | None:
        """Start the job's time; the moment of the monotonic clock at which it is over, if any."""
        job = self.job
        spent_s = await asyncio.to_thread(
            self._log.spent_s, job.spec.identity, job.job_id, job.spec.devices
        )
        now = time.monotonic()
        self._started = now - job.elapsed_s
        if job.spec.time_limit_s is None:
            return None
        return now + max(0.0, job.spec.time_limit_s - spent_s - job.elapsed_s)

    def _tuning_deadline(
        self, deadline: float | None, tuner: Tuner, device: Device
    ) -> float | None:
        """When tuning ends so that there is time for the finals."""
        limit_s = self.job.spec.time_limit_s
        if deadline is None or limit_s is None:
            return None
        devices = self._fleet.registry.present(device.kind, Selector.of(self.job.spec))
        return deadline - reserve_s(limit_s, len(tuner.runs), devices)

    async def _baseline(self, tuner: Tuner, deadline: float | None) -> None:
        """Time the untuned operators, as many as the time limit allows."""
        limit_s = self.job.spec.time_limit_s
        left_s = None
        if deadline is not None and limit_s is not None and limit_s >= KEPT_LIMIT_S:
            left_s = max(0.0, deadline - time.monotonic())
        try:
            async with asyncio.timeout(left_s):
                await tuner.baseline()
        except TimeoutError:
            log.warning(
                "job %s: the time limit was over before every untuned operator was timed; give a "
                "longer one to tune them, too",
                self.job.job_id,
            )

    async def _time_again(self, tuner: Tuner) -> None:
        assert self._budget is not None
        try:
            await tuner.time_again(self._budget)
        except TimeoutError:
            log.warning(
                "job %s: the time limit was over before everything that was measured elsewhere was "
                "timed again; give a longer one",
                self.job.job_id,
            )

    async def _measure_limits(self, device: Device) -> None:
        """What the kind of device can do at most, for the report; the first job has it measured."""
        await self._set(stage="measuring the device's peak and bandwidth", remaining_s=None)
        with self._clock.stage("limits"):
            await measure_limits(self.job.job_id, device, self._fleet, self._builders, self._log)

    async def _finish(self, model: bytes, imported: ImportedModel, device: Device) -> ModelResult:
        compared = self._tuner.compared if self._tuner is not None else ({},)
        if any(compared):
            await self._set(stage="importing the model with what was fastest", remaining_s=None)
        models = [await self._import(model, one) if one else imported for one in compared]
        finisher = Finisher(self.job, model, models, device, self._log, self._fleet, self._builders)

        async def stage(text: str) -> None:
            await self._set(stage=text, remaining_s=None)

        with self._clock.stage("package"):
            return await finisher.finish(stage)

    def _tasks(self, result: ModelResult) -> tuple[TaskProgress, ...]:
        """Of the operators that the tuned model has in the end: an algorithm that was the fastest
        kernel by kernel is left out if the whole model is slower with it, or wrong."""
        if self._tuner is None or not result.operators:
            return self.job.tasks
        return tuple(
            replace(run.progress(), weight=result.operators[run.task.workload_key])
            for run in self._tuner.runs
            if run.task.workload_key in result.operators
        )

    # ------------------------------------------------------------- progress

    def _progress(self) -> None:
        """Bring ``job`` up to date with the tuner."""
        tuner, budget = self._tuner, self._budget
        if tuner is None or budget is None:
            return
        elapsed = time.monotonic() - self._started
        new = tuner.counts.total - tuner.counts.from_log
        remaining = budget.remaining_s
        if new and budget.trials < UNLIMITED_TRIALS:
            by_trials = (budget.trials - tuner.counts.total) * elapsed / new
            remaining = by_trials if remaining is None else min(remaining, by_trials)
        self.job = replace(
            self.job,
            trials=tuner.counts,
            tasks=tuple(run.progress() for run in tuner.runs if run.weight),
            ranking=tuner.ranking,
            elapsed_s=elapsed,
            remaining_s=remaining,
        )
        self._changed(self.job)

    async def _save_now_and_then(self) -> None:
        """Every two seconds; raises JobFailed when the log has been unavailable for too long.

        Without it no measurement is acknowledged, so the job would wait for ever.
        """
        saved_at = time.monotonic()
        while True:
            await asyncio.sleep(2.0)
            self._progress()
            try:
                await asyncio.to_thread(self._log.save_job, self.job)
                saved_at = time.monotonic()
            except LogUnavailable as error:
                if time.monotonic() - saved_at > LOG_PATIENCE_S:
                    raise JobFailed(
                        f"nothing could be written for {LOG_PATIENCE_S:.0f} s: {error}. What was "
                        "acknowledged is kept; the same command continues when the log is back"
                    ) from error
                log.warning("job %s: its progress is not saved: %s", self.job.job_id, error)

    async def _say_what_it_waits_for(self, kind: str) -> None:
        """Once a second: a job none of whose devices gets work says so in its stage."""
        selector = Selector.of(self.job.spec)
        while True:
            await asyncio.sleep(1.0)
            stage = stage_line(self._stage, self._fleet.registry.none_left(kind, selector))
            if stage != self.job.stage:
                self.job = replace(self.job, stage=stage)
                self._changed(self.job)

    async def _set(self, **changes: object) -> None:
        self._progress()
        self._stage = str(changes.get("stage", self._stage))
        self.job = replace(self.job, **changes)  # type: ignore[arg-type]
        self._changed(self.job)
        await asyncio.to_thread(self._log.save_job, self.job)
