"""What a candidate costs to propose, for several sizes of the evolution: MetaSchedule's and ours.

``python -m benchmarks.proposing [--rounds N]`` prints CPU seconds per candidate (this process, all
its threads; median over the rounds' batches) and the ratio to MetaSchedule's default. The task is
a 3×3 convolution (1×64×56×56, 64 filters, bias, relu). Nothing is built: the latencies that steer
the search are made up, so that it has measured candidates to start from and a cost model to ask, as
in a job, and pays for both.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from collections.abc import Sequence

from benchmarks.operators import Operator, conv2d
from benchmarks.result import last_line, table
from coordinator.frontend.importer import import_model
from coordinator.frontend.target import resolve_target
from coordinator.search.proposer import Outcome, Proposal, Proposer, SearchConfig
from cost_model.model import MIN_SAMPLES, CostModel, Sample
from protos.records import Task

OURS = SearchConfig()

CONFIGS = {
    "MetaSchedule's default": SearchConfig(batch=64, population=512, generations=4),
    "128 × 3, batches of 32": SearchConfig(batch=32, population=128, generations=3),
    "96 × 3, batches of 16": SearchConfig(batch=16, population=96, generations=3),
    "ours": OURS,
}


def imported_task(operator: Operator, target: str) -> Task:
    """The operator's task, imported as a user's model would be."""
    return max(import_model(operator.model, {}, target).tasks, key=lambda task: task.flops)


def cpu_s_per_candidate(task: Task, target: str, config: SearchConfig, rounds: int) -> float:
    """Median over ``rounds`` batches; those before the first cost model are left out."""
    proposer = Proposer(task, target, 0, config, os.cpu_count() or 1)
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


def main() -> None:
    """Print the table and, as the last line, one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proposing", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    target = resolve_target("auto", None)
    task = imported_task(conv2d(), target)
    costs = {
        name: cpu_s_per_candidate(task, target, config, rounds) for name, config in CONFIGS.items()
    }
    peer = costs["MetaSchedule's default"]
    rows = [(name, f"{cost:.3f}", f"{peer / cost:.1f}") for name, cost in costs.items()]
    print(table(("evolution", "CPU s per candidate", "default over it"), rows))
    figures = {"propose_cpu_s_conv2d": costs["ours"], "propose_cpu_s_default": peer}
    print(last_line("proposing", figures, target))


if __name__ == "__main__":
    main()
