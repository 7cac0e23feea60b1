"""What a job learns from its measurements: the cost model's training, and how well it ranks."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from coordinator.experiments import Lab
from coordinator.search.proposer import Proposal
from coordinator.search.worker import SearchPool
from coordinator.task_run import TaskRun
from coordinator.training.trainer import Trainer
from cost_model import ranking
from cost_model.features import Features
from cost_model.model import Sample
from protos.records import Measurement, RankingQuality

RETRAIN_EVERY = 32
"""New measurements that make a retraining worth its time."""

RANKING_WINDOW = 10
"""Batches over which the live ranking quality is averaged."""


class Learning:
    """Feeds the trainer and hands its models to the search. Lives on the event loop."""

    def __init__(self, lab: Lab, search: SearchPool, trainer: Trainer) -> None:
        self._lab = lab
        self._search = search
        self._trainer = trainer
        self._samples: list[Sample] = []
        self._training: asyncio.Task[None] | None = None
        self._version: int | None = None
        self._qualities: deque[RankingQuality] = deque(maxlen=RANKING_WINDOW)

    @property
    def ranking(self) -> RankingQuality | None:
        """The live quality, averaged over the last batches; None before the first."""
        return ranking.average(list(self._qualities))

    async def adopt(self) -> None:
        """Begin with the model that the log keeps for this kind of device, if any."""
        stored = await asyncio.to_thread(
            self._lab.tuning_log.latest_cost_model, self._lab.learning_kind
        )
        if stored is not None:
            self._version, text = stored
            await self._trainer.adopt(text)
            await self._search.use_model(text)

    def recall(self, run: TaskRun, features: dict[str, Features]) -> None:
        """Learn from a task's remembered outcomes; ``features`` is by candidate key."""
        for key, row in features.items():
            sample = Sample(run.task.workload_key, row, run.outcomes[key].latency_us)
            self._samples.append(sample)

    async def learn(
        self, run: TaskRun, proposals: Sequence[Proposal], measurements: Sequence[Measurement]
    ) -> None:
        """Learn from a measured batch; starts a retraining when enough has come together."""
        for proposal, measurement in zip(proposals, measurements, strict=True):
            if measurement.status.teaches:
                sample = Sample(run.task.workload_key, proposal.features, measurement.latency_us)
                self._samples.append(sample)
        await self._judge(run, proposals, measurements)
        idle = self._training is None or self._training.done()
        if idle and len(self._samples) >= RETRAIN_EVERY:
            await self.settle()
            self._training = asyncio.create_task(self._retrain())

    async def settle(self) -> None:
        """Wait for the retraining under way, if any; raises what it raised."""
        if self._training is not None:
            training, self._training = self._training, None
            await training

    async def stop(self) -> None:
        """Drop the retraining under way."""
        if self._training is not None:
            self._training.cancel()
            await asyncio.gather(self._training, return_exceptions=True)

    async def _judge(
        self, run: TaskRun, proposals: Sequence[Proposal], measurements: Sequence[Measurement]
    ) -> None:
        """Log how well the cost model had ordered this batch before it was measured."""
        pairs = [
            (proposal.score, measurement.latency_us or float("inf"))
            for proposal, measurement in zip(proposals, measurements, strict=True)
            if proposal.score is not None and measurement.status.teaches
        ]
        if len(pairs) < 2:
            return
        quality = ranking.batch_quality([s for s, _ in pairs], [latency for _, latency in pairs])
        if quality is None:
            return
        self._qualities.append(quality)
        await asyncio.to_thread(
            self._lab.tuning_log.add_ranking,
            self._lab.job_id,
            run.task.workload_key,
            self._version,
            quality.pairwise,
            quality.peak_at_1,
            quality.peak_at_5,
            len(pairs),
        )

    async def _retrain(self) -> None:
        new, self._samples = self._samples, []
        training = await self._trainer.train(new)
        if training is None:
            return
        self._lab.clock.add("train", training.train_s)
        version = await asyncio.to_thread(
            self._lab.tuning_log.add_cost_model,
            self._lab.learning_kind,
            training.text,
            training.samples,
            training.scores,
        )
        if training.text is not None:
            self._version = version
            await self._search.use_model(training.text)
