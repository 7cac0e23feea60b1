"""The finals of a job: each task's best few timed again, before its winner is declared.

Who takes part and until when is decided in ``search/finals.py``, by what the log has: rounds that
were played before count, and a task whose finals are over is not measured again. Rounds of several
tasks are under way at once, so that the device always has the next one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from coordinator.experiments import Experiments, Lab
from coordinator.results.selection import select
from coordinator.search.finals import (
    ROUND_TURNS,
    TURN_SAMPLES,
    FinalsConfig,
    Standing,
    decide,
    heats,
    order,
    told_apart,
)
from coordinator.task_run import FinalResult, TaskRun
from coordinator.tuning_log import Evidence
from protos.errors import JobFailed
from protos.median import median_interval
from protos.records import (
    UNTUNED_TRACE,
    Artifact,
    EvaluatorConfig,
    Measurement,
    MeasurementStatus,
)

log = logging.getLogger(__name__)

ROUNDS_AHEAD = 3
"""Tasks whose rounds are under way at once for one device."""

LARGEST_SHARE = 0.05
"""Of a job's time limit: what finals may be given."""

EXPECTED_TASK_S = 1.0
"""What the finals of one task take of a device: six finalists, two rounds, 75 ms each."""

MAX_ROUND_MS = 200
"""Of one finalist in a round; a kernel of 20 ms has fewer turns."""

_NO_VERDICT = (MeasurementStatus.DEVICE_LOST, MeasurementStatus.SUSPECT)
"""Says nothing of the candidate."""


def final_evaluator(config: EvaluatorConfig) -> EvaluatorConfig:
    """The policy of finals: the same samples of everybody, none given up, none favoured.

    The device samples in turn whoever needs more, and with these numbers everybody does.
    """
    return replace(
        config,
        repeat=TURN_SAMPLES,
        hopeless_ratio=0.0,
        max_repeat=TURN_SAMPLES * ROUND_TURNS,
        max_timing_ms=MAX_ROUND_MS,
        contender_ratio=0.0,
        looks=1,
        precision=0.0,
    )


def reserve_s(limit_s: float, tasks: int, devices: int) -> float:
    """How much earlier tuning ends, so that the finals fit into the job's time limit."""
    return min(LARGEST_SHARE * limit_s, tasks * EXPECTED_TASK_S / max(devices, 1))


def result(known: Sequence[Evidence]) -> FinalResult | None:
    """What the finals say of a task's winner; None if it was in none (pure)."""
    winner = select(known, 0.0)
    if winner is None or winner.pooled_us is None or not winner.finals_s:
        return None
    interval = median_interval(winner.final_turns_us)
    mine = _standing(winner)
    others = [item for item in known if item is not winner and item.finals_s and item.latency_us]
    return FinalResult(
        winner.pooled_us,
        interval[0] if interval else None,
        interval[1] if interval else None,
        sum(not told_apart(mine, _standing(item)) for item in others),
    )


def _standing(item: Evidence) -> Standing:
    return Standing(item.candidate.key, item.finals_s)


class Finals:
    """Finals of all tasks of a job. Lives on the coordinator's event loop."""

    def __init__(
        self,
        lab: Lab,
        experiments: Experiments,
        runs: Sequence[TaskRun],
        changed: Callable[[], None],
        config: FinalsConfig | None = None,
    ) -> None:
        """``changed`` is called when there is progress to show."""
        self._lab = lab
        self._experiments = experiments
        self._runs = runs
        self._changed = changed
        self._config = config or FinalsConfig()

    async def hold(self, deadline: float | None) -> None:
        """Play until every task that matters has its winner, or the monotonic clock says stop."""
        known = [await self._known(run) for run in self._runs]
        costs = [
            run.weight * min((i.latency_us for i in items if i.latency_us), default=0.0)
            for run, items in zip(self._runs, known, strict=True)
        ]
        least = self._config.min_share * sum(costs)
        turns = sorted(range(len(costs)), key=lambda index: -costs[index])
        worthwhile = [i for i in turns if costs[i] > 0 and costs[i] >= least]
        seats = asyncio.Semaphore(ROUNDS_AHEAD - 1 + self._devices())
        rounds = [
            asyncio.create_task(self._task(self._runs[index], known[index], seats))
            for index in worthwhile
        ]
        try:
            if rounds:
                left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
                done, _ = await asyncio.wait(
                    rounds, timeout=left_s, return_when=asyncio.FIRST_EXCEPTION
                )
                for ended in done:
                    ended.result()
        finally:
            for one in rounds:
                one.cancel()
            await asyncio.gather(*rounds, return_exceptions=True)
        for run in self._runs:
            self._declare(run, await self._known(run))

    def _devices(self) -> int:
        return max(1, self._lab.devices_present)

    async def _known(self, run: TaskRun) -> list[Evidence]:
        lab = self._lab
        return await asyncio.to_thread(
            lab.tuning_log.evidence,
            run.task.workload_key,
            lab.device.kind,
            lab.evaluator.cold_cache,
            lab.toolchains,
        )

    def _declare(self, run: TaskRun, known: Sequence[Evidence]) -> None:
        run.final = result(known)
        for item in known:
            if item.candidate.trace_json == UNTUNED_TRACE and item.pooled_us is not None:
                run.untuned_us = item.pooled_us
        self._changed()

    async def _task(
        self, run: TaskRun, known: Sequence[Evidence], seats: asyncio.Semaphore
    ) -> None:
        """All rounds of one task; one whose reference can't be built stays as it is."""
        races = heats(known, self._config)
        finalists = {item.candidate.key: item for heat in races for item in heat}
        standings = {key: _standing(item) for key, item in finalists.items()}
        async with seats:
            for played in range(self._config.rounds):
                again = [
                    key
                    for heat in races
                    for key in decide(
                        [standings[item.candidate.key] for item in heat], self._config
                    ).again
                ]
                if not again:
                    return
                try:
                    results = await self._round(run, [finalists[k] for k in order(again, played)])
                except JobFailed as error:
                    log.warning("job %s: no finals: %s", self._lab.job_id, error)
                    return
                for key, measurement in results.items():
                    standings[key] = _after(standings[key], measurement)

    async def _round(
        self, run: TaskRun, items: Sequence[Evidence]
    ) -> dict[str, Measurement | None]:
        """Measure each once, in this order; None for one that can't be built any more."""
        built = await asyncio.gather(*(self._artifact(run, item) for item in items))
        results: dict[str, Measurement | None] = {item.candidate.key: None for item in items}
        trials = [
            (item.candidate, artifact)
            for item, artifact in zip(items, built, strict=True)
            if artifact is not None
        ]
        if trials:
            evaluator = final_evaluator(self._lab.evaluator)
            for measurement in await self._experiments.again(run, trials, evaluator):
                results[measurement.candidate_key] = measurement
        return results

    async def _artifact(self, run: TaskRun, item: Evidence) -> Artifact | None:
        """What the search built, or the same trace built again."""
        if item.candidate.trace_json == UNTUNED_TRACE:
            return await self._experiments.reference(run)
        key = item.candidate.key
        if key not in run.artifacts:
            outcome = await self._experiments.build(run, item.candidate)
            if outcome.artifact is None:
                log.warning("job %s: not built again: %s", self._lab.job_id, outcome.error)
                return None
            run.artifacts[key] = outcome.artifact
        return run.artifacts[key]


def _after(standing: Standing, measurement: Measurement | None) -> Standing:
    """The standing after a round."""
    if measurement is None:
        return standing.after(())
    if measurement.status in _NO_VERDICT:
        return standing
    return standing.after(measurement.repeats_s if measurement.ok else ())
