"""One task's search: MetaSchedule's space and evolutionary search, driven from Python.

A proposer is asked for a batch, told what was measured, and asked again, in any order: the strategy
keeps a set of what it handed out, so a batch may be proposed before the last one was measured.
What steers it is its database of measured traces and the cost model.
"""

from __future__ import annotations

import json
import logging
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from coordinator.search.traces import trace_to_json, uses_threads, without_threads
from cost_model.features import Features, candidate_features
from cost_model.model import CostModel
from device_agent.build import register_intrinsics
from protos.records import UNTUNED_TRACE, Candidate, Task

log = logging.getLogger(__name__)

SERIAL_BELOW_FLOPS = 5e6
"""A task with less arithmetic is tried without threads too: some tens of microseconds for one core,
of which a thread pool's start and join, and the data that changes cores, take back a good part.
MetaSchedule's own space makes every kernel parallel (docs/decisions/0007-serial-candidates.md)."""

THREADS_COST_US = 5.0
"""What threads cost in a model beyond what a kernel measured by itself shows."""

SERIAL_SHARES = (0.5, 0.9, 0.2)
"""Share of a batch without threads: at first, when those lead, when they trail."""


@dataclass(frozen=True)
class SearchConfig:
    """The evolution's size. Smaller than MetaSchedule's defaults (512, 4): an evaluation of a
    trace costs more than what a larger population finds (measured: docs/performance.md)."""

    batch: int = 16
    population: int = 64
    generations: int = 2
    eps_greedy: float = 0.1


@dataclass(frozen=True)
class Proposal:
    """A candidate, its features (516,), and the cost model's score; None if there was no model."""

    candidate: Candidate
    features: Features
    score: float | None


@dataclass(frozen=True)
class Outcome:
    """What became of a candidate: latency in microseconds, None if it failed."""

    candidate: Candidate
    latency_us: float | None


