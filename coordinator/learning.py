"""What a job learns from its measurements: the cost model's training, and how well it ranks.

Models are trained on the tuning log: what other jobs measure on the same kind of device meanwhile,
or measured long ago, counts as much as what this one does. On the newest of it again and again; on
all of a log too large for one process once, and when it has grown (``training/distributed.py``).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

from coordinator.experiments import Lab
from coordinator.frontend.target import vector_lanes_of
from coordinator.other_kinds import OtherKind
from coordinator.search.proposer import Proposal
from coordinator.search.worker import SearchPool
from coordinator.task_run import TaskRun
from coordinator.training import distributed
from coordinator.training.distributed import DISTRIBUTED_ABOVE, AllRows
from coordinator.training.trainer import MAX_SAMPLES, Trainer, Training
from coordinator.tuning_log.samples import SampleRow
from coordinator.tuning_log.training_rows import ALL_ROWS_SCORE, Scope, extent, trained_on
from cost_model import ranking
from cost_model.features import VERSION, Features, pack, unpack
from cost_model.model import MIN_SAMPLES, Sample
from protos.errors import FarmError
from protos.records import Measurement, RankingQuality

log = logging.getLogger(__name__)

RETRAIN_EVERY = 32
"""New measurements that make a retraining worth its time."""

RETRAIN_SHARE = 0.1
"""The most of a job's time that goes into training: with many measurements to learn from it takes
longer, and a few more change less."""

ROWS_AT_ONCE = 2000

FROM_ELSEWHERE = 8000
"""The newest measurements of other kinds of device, among which are those that a kind without
enough of its own learns from: which of two programs is faster is often the same on both."""

ENOUGH, ENOUGH_OF_SAME = 256, 1024
"""With so many candidates of its own a kind of device learns from no others any more, as what is
best differs in the end; the second where the others are of the job's own operators."""

RANKING_WINDOW = 10
"""Batches over which the live ranking quality is averaged."""


def samples_of(rows: Sequence[SampleRow]) -> list[Sample]:
    """Samples out of the log's rows; one whose features are damaged is left out, with a warning."""
    found = []
    for row in rows:
        try:
            features = unpack(row.features)
        except ValueError as error:
            log.warning("the features of candidate %s: %s", row.candidate_key[:12], error)
            continue
        found.append(Sample(row.workload_key, features, row.latency_us, row.candidate_key))
    return found


