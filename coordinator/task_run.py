"""What a job knows of one of its tasks while it runs."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field

from coordinator.search.proposer import Outcome
from coordinator.search.seeds import Elsewhere
from coordinator.search.task_scheduler import TaskState
from coordinator.tuning_log import Evidence
from protos.records import UNTUNED_TRACE, Artifact, Candidate, Measurement, Task, TaskProgress

KEPT_RATIO, KEPT_US = 1.2, 20.0
"""An artifact is kept if it is this close to the task's best when it was measured."""


@dataclass(frozen=True)
class FinalResult:
    """The winner of a task's finals: the median over its turns there, the 95 % interval of that,
    and how many others could not be told from it."""

    latency_us: float
    low_us: float | None
    high_us: float | None
    tied: int


@dataclass
class TaskRun:
    """One task of the job and what is known of it. Latencies in microseconds.

    ``weight`` is how often the model runs it as it would be made now, ``stake`` what a microsecond
    of it is worth to the search (``search/composition.py``). ``measured`` counts trials and what
    was suspect; ``best_after`` is the best latency after each full batch of these, and now.
    ``outcomes`` is by candidate key. ``seeds``, or what is like ``elsewhere`` (of other kinds of
    device), is timed before the search proposes anything, and ``doubtful`` is what else is known of
    where the seeds came from. ``opened`` and ``reference`` are shared by the batches that wait
    for them; ``artifacts`` are those that may come into the finals, by candidate key.
    """

    task: Task
    weight: int = field(init=False)
    stake: float = field(init=False)
    untuned_us: float | None = None
    best_us: float | None = None
    trials: int = 0
    measured: int = 0
    best_after: list[float] = field(default_factory=list)
    in_flight: int = 0
    exhausted: bool = False
    opened: asyncio.Task[None] | None = None
    reference: asyncio.Task[Artifact] | None = None
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    final: FinalResult | None = None
    seeds: list[Candidate] = field(default_factory=list)
    elsewhere: list[Elsewhere] = field(default_factory=list)
    doubtful: list[Evidence] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.weight, self.stake = self.task.weight, float(self.task.weight)

    def state(self) -> TaskState:
        """What the task scheduler sees; a task without a working baseline is exhausted."""
        return TaskState(
            self.weight,
            self.untuned_us or 0.0,
            self.task.flops,
            tuple(self.best_after),
            self.in_flight,
            self.exhausted or self.untuned_us is None,
            self.stake,
        )

    def progress(self) -> TaskProgress:
        """What people see: of the winner the finals' median, where there were any."""
        final = self.final
        return TaskProgress(
            self.task.name,
            self.task.workload_key,
            self.weight,
            self.untuned_us,
            final.latency_us if final else self.best_us,
            self.trials,
            final.low_us if final else None,
            final.high_us if final else None,
            final.tied if final else 0,
            self.task.flops,
            self.task.moved_bytes,
        )

    def keep(self, artifact: Artifact, measurement: Measurement) -> None:
        """Keep the bytes of one that is among the best, so that its finals need not build it."""
        latency_us = measurement.latency_us
        if latency_us is not None:
            best_us = min(self.best_us or latency_us, latency_us)
            if latency_us <= max(KEPT_RATIO * best_us, best_us + KEPT_US):
                self.artifacts[measurement.candidate_key] = artifact

    def pacemaker(self) -> Artifact | None:
        """The bytes of the fastest candidate, if any are kept."""
        timed = {key: o.latency_us for key, o in self.outcomes.items() if o.latency_us is not None}
        keys = [key for key in self.artifacts if key in timed]
        return self.artifacts[min(keys, key=timed.__getitem__)] if keys else None

    def note(self, outcome: Outcome) -> bool:
        """Take an outcome into account; whether it is a new trial. The untuned program is none."""
        if outcome.candidate.key in self.outcomes:
            return False
        self.outcomes[outcome.candidate.key] = outcome
        untuned = outcome.candidate.trace_json == UNTUNED_TRACE
        self.trials += not untuned
        if outcome.latency_us is not None:
            if untuned:
                self.untuned_us = outcome.latency_us
            self.best_us = min(self.best_us or outcome.latency_us, outcome.latency_us)
        return not untuned

    def advance(self, measured: int, batch_size: int) -> None:
        """So many more were measured: they are in the outcomes already. A history by full batches,
        whatever came together: half a batch that wins nothing says half as much."""
        self.measured += measured
        if self.best_us is not None:
            rounds = math.ceil(self.measured / batch_size)
            del self.best_after[max(0, rounds - 1) :]
            self.best_after += [self.best_us] * (rounds - len(self.best_after))

    @property
    def best_tuned_us(self) -> float | None:
        """The best of what was tried here."""
        return min((o.latency_us for o in self.tried() if o.latency_us is not None), default=None)

    def believe(self) -> list[Outcome]:
        """Take the doubtful records for tried, without their times: those were confirmed by others,
        and none of them is the best. Returns them."""
        believed = [
            Outcome(item.candidate, item.latency_us)
            for item in self.doubtful
            if item.candidate.key not in self.outcomes
            and item.candidate.trace_json != UNTUNED_TRACE
        ]
        self.outcomes |= {outcome.candidate.key: outcome for outcome in believed}
        self.trials += len(believed)
        self.doubtful = []
        return believed

    def tried(self) -> list[Outcome]:
        """The outcomes of candidates, the untuned program left out."""
        return [o for o in self.outcomes.values() if o.candidate.trace_json != UNTUNED_TRACE]