class Proposer:
    """The search for one task on one target."""

    def __init__(
        self,
        task: Task,
        target_json: str,
        seed: int,
        config: SearchConfig,
        num_threads: int,
    ) -> None:
        """``num_threads`` is how many threads the search itself may use."""
        import tvm
        from tvm.s_tir import meta_schedule as ms

        register_intrinsics(target_json)
        self._task = task
        self._config = config
        self._model: CostModel | None = None
        self._module = tvm.ir.load_json(task.workload_json)
        self._target = tvm.target.Target(json.loads(target_json))
        self._extractor = ms.feature_extractor.PerStoreFeature(extract_workload=True)
        self._database = ms.database.MemoryDatabase()
        self._workload = self._database.commit_workload(self._module)
        self._known: set[str] = set()
        self._traces: dict[str, Any] = {}  # of what was proposed and not observed yet
        self._context = self._make_context(num_threads, seed)
        self._may_be_serial = task.flops < SERIAL_BELOW_FLOPS
        self._best_us = {True: math.inf, False: math.inf}  # by whether it is serial
        self._random = random.Random(seed)
        self._context.pre_tuning(
            max_trials=1 << 30,
            num_trials_per_iter=config.batch,
            design_spaces=self._context.generate_design_space(),
            database=self._database,
            cost_model=_search_cost_model(self._score),
        )

    def _make_context(self, num_threads: int, seed: int) -> Any:
        from tvm.s_tir import meta_schedule as ms

        config = self._config
        strategy = ms.search_strategy.EvolutionarySearch(
            population_size=config.population,
            init_min_unmeasured=config.population // 2,
            genetic_num_iters=config.generations,
            eps_greedy=config.eps_greedy,
        )
        return ms.TuneContext(
            mod=self._module,
            target=self._target,
            space_generator="post-order-apply",
            search_strategy=strategy,
            task_name=self._task.name,
            num_threads=num_threads,
            rand_state=seed,
        )

    def use_model(self, model: CostModel | None) -> None:
        """Score candidates with ``model`` from now on; None: at random."""
        self._model = model

    def _score(self, candidates: Sequence[Any]) -> npt.NDArray[np.float64]:
        if self._model is None:
            return np.random.default_rng(len(candidates)).random(len(candidates))
        return self._model.predict(self._features(candidates))

    def _features(self, candidates: Sequence[Any]) -> Features:
        stores = self._extractor.extract_from(self._context, list(candidates))
        return np.stack([candidate_features(matrix.numpy()) for matrix in stores])

    def propose(self) -> list[Proposal]:
        """The next batch, none of it proposed or observed before; empty when the space is used up.

        Two traces that differ may still build the same object; that is for the builder to notice.
        """
        for _ in range(3):
            found = self._context.generate_measure_candidates()
            fresh = self._fresh(list(found) if found else [])
            if fresh or not found:
                return fresh
        return []

    def _fresh(self, found: list[Any]) -> list[Proposal]:
        from tvm.s_tir.meta_schedule import MeasureCandidate

        chosen: dict[str, tuple[Candidate, Any]] = {}
        for item in found:
            candidate, schedule = self._form(trace_to_json(item.sch.trace), item.sch)
            if candidate.key not in self._known:
                chosen[candidate.key] = (candidate, schedule)
        if not chosen:
            return []
        self._known.update(chosen)
        self._traces.update((key, schedule.trace) for key, (_, schedule) in chosen.items())
        features = self._features([MeasureCandidate(sch, []) for _, sch in chosen.values()])
        scores = [None] * len(chosen) if self._model is None else self._model.predict(features)
        return [
            Proposal(candidate, row, None if score is None else float(score))
            for (candidate, _), row, score in zip(chosen.values(), features, scores, strict=True)
        ]

    def _form(self, trace_json: str, schedule: Any) -> tuple[Candidate, Any]:
        """The candidate as it was found, or without its threads."""
        as_found = Candidate(self._task.workload_key, trace_json)
        if not self._may_be_serial or self._random.random() >= self._serial_share():
            return as_found, schedule
        serial = Candidate(self._task.workload_key, without_threads(trace_json))
        return serial, self._schedule(serial)

    def _serial_share(self) -> float:
        first, leading, trailing = SERIAL_SHARES
        if math.inf in self._best_us.values():
            return first
        return leading if self._best_us[True] < self._best_us[False] + THREADS_COST_US else trailing

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Take measured candidates into the database that seeds the next population."""
        from tvm.s_tir.meta_schedule.database import TuningRecord

        for outcome in outcomes:
            self._known.add(outcome.candidate.key)
            trace = self._traces.pop(outcome.candidate.key, None)
            if outcome.latency_us is None or outcome.candidate.trace_json == UNTUNED_TRACE:
                continue
            if trace is None:
                trace = self._schedule(outcome.candidate).trace
            serial = not uses_threads(outcome.candidate.trace_json)
            self._best_us[serial] = min(self._best_us[serial], outcome.latency_us)
            seconds = [outcome.latency_us * 1e-6]
            record = TuningRecord(trace, self._workload, seconds, self._target, None)
            self._database.commit_tuning_record(record)

    def recall(self, outcomes: Sequence[Outcome]) -> dict[str, Features]:
        """Observe what the log remembers; returns the features (516,) by candidate key.

        A trace that this version of the compiler refuses is left out, with a warning.
        """
        from tvm.s_tir.meta_schedule import MeasureCandidate

        features: dict[str, Features] = {}
        for outcome in outcomes:
            if outcome.candidate.trace_json == UNTUNED_TRACE:
                continue
            try:
                schedule = self._schedule(outcome.candidate)
            except Exception as error:  # TVM's errors share no narrower base
                log.warning(
                    "task %s: candidate %s of the log can't be replayed: %s",
                    self._task.name,
                    outcome.candidate.key[:12],
                    error,
                )
                continue
            key = outcome.candidate.key
            features[key] = self._features([MeasureCandidate(schedule, [])])[0]
            self._traces[key] = schedule.trace
            self.observe([outcome])
        return features

    def _schedule(self, candidate: Candidate) -> Any:
        from tvm.s_tir import Schedule
        from tvm.s_tir.schedule import Trace

        schedule = Schedule(self._module)
        Trace.apply_json_to_schedule(json.loads(candidate.trace_json), schedule)
        return schedule


def _search_cost_model(score: Any) -> Any:
    """MetaSchedule's cost model interface around a function from candidates to scores."""
    from tvm.ir.utils import derived_object
    from tvm.s_tir import meta_schedule as ms

    @derived_object
    class SearchCostModel(ms.cost_model.PyCostModel):  # type: ignore[misc]
        def load(self, path: str) -> None:
            raise NotImplementedError("the cost model is given by the trainer")

        def save(self, path: str) -> None:
            raise NotImplementedError("the cost model is kept in the tuning log")

        def update(self, context: Any, candidates: Any, results: Any) -> None:
            """Training happens elsewhere."""

        def predict(self, context: Any, candidates: Any) -> npt.NDArray[np.float64]:
            return np.asarray(score(list(candidates)), dtype=np.float64)

    return SearchCostModel()


def best_outcomes(outcomes: Sequence[Outcome], limit: int) -> list[Outcome]:
    """The ``limit`` most telling of a task's outcomes: the fastest first, then failures."""
    return sorted(outcomes, key=lambda o: float("inf") if o.latency_us is None else o.latency_us)[
        :limit
    ]
