"""The searches of a job, spread over Ray actors.

One proposer a task, several proposers an actor: an actor's process costs a quarter of a gigabyte
and two to three seconds of CPU to start, which a model of fifty tasks can't pay fifty times
(docs/decisions/0003-search-actors-share-tasks.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from coordinator.ray_runtime import HELPER_CPUS, Actor
from coordinator.search.proposer import (
    Outcome,
    Proposal,
    Proposer,
    SearchConfig,
    best_outcomes,
)
from coordinator.search.seeds import Elsewhere
from cost_model.features import Features
from cost_model.model import CostModel
from device_agent.build import register_intrinsics
from protos import host_lock
from protos.records import Candidate, Task

RECALLED = 256
"""The most measurements of a task that a restarted search replays; the fastest ones."""


class SearchWorker:
    """Lives in an actor: holds the proposers of its tasks and the newest cost model."""

    def __init__(self, target_json: str, seed: int, config: SearchConfig) -> None:
        """Loads the compiler, so that the first proposal need not wait for it."""
        register_intrinsics(target_json)
        self._target_json = target_json
        self._seed = seed
        self._config = config
        self._proposers: dict[str, Proposer] = {}
        self._model: CostModel | None = None

    def open(
        self, task: Task, remembered: Sequence[Outcome], max_failure: float = 1.0
    ) -> dict[str, Features]:
        """Begin the search of a task with what the log knows; returns that knowledge's features.

        Nothing is proposed that fails with a greater chance than ``max_failure``.
        """
        with host_lock.working():
            config = replace(self._config, max_failure=max_failure)
            proposer = Proposer(task, self._target_json, self._seed, config)
            proposer.use_model(self._model)
            self._proposers[task.workload_key] = proposer
            return proposer.recall(best_outcomes(remembered, RECALLED))

    def propose(self, workload_key: str, count: int | None) -> list[Proposal]:
        """The task's next batch; empty when its space is used up."""
        with host_lock.working():
            return self._proposers[workload_key].propose(count)

    def seed(self, workload_key: str, candidates: Sequence[Candidate]) -> list[Proposal]:
        """See Proposer.seed."""
        with host_lock.working():
            return self._proposers[workload_key].seed(candidates)

    def adapt(
        self, workload_key: str, elsewhere: Sequence[Elsewhere], count: int
    ) -> list[Proposal]:
        """See Proposer.adapt."""
        with host_lock.working():
            return self._proposers[workload_key].adapt(elsewhere, count)

    def observe(self, workload_key: str, outcomes: Sequence[Outcome]) -> None:
        """Tell the task's search what was measured."""
        self._proposers[workload_key].observe(outcomes)

    def use_model(self, text: str) -> None:
        """Score with this cost model from now on."""
        self._model = CostModel(text)
        for proposer in self._proposers.values():
            proposer.use_model(self._model)


class SearchPool:
    """The actors of one job; a task always goes to the same one."""

    def __init__(self, size: int, target_json: str, seed: int, config: SearchConfig) -> None:
        def make() -> SearchWorker:
            return SearchWorker(target_json, seed, config)

        self.batch_size = config.batch
        self._actors = [Actor(make, f"search-{i}", HELPER_CPUS) for i in range(size)]
        self._of_task: dict[str, Actor[SearchWorker]] = {}

    def start(self) -> None:
        """Start the actors' processes."""
        for actor in self._actors:
            actor.start()

    async def open(
        self, task: Task, remembered: Sequence[Outcome], max_failure: float = 1.0
    ) -> dict[str, Features]:
        """See SearchWorker.open."""
        actor = self._actors[len(self._of_task) % len(self._actors)]
        self._of_task[task.workload_key] = actor
        features: dict[str, Features] = await actor.call("open", task, remembered, max_failure)
        return features

    async def propose(self, workload_key: str, count: int | None = None) -> list[Proposal]:
        """See SearchWorker.propose."""
        actor = self._of_task[workload_key]
        batch: list[Proposal] = await actor.call("propose", workload_key, count)
        return batch

    async def seed(self, workload_key: str, candidates: Sequence[Candidate]) -> list[Proposal]:
        """See SearchWorker.seed."""
        actor = self._of_task[workload_key]
        batch: list[Proposal] = await actor.call("seed", workload_key, candidates)
        return batch

    async def adapt(
        self, workload_key: str, elsewhere: Sequence[Elsewhere], count: int
    ) -> list[Proposal]:
        """See SearchWorker.adapt."""
        actor = self._of_task[workload_key]
        batch: list[Proposal] = await actor.call("adapt", workload_key, elsewhere, count)
        return batch

    async def observe(self, workload_key: str, outcomes: Sequence[Outcome]) -> None:
        """See SearchWorker.observe."""
        await self._of_task[workload_key].call("observe", workload_key, outcomes)

    async def use_model(self, text: str) -> None:
        """Give every actor a new cost model."""
        for actor in self._actors:
            await actor.call("use_model", text)

    def stop(self) -> None:
        """Kill the actors."""
        for actor in self._actors:
            actor.stop()
