"""The loop of one job: propose, build, measure, learn, with no barrier between them.

A few batches are on their way at any time, each a coroutine that proposes for one task, has the
candidates built, has them measured and tells the search and the cost model. While one is measured,
the next is built and another proposed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from coordinator.budget import Budget, Ended, Flatness, operators_us
from coordinator.experiments import Experiments, Lab
from coordinator.frontend.variants import Variant
from coordinator.learning import Learning
from coordinator.other_kinds import OtherKind, other_kinds
from coordinator.search import seeds, task_scheduler
from coordinator.search.composition import Known, compose
from coordinator.search.proposer import Outcome, Proposal
from coordinator.search.worker import SearchPool
from coordinator.task_run import TaskRun
from protos.errors import JobFailed
from protos.records import (
    UNTUNED_TRACE,
    Candidate,
    Measurement,
    MeasurementStatus,
    RankingQuality,
    Task,
    TrialCounts,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

BATCHES_AHEAD = 3
"""Batches under way for one device: measured, built, proposed."""

MAX_FAILURE_OF_FRAGILE = 0.05
"""What may crash or hang with a greater chance is not sent to devices that are marked fragile."""

EXPERIENCED_BATCH, EXPERIENCED_TRIALS = 4, 8
"""The size of a batch, and for how many trials, where a cost model knows other tasks."""


class Tuner:
    """Tunes the tasks of one job on one kind of device. Lives on the coordinator's event loop."""

    def __init__(
        self,
        lab: Lab,
        tasks: Sequence[Task],
        search: SearchPool,
        learning: Learning,
        changed: Callable[[], None],
        variants: Sequence[Variant] = (),
    ) -> None:
        """``changed`` is called when there is progress to show; ``variants`` are of the model that
        runs each of ``tasks`` as often as its weight says."""
        self.runs = [TaskRun(task) for task in tasks]
        self.compared: tuple[Mapping[str, int], ...] = ({},)
        self._variants = variants
        self.counts = TrialCounts()
        self._lab = lab
        self.experiments = Experiments(lab)
        self._search = search
        self._learning = learning
        self._changed = changed
        self._under_way = 0

    @property
    def ranking(self) -> RankingQuality | None:
        """How well the cost model ordered the last batches."""
        return self._learning.ranking

    async def remember(self) -> None:
        """Take from the log what is known of these tasks on this kind of device."""
        lab, known = self._lab, self._lab.tuning_log
        where = (lab.device.kind, lab.evaluator.cold_cache, lab.toolchains)
        others = await asyncio.to_thread(other_kinds, lab)
        for run in self.runs:
            key = run.task.workload_key
            for row in await asyncio.to_thread(known.evidence, key, *where):
                if run.note(Outcome(row.candidate, row.latency_us)):
                    run.advance(1, self._search.batch_size)
            run.doubtful = await asyncio.to_thread(known.doubtful, key, *where)
            if seeds.confirmed(run.best_tuned_us, run.doubtful):
                self._believe(run)
            run.seeds = seeds.to_time_again(run.doubtful)
            if not run.seeds and not run.tried():
                run.elsewhere = await asyncio.to_thread(self._elsewhere, key, others)
        self.counts = TrialCounts()  # with what came late meanwhile
        for run in self.runs:
            self._count_known(run.tried())
        self._compose()
        await self._learning.adopt(others)

    def take_late(self, results: Sequence[tuple[Candidate, Measurement]]) -> None:
        """Results of leases that an earlier run of this job gave, which have come only now."""
        runs = {run.task.workload_key: run for run in self.runs}
        for candidate, measurement in results:
            run = runs.get(candidate.workload_key)
            if run is None or measurement.status is MeasurementStatus.SUSPECT:
                continue
            outcome = Outcome(candidate, measurement.latency_us)
            if run.note(outcome):
                run.advance(1, self._search.batch_size)
                self._count_known([outcome])
        self._changed()

    def _elsewhere(self, workload_key: str, kinds: Sequence[OtherKind]) -> list[seeds.Elsewhere]:
        """Candidates that are fast on other kinds of device."""
        known, cold = self._lab.tuning_log, self._lab.evaluator.cold_cache
        count = seeds.TOLD_OF_ELSEWHERE + 1  # the untuned may be one of them
        best = {
            kind.name: [
                seeds.Elsewhere(one.candidate, kind.lanes)
                for one in known.best_k(workload_key, kind.name, count, cold)
            ]
            for kind in kinds
        }
        return seeds.from_elsewhere(best)

    def _compose(self) -> None:
        """Choose the algorithm of each convolution anew, and what is worth tuning."""
        known = {
            run.task.workload_key: Known(run.best_us, run.trials // self._search.batch_size)
            for run in self.runs
            if run.best_us is not None
        }
        direct = {run.task.workload_key: run.task.weight for run in self.runs}
        made = compose(direct, self._variants, known)
        for run in self.runs:
            run.weight = made.weights[run.task.workload_key]
            run.stake = made.stakes[run.task.workload_key]
        self.compared = made.compared

    async def baseline(self) -> None:
        """Time the untuned program of every task that the log does not know.

        Raises JobFailed if not a single one can be timed.
        """
        missing = [run for run in self.runs if _untuned(run.task).key not in run.outcomes]
        # All builds come first: a host that also times would go back and forth for each of them.
        built = await _together([self._prepare(run) for run in missing])
        ready = [run for run, ok in zip(missing, built, strict=True) if ok]
        await _together([self._baseline(run) for run in ready])
        if all(run.untuned_us is None for run in self.runs):
            raise JobFailed(
                "no operator's untuned program could be measured; the device's last error is shown "
                "by `tunefarm devices`, each measurement's error is in the tuning log"
            )

    async def _prepare(self, run: TaskRun) -> bool:
        """Build the task's untuned program; False, with a warning, if that can't be done."""
        try:
            await self.experiments.reference(run)
        except JobFailed as error:
            log.warning("job %s: %s; it stays untuned", self._lab.job_id, error)
            return False
        return True

    async def _baseline(self, run: TaskRun) -> None:
        measurement = await self.experiments.baseline(run)
        run.note(Outcome(_untuned(run.task), measurement.latency_us))
        if not measurement.ok:
            log.warning(
                "job %s: untuned program of %s: %s: %s",
                self._lab.job_id,
                run.task.name,
                measurement.status.name,
                measurement.error,
            )
        self._compose()
        self._changed()

    @property
    def seeded(self) -> int:
        """Candidates from elsewhere that are to be timed before anything is tuned."""
        return sum(self._seeded(run) for run in self.runs)

    def _seeded(self, run: TaskRun) -> int:
        return len(run.seeds) + (seeds.TRIED_OF_ELSEWHERE if run.elsewhere else 0)

    async def time_again(self, budget: Budget) -> None:
        """Time what is fast elsewhere, or was with other tools, as far as the budget goes."""
        left = budget.trials - self.counts.total
        chosen: list[TaskRun] = []
        for run in self.runs:
            count = self._seeded(run)
            if run.untuned_us is not None and 0 < count <= left:
                left -= count
                chosen.append(run)
        async with asyncio.timeout(budget.remaining_s):
            await _together([self._time_again(run) for run in chosen])

    async def _time_again(self, run: TaskRun) -> None:
        """One task's seeds; the records that they confirm are as good as tried."""
        await self._opened(run)
        key = run.task.workload_key
        if run.elsewhere:
            proposals = await self._search.adapt(key, run.elsewhere, seeds.TRIED_OF_ELSEWHERE)
        else:
            proposals = await self._search.seed(key, run.seeds)
        run.seeds, run.elsewhere = [], []
        if proposals:
            await self._take_in(run, proposals, await self.experiments.run(run, proposals))
        if seeds.confirmed(run.best_tuned_us, run.doubtful):
            self._count_known(self._believe(run))
        elif run.doubtful:
            log.info(
                "job %s: task %s: its records of other tools or farms are not confirmed: %s us",
                *(self._lab.job_id, run.task.name, run.best_tuned_us),
            )
        run.doubtful = []
        self._changed()

    def _believe(self, run: TaskRun) -> list[Outcome]:
        """Take a task's doubtful records for tried; returns them. To the task scheduler they are
        batches without a gain."""
        believed = run.believe()
        run.advance(len(believed), self._search.batch_size)
        return believed

    async def tune(self, budget: Budget) -> Ended:
        """Run batches until the budget is spent or no task has anything left to win; says which."""
        batches: set[asyncio.Task[None]] = set()
        flatness = Flatness()
        try:
            while (ended := self._ended(budget, flatness)) is None:
                self._launch(budget, batches)
                if not batches:
                    all_made = self.counts.total >= budget.trials
                    ended = Ended.TRIALS if all_made else Ended.NOTHING_LEFT
                    break
                done, batches = await asyncio.wait(
                    batches, timeout=budget.remaining_s, return_when=asyncio.FIRST_COMPLETED
                )
                for batch in done:
                    batch.result()
                self._changed()
            if ended is not Ended.TIME:
                await self._learning.settle()
            return ended
        finally:
            for batch in batches:
                batch.cancel()
            await asyncio.gather(*batches, return_exceptions=True)
            await self._learning.stop()

    def _ended(self, budget: Budget, flatness: Flatness) -> Ended | None:
        """Why tuning is over although some task may have something left to win, if it is."""
        if budget.remaining_s == 0:
            return Ended.TIME
        states = [run.state() for run in self.runs]
        if budget.target_us is not None and operators_us(states) <= budget.target_us:
            return Ended.TARGET
        if budget.flat_share is not None:
            gain = flatness.gain_per_minute(time.monotonic(), states)
            if gain is not None and gain < budget.flat_share:
                return Ended.FLAT
        return None

    def _launch(self, budget: Budget, batches: set[asyncio.Task[None]]) -> None:
        devices = self._lab.devices_present
        slots = BATCHES_AHEAD + max(0, devices - 1)
        while len(batches) < slots and budget.remaining_s != 0:
            left = budget.trials - self.counts.total - self._under_way
            states = [replace(run.state(), size=self._batch_size(run)) for run in self.runs]
            index = task_scheduler.choose(states) if left > 0 else None
            if index is None:
                return
            run = self.runs[index]
            size = min(left, self._batch_size(run))
            run.in_flight += 1
            self._under_way += size
            batches.add(asyncio.create_task(self._batch(run, size)))

    def _batch_size(self, run: TaskRun) -> int:
        """Few at first of a task that a cost model of others knows something of: what they tell
        makes the next few better."""
        knows = self._learning.experienced and run.trials < EXPERIENCED_TRIALS
        return EXPERIENCED_BATCH if knows else self._search.batch_size

    async def _batch(self, run: TaskRun, size: int) -> None:
        """One batch of one task, of at most ``size`` trials, from proposing to learning."""
        try:
            proposals = await self._propose(run, size)
            if proposals:
                measurements = await self.experiments.run(run, proposals)
                await self._take_in(run, proposals, measurements)
        finally:
            self._under_way -= size
            run.in_flight -= 1

    async def _opened(self, run: TaskRun) -> None:
        """Wait until the task's search knows what the log does."""
        if run.opened is None:
            run.opened = asyncio.create_task(self._open(run))
        await run.opened

    async def _propose(self, run: TaskRun, size: int) -> list[Proposal]:
        """The task's next candidates that the log does not know yet, maybe none."""
        with self._lab.clock.stage("propose"):
            await self._opened(run)
            proposals = await self._search.propose(run.task.workload_key, size)
        run.exhausted = not proposals
        return [p for p in proposals if p.candidate.key not in run.outcomes]

    async def _open(self, run: TaskRun) -> None:
        """Begin the task's search with what the log remembers."""
        known = list(run.outcomes.values())
        fragile = self._lab.fleet.registry.any_fragile(self._lab.device.kind)
        chance = MAX_FAILURE_OF_FRAGILE if fragile else 1.0
        features = await self._search.open(run.task, known, chance)
        await self._learning.recall(run, features)

    async def _take_in(
        self, run: TaskRun, proposals: Sequence[Proposal], measurements: Sequence[Measurement]
    ) -> None:
        known = [
            (Outcome(proposal.candidate, measurement.latency_us), measurement)
            for proposal, measurement in zip(proposals, measurements, strict=True)
            # No trial: the log does not count it either, so a second run would have one to make.
            if measurement.status is not MeasurementStatus.SUSPECT
        ]
        # What came late from an earlier run was counted then.
        new = [one for one in known if one[0].candidate.key not in run.outcomes]
        for outcome, _ in known:
            run.note(outcome)
        ok = sum(measurement.ok for _, measurement in new)
        self._count(ok, len(new) - ok)
        run.advance(len(proposals), self._search.batch_size)
        self._compose()
        telling = [outcome for outcome, measurement in known if measurement.status.teaches]
        await self._search.observe(run.task.workload_key, telling)
        await self._learning.learn(run, proposals, measurements)

    def _count_known(self, outcomes: Sequence[Outcome]) -> None:
        """What the log knows is part of the budget."""
        ok = sum(outcome.latency_us is not None for outcome in outcomes)
        self._count(ok, len(outcomes) - ok, from_log=len(outcomes))

    def _count(self, ok: int, failed: int, from_log: int = 0) -> None:
        counts = self.counts
        self.counts = TrialCounts(
            counts.total + ok + failed,
            counts.ok + ok,
            counts.failed + failed,
            counts.from_log + from_log,
        )


async def _together(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """What all of these return; if one fails or this is cancelled, none goes on."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _untuned(task: Task) -> Candidate:
    return Candidate(task.workload_key, UNTUNED_TRACE)
