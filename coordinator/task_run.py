"""What a job knows of one of its tasks while it runs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from coordinator.search.proposer import Outcome
from coordinator.search.task_scheduler import TaskState
from protos.records import UNTUNED_TRACE, Artifact, Task, TaskProgress


@dataclass
class TaskRun:
    """One task of the job and what is known of it. Latencies in microseconds.

    ``best_after`` is the best latency after each batch; ``outcomes`` is by candidate key;
    ``opened`` and ``reference`` are shared by the batches that wait for them.
    """

    task: Task
    untuned_us: float | None = None
    best_us: float | None = None
    trials: int = 0
    best_after: list[float] = field(default_factory=list)
    in_flight: int = 0
    exhausted: bool = False
    opened: asyncio.Task[None] | None = None
    reference: asyncio.Task[Artifact] | None = None
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def state(self) -> TaskState:
        """What the task scheduler sees; a task without a working baseline is exhausted."""
        return TaskState(
            self.task.weight,
            self.untuned_us or 0.0,
            self.task.flops,
            tuple(self.best_after),
            self.in_flight,
            self.exhausted or self.untuned_us is None,
        )

    def progress(self) -> TaskProgress:
        """What people see."""
        return TaskProgress(
            self.task.name,
            self.task.workload_key,
            self.task.weight,
            self.untuned_us,
            self.best_us,
            self.trials,
        )

    def note(self, outcome: Outcome) -> None:
        """Take an outcome into account; the untuned program is no trial."""
        if outcome.candidate.key in self.outcomes:
            return
        self.outcomes[outcome.candidate.key] = outcome
        untuned = outcome.candidate.trace_json == UNTUNED_TRACE
        self.trials += not untuned
        if outcome.latency_us is not None:
            if untuned:
                self.untuned_us = outcome.latency_us
            self.best_us = min(self.best_us or outcome.latency_us, outcome.latency_us)

    def tried(self) -> list[Outcome]:
        """The outcomes of candidates, the untuned program left out."""
        return [o for o in self.outcomes.values() if o.candidate.trace_json != UNTUNED_TRACE]