class Learning:
    """Feeds the trainer and hands its models to the search. Lives on the event loop."""

    def __init__(
        self,
        lab: Lab,
        search: SearchPool,
        trainer: Trainer,
        distributed_above: int = DISTRIBUTED_ABOVE,
    ) -> None:
        self._lab = lab
        self._search = search
        self._trainer = trainer
        self._distributed_above = distributed_above
        self._rows = 0
        self._all_rows = 0
        self._on_all: asyncio.Task[None] | None = None
        self._promoting = asyncio.Lock()
        self._new = 0
        self._last_row = 0
        self._retrain_at = 0.0
        self._training: asyncio.Task[None] | None = None
        self._version: int | None = None
        self._experienced = False
        self._qualities: deque[RankingQuality] = deque(maxlen=RANKING_WINDOW)

    @property
    def ranking(self) -> RankingQuality | None:
        """The live quality, averaged over the last batches; None before the first."""
        return ranking.average(list(self._qualities))

    @property
    def experienced(self) -> bool:
        """Whether the job began with a model, which other tasks have taught."""
        return self._experienced

    async def adopt(self, others: Sequence[OtherKind] = ()) -> None:
        """Begin with the model and the measurements that the log keeps for this kind of device;
        where it has measurements only, which somebody imported, with a model of those. What it has
        of ``others`` helps until there is enough."""
        kind, cold = self._lab.device.kind, self._lab.evaluator.cold_cache
        newest = self._lab.tuning_log.newest_samples
        rows = await asyncio.to_thread(newest, kind, cold, VERSION, MAX_SAMPLES)
        if others and len(rows) < ENOUGH_OF_SAME:
            samples, enough = await asyncio.to_thread(self._elsewhere, others)
            if len(rows) < enough:
                await self._trainer.remember_elsewhere(samples, enough)
        if rows:
            self._last_row = rows[-1].measurement_id
            await self._trainer.remember(await asyncio.to_thread(samples_of, rows))
        await self._adopt_model()
        self._rows = len(rows)
        if await self._is_due():
            self._on_all = asyncio.create_task(self._train_on_all())
        elif self._version is None:
            await self._train([])
        self._experienced = self._version is not None

    def _elsewhere(self, others: Sequence[OtherKind]) -> tuple[list[Sample], int]:
        """The newest samples of other kinds of device, of the job's own operators if there are any,
        which say the most; and how many of this kind are enough instead. There, an operator is a
        task of its own: how fast its best program is says nothing of this kind. Of CPUs with longer
        or shorter vectors nothing is learnt: which tiles are best depends on these above all."""
        tuning_log, cold = self._lab.tuning_log, self._lab.evaluator.cold_cache
        own = {task.workload_key for task in tuning_log.tasks(self._lab.job_id)}
        lanes = vector_lanes_of(self._lab.device.target_json)
        alike = [kind.name for kind in others if kind.lanes in (None, lanes)]
        every, same = [], []
        for kind in alike:
            newest = tuning_log.newest_samples(kind, cold, VERSION, FROM_ELSEWHERE // len(alike))
            for sample in samples_of(newest):
                there = replace(
                    sample,
                    workload_key=f"{sample.workload_key}@{kind}",
                    candidate_key=f"{sample.candidate_key}@{kind}",
                )
                every.append(there)
                if sample.workload_key in own:
                    same.append(there)
        return (same, ENOUGH_OF_SAME) if len(same) >= MIN_SAMPLES else (every, ENOUGH)

    async def _is_due(self) -> bool:
        """Whether the log is so large that a model is to be trained on all of it."""
        if self._rows < min(MAX_SAMPLES, self._distributed_above + 1):
            return False
        self._rows = (await asyncio.to_thread(self._extent)).rows
        return distributed.due(self._rows, self._all_rows, self._distributed_above)

    async def _adopt_model(self) -> None:
        stored = await asyncio.to_thread(
            self._lab.tuning_log.latest_cost_model, self._lab.learning_kind
        )
        if stored is None:
            return
        version, text = stored
        try:
            await self._trainer.adopt(text)
        except ValueError as error:
            log.warning("cost model %d of the log is not used: %s", version, error)
            return
        self._version = version
        await self._search.use_model(text)

    async def recall(self, run: TaskRun, features: Mapping[str, Features]) -> None:
        """Learn from a task's remembered outcomes; ``features`` is by candidate key."""
        if not features:
            return
        await self._keep(features)
        known = [
            Sample(run.task.workload_key, row, run.outcomes[key].latency_us, key)
            for key, row in features.items()
        ]
        await self._trainer.remember(known)

    async def learn(
        self, run: TaskRun, proposals: Sequence[Proposal], measurements: Sequence[Measurement]
    ) -> None:
        """Learn from a measured batch; starts a retraining when enough has come together."""
        telling = {
            proposal.candidate.key: proposal.features
            for proposal, measurement in zip(proposals, measurements, strict=True)
            if measurement.status.teaches
        }
        await self._keep(telling)
        # Not only by way of the log: others that were measured later may have been read already.
        latency_us = {m.candidate_key: m.latency_us for m in measurements}
        await self._trainer.remember(
            [
                Sample(run.task.workload_key, features, latency_us[key], key)
                for key, features in telling.items()
            ]
        )
        self._new += len(telling)
        await self._judge(run, proposals, measurements)
        idle = self._training is None or self._training.done()
        if idle and self._new >= RETRAIN_EVERY and time.monotonic() >= self._retrain_at:
            await self.settle()
            self._training = asyncio.create_task(self._retrain())

    async def _keep(self, features: Mapping[str, Features]) -> None:
        packed = {key: pack(row) for key, row in features.items()}
        if packed:
            await asyncio.to_thread(self._lab.tuning_log.keep_features, VERSION, packed)

    async def settle(self) -> None:
        """Wait for the retraining under way, if any; raises what it raised."""
        if self._training is not None:
            training, self._training = self._training, None
            await training

    async def stop(self) -> None:
        """Drop the trainings under way."""
        under_way = [task for task in (self._training, self._on_all) if task is not None]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

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
        self._new = 0
        await self._train(await self._read())
        idle = self._on_all is None or self._on_all.done()
        if idle and distributed.due(self._rows, self._all_rows, self._distributed_above):
            self._on_all = asyncio.create_task(self._train_on_all())

    async def _train(self, new: Sequence[Sample]) -> None:
        """Train on what is remembered and what is new, unless that is too little."""
        async with self._promoting:
            training = await self._trainer.train(new)
            if training is not None:
                self._retrain_at = time.monotonic() + training.train_s / RETRAIN_SHARE
                self._lab.clock.add("train", training.train_s)
                await self._keep_model(training, training.scores)

    async def _keep_model(self, training: Training, scores: Mapping[str, float]) -> None:
        """Log a model, or that it was refused; one that was promoted is used from now on."""
        version = await asyncio.to_thread(
            self._lab.tuning_log.add_cost_model,
            self._lab.learning_kind,
            training.text,
            training.samples,
            scores,
        )
        if training.text is not None:
            self._version = version
            await self._search.use_model(training.text)

    async def _train_on_all(self) -> None:
        """Train on all of the log, if that is due. What goes wrong is logged and no more: the job
        goes on with the model that it has."""
        try:
            rows = await asyncio.to_thread(self._extent)
            self._rows = rows.rows
            if not distributed.due(self._rows, self._all_rows, self._distributed_above):
                return
            self._all_rows = rows.rows  # whatever comes of it: not again at once
            fitted = await self._trainer.fit_all(rows)
            if fitted is None:
                return
            async with self._promoting:
                training = await self._trainer.consider(fitted)
                scores = {**training.scores, ALL_ROWS_SCORE: float(rows.rows)}
                await self._keep_model(training, scores)
        except FarmError as error:
            log.warning("job %s: %s", self._lab.job_id, error)
        except Exception:
            log.exception("job %s: the training on all of the log", self._lab.job_id)

    def _extent(self) -> AllRows:
        """What the log has now, and (``_all_rows``) had when a model was trained on all of it."""
        tuning_log, kind = self._lab.tuning_log, self._lab.device.kind
        cold = self._lab.evaluator.cold_cache
        with tuning_log.reading() as connection:
            self._all_rows = max(self._all_rows, trained_on(connection, self._lab.learning_kind))
            found = extent(connection, kind, cold, VERSION)
        scope = Scope(kind, cold, VERSION, found.last)
        return AllRows(tuning_log.url, scope, found.first, found.rows)

    async def _read(self) -> list[Sample]:
        """What the log has got since the last time, from all jobs."""
        kind, cold = self._lab.device.kind, self._lab.evaluator.cold_cache
        found: list[Sample] = []
        while True:
            rows = await asyncio.to_thread(
                self._lab.tuning_log.samples_after,
                *(kind, cold, VERSION, self._last_row, ROWS_AT_ONCE),
            )
            found += await asyncio.to_thread(samples_of, rows)
            self._rows += len(rows)
            if rows:
                self._last_row = rows[-1].measurement_id
            if len(rows) < ROWS_AT_ONCE:
                return found
