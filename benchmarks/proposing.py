"""What a candidate costs to propose: MetaSchedule's evolutionary search and ours, in one run.

``python -m benchmarks.proposing [--rounds N]`` prints CPU seconds per candidate (this process, all
its threads; median over the rounds' batches) and the ratio of MetaSchedule's to ours. The task is a
3×3 convolution (1×64×56×56, 64 filters, bias, relu). Nothing is built: the latencies that steer the
search are made up, so that it has measured candidates to start from and a cost model to ask, as in
a job, and pays for both. MetaSchedule's search has its default sizes, asks the same cost model, and
gives its database the same made-up latencies.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.operators import Operator, conv2d
from benchmarks.result import last_line, table
from coordinator.frontend.importer import import_model
from coordinator.frontend.target import resolve_target
from coordinator.search.proposer import Outcome, Proposal, Proposer, SearchConfig
from coordinator.search.traces import trace_to_json
from cost_model.features import Features, candidate_features
from cost_model.model import MIN_SAMPLES, CostModel, Sample
from protos.records import Task

OURS = SearchConfig()
STOCK_BATCH = 64


def imported_task(operator: Operator, target: str) -> Task:
    """The operator's task, imported as a user's model would be."""
    return max(import_model(operator.model, {}, target, {}).tasks, key=lambda task: task.flops)


def cpu_s_per_candidate(task: Task, target: str, config: SearchConfig, rounds: int) -> float:
    """Median over ``rounds`` batches of ours; those before the first cost model are left out."""
    proposer = Proposer(task, target, 0, config)
    made_up = random.Random(0)
    samples: list[Sample] = []
    while len(samples) < MIN_SAMPLES:
        samples += _observe(proposer, proposer.propose(), made_up)
    proposer.use_model(CostModel.train(samples))
    costs = []
    for _ in range(rounds):
        started = time.process_time()
        found = proposer.propose()
        costs.append((time.process_time() - started) / len(found))
        _observe(proposer, found, made_up)
    return statistics.median(costs)


def _observe(proposer: Proposer, found: Sequence[Proposal], made_up: random.Random) -> list[Sample]:
    """Tell the search latencies of 1 to 10 ms; returns what a cost model learns from them."""
    outcomes = [Outcome(p.candidate, 1000.0 * 10 ** made_up.random()) for p in found]
    proposer.observe(outcomes)
    return [
        Sample(outcome.candidate.workload_key, proposal.features, outcome.latency_us)
        for proposal, outcome in zip(found, outcomes, strict=True)
    ]


class StockSearch:
    """MetaSchedule's evolutionary search of one task, with our cost model."""

    def __init__(self, task: Task, target: str) -> None:
        import tvm
        from tvm.s_tir import meta_schedule as ms

        from device_agent.build import register_intrinsics

        register_intrinsics(target)
        module = tvm.ir.load_json(task.workload_json)
        self._target = tvm.target.Target(json.loads(target))
        self._context = ms.TuneContext(
            mod=module,
            target=self._target,
            space_generator="post-order-apply",
            search_strategy="evolutionary",
            task_name=task.name,
            num_threads=os.cpu_count() or 1,
            rand_state=1,
        )
        self._key = task.workload_key
        self._database = ms.database.MemoryDatabase()
        self._workload = self._database.commit_workload(module)
        self._extractor = ms.feature_extractor.PerStoreFeature(extract_workload=True)
        self.model: CostModel | None = None
        self._context.pre_tuning(
            max_trials=1 << 30,
            num_trials_per_iter=STOCK_BATCH,
            design_spaces=self._context.generate_design_space(),
            database=self._database,
            cost_model=_search_cost_model(self._score),
        )

    def _score(self, candidates: Sequence[Any]) -> np.ndarray[Any, Any]:
        if self.model is None:
            return np.random.default_rng(len(candidates)).random(len(candidates))
        return self.model.predict(self._features(candidates)).score

    def _features(self, candidates: Sequence[Any]) -> Features:
        stores = self._extractor.extract_from(self._context, list(candidates))
        return np.stack(
            [
                candidate_features(matrix.numpy(), trace_to_json(candidate.sch.trace))
                for candidate, matrix in zip(candidates, stores, strict=True)
            ]
        )

    def propose(self) -> list[Any]:
        """The next batch."""
        return list(self._context.generate_measure_candidates())

    def observe(self, found: Sequence[Any], made_up: random.Random) -> list[Sample]:
        """Like ``_observe``."""
        from tvm.s_tir.meta_schedule.database import TuningRecord

        latencies_us = [1000.0 * 10 ** made_up.random() for _ in found]
        for item, latency_us in zip(found, latencies_us, strict=True):
            record = TuningRecord(item.sch.trace, self._workload, [latency_us * 1e-6], self._target)
            self._database.commit_tuning_record(record)
        rows = self._features(found)
        return [
            Sample(self._key, row, latency_us)
            for row, latency_us in zip(rows, latencies_us, strict=True)
        ]

    def cpu_s_per_candidate(self, rounds: int) -> float:
        """Median over ``rounds`` batches after the first cost model."""
        made_up = random.Random(0)
        self.model = CostModel.train(self.observe(self.propose(), made_up))
        costs = []
        for _ in range(rounds):
            started = time.process_time()
            found = self.propose()
            costs.append((time.process_time() - started) / len(found))
            self.observe(found, made_up)
        return statistics.median(costs)


def _search_cost_model(score: Callable[[Sequence[Any]], np.ndarray[Any, Any]]) -> Any:
    """MetaSchedule's cost model interface around a function from candidates to scores."""
    from tvm.ir.utils import derived_object
    from tvm.s_tir import meta_schedule as ms

    @derived_object
    class SearchCostModel(ms.cost_model.PyCostModel):  # type: ignore[misc]
        def update(self, context: Any, candidates: Any, results: Any) -> None:
            """Training happens outside."""

        def predict(self, context: Any, candidates: Any) -> np.ndarray[Any, Any]:
            return np.asarray(score(list(candidates)), dtype=np.float64)

    return SearchCostModel()


def main() -> None:
    """Print the table and, as the last line, one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proposing", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    target = resolve_target("auto", None)
    task = imported_task(conv2d(), target)
    ours = cpu_s_per_candidate(task, target, OURS, rounds)
    stock = StockSearch(task, target).cpu_s_per_candidate(rounds)
    rows = [("MetaSchedule", f"{stock:.3f}", "1.0"), ("ours", f"{ours:.3f}", f"{stock / ours:.1f}")]
    print(table(("search", "CPU s per candidate", "MetaSchedule's over it"), rows))
    figures = {
        "propose_cpu_s_conv2d": ours,
        "propose_cpu_s_stock": stock,
        "propose_ratio": stock / ours,
    }
    print(last_line("proposing", figures, target))


if __name__ == "__main__":
    main()
