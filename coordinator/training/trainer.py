"""Retrains the cost model as measurements stream in, on a Ray actor; on all of a large log, beside
it (``distributed.py``).

A new model is promoted only if it orders the newest measurements, which neither it nor the one in
use has seen, at least as well.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from coordinator.ray_runtime import HELPER_CPUS, Actor
from coordinator.training.distributed import AllRows, Distributed
from coordinator.training.on_ray import Fitted
from cost_model.model import MIN_SAMPLES, CostModel, Sample
from cost_model.ranking import pairwise_accuracy
from protos import host_lock
from protos.errors import FarmError

log = logging.getLogger(__name__)

HELD_OUT = 16
"""The newest candidates, kept from training to judge by."""

MAX_SAMPLES = 20_000
"""Older candidates than the newest this many no longer train."""

GROWTH = 1.1
"""With so many times the candidates of the last time, a model is trained anew; in between trees are
added to the one in use."""

MAX_PARTS = 16
"""Nor are trees added any more to a model of so many parts, whoever added them."""


@dataclass(frozen=True)
class Training:
    """One retraining: ``text`` is the model to use from now on, None if the old one stays.

    ``pairwise`` and ``pairwise_before`` are the new and the old model's accuracy on the held-out
    measurements, None where those say nothing. ``train_s`` has the waits for those who time on this
    host in it.
    """

    text: str | None
    samples: int
    pairwise: float | None
    pairwise_before: float | None
    train_s: float

    @property
    def scores(self) -> dict[str, float]:
        """What the model was judged by, as the log keeps it."""
        named = {"held_out_pairwise": self.pairwise, "in_use_pairwise": self.pairwise_before}
        return {name: score for name, score in named.items() if score is not None}


class TrainerWorker:
    """Lives in an actor: the candidates of one kind of device, and the model in use."""

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._samples: dict[str, Sample] = {}  # by candidate key, the first measured first
        self._elsewhere: list[Sample] = []
        self._enough = 0
        self._reserved: dict[str, Sample] = {}
        self._model: CostModel | None = None
        self._trained_on = 0
        self._new = 0  # candidates since the last training anew

    def adopt(self, text: str) -> None:
        """Begin with a model of the log, which knows what is remembered so far; raises ValueError
        if it is of other features."""
        self._model = CostModel(text)
        self._trained_on, self._new = len(self._samples) + len(self._elsewhere), 0

    def remember(self, samples: Sequence[Sample]) -> None:
        """Take in samples: of a candidate that was measured again, the least latency counts, and a
        failure outweighs any."""
        for sample in samples:
            known = self._samples.get(sample.candidate_key)
            self._new += known is None
            self._samples[sample.candidate_key] = sample if known is None else _both(known, sample)
        surplus = len(self._samples) - MAX_SAMPLES
        for key in list(self._samples)[: max(0, surplus)]:
            del self._samples[key]

    def remember_elsewhere(self, samples: Sequence[Sample], enough: int) -> None:
        """Learn from other kinds of device, too, until there are ``enough`` candidates of this
        one."""
        self._elsewhere = [replace(sample, elsewhere=True) for sample in samples]
        self._enough = enough

    def train(self, new: Sequence[Sample]) -> Training | None:
        """Take in samples, retrain, promote; None while there are too few to learn from."""
        self.remember(new)
        known = list(self._samples.values())
        if self._elsewhere and len(known) >= self._enough:
            self._elsewhere, self._trained_on = [], 0  # so a model is trained anew
        held_out = known[-HELD_OUT:]
        own = [s for s in known[:-HELD_OUT] if s.candidate_key not in self._reserved]
        seen = [*self._elsewhere, *own]
        if len(seen) < MIN_SAMPLES:
            return None
        started = time.monotonic()
        model = self._fit(seen)
        with host_lock.working():
            after = accuracy(model, held_out)
            before = None if self._model is None else accuracy(self._model, held_out)
        return self._choose(model, len(known), after, before, time.monotonic() - started)

    def _fit(self, seen: Sequence[Sample]) -> CostModel:
        """A model of these samples: anew, or the one in use with some trees more."""
        right = sum(sample.latency_us is not None for sample in seen)
        grown = self._new >= (GROWTH - 1) * self._trained_on
        model = self._model
        if model is not None and self._elsewhere and not model.knows_elsewhere:
            model = None
        if model is None or grown or model.parts > MAX_PARTS or right < MIN_SAMPLES:
            self._trained_on, self._new = len(seen), 0
            return CostModel.train(seen, self._num_threads, host_lock.working)
        with host_lock.working():
            return model.updated(seen, self._num_threads)

    def reserve(self) -> tuple[str, ...]:
        """Keep the newest candidates from every training until ``consider`` or ``release``; their
        keys. The model in use has not seen them either."""
        self._reserved = dict(list(self._samples.items())[-HELD_OUT:])
        return tuple(self._reserved)

    def release(self) -> None:
        """What was reserved is a sample like any other again."""
        self._reserved = {}

    def consider(self, fitted: Fitted) -> Training:
        """Promote a model that was trained elsewhere, without what is reserved, if it orders that
        at least as well as the one in use."""
        held_out = list(self._reserved.values())
        self.release()
        model = CostModel(fitted.text)
        with host_lock.working():
            after = accuracy(model, held_out)
            before = None if self._model is None else accuracy(self._model, held_out)
        return self._choose(model, fitted.samples, after, before, fitted.train_s)

    def _choose(
        self,
        model: CostModel,
        samples: int,
        after: float | None,
        before: float | None,
        train_s: float,
    ) -> Training:
        promoted = before is None or after is None or after >= before
        if promoted:
            self._model = model
        return Training(model.text if promoted else None, samples, after, before, train_s)


def _both(known: Sample, new: Sample) -> Sample:
    if known.latency_us is None or new.latency_us is None:
        return replace(known, latency_us=None)
    return replace(known, latency_us=min(known.latency_us, new.latency_us))


def accuracy(model: CostModel, samples: Sequence[Sample]) -> float | None:
    """Pairwise accuracy within each task, weighted by the tasks' sizes; None if no pair differs."""
    by_task: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_task[sample.workload_key].append(sample)
    total = weight = 0.0
    for group in by_task.values():
        scores = model.predict(np.stack([sample.features for sample in group])).score
        latencies = [np.inf if s.latency_us is None else s.latency_us for s in group]
        share = pairwise_accuracy(scores.tolist(), latencies)
        if share is not None:
            total += share * len(group)
            weight += len(group)
    return total / weight if weight else None


class Trainer:
    """The coordinator's side of the actor."""

    def __init__(self, num_threads: int) -> None:
        self._actor = Actor(lambda: TrainerWorker(num_threads), "trainer", HELPER_CPUS)
        self._distributed = Distributed()
        self._stopped = False

    def start(self) -> None:
        """Start the actor's process."""
        self._stopped = False
        self._actor.start()

    async def adopt(self, text: str) -> None:
        """See TrainerWorker.adopt."""
        await self._actor.call("adopt", text)

    async def remember(self, samples: Sequence[Sample]) -> None:
        """See TrainerWorker.remember."""
        await self._actor.call("remember", samples)

    async def remember_elsewhere(self, samples: Sequence[Sample], enough: int) -> None:
        """See TrainerWorker.remember_elsewhere."""
        await self._actor.call("remember_elsewhere", samples, enough)

    async def train(self, new: Sequence[Sample]) -> Training | None:
        """See TrainerWorker.train."""
        result: Training | None = await self._actor.call("train", new)
        return result

    async def fit_all(self, rows: AllRows) -> Fitted | None:
        """Train on all of the log but for what the actor reserves; None if that was stopped.

        Raises BadRequest or TrainingLost; the model in use stays then.
        """
        if self._stopped:
            return None
        reserved = await self._actor.call("reserve")
        try:
            fitted = await self._distributed.train(rows.without(reserved))
        except FarmError:
            await self._actor.call("release")
            raise
        if fitted is not None:
            log.info(
                "a cost model of %d candidates took %.0f s, and %d MiB of a worker's memory",
                *(fitted.samples, fitted.train_s, fitted.worker_bytes >> 20),
            )
        return fitted

    async def consider(self, fitted: Fitted) -> Training:
        """See TrainerWorker.consider."""
        result: Training = await self._actor.call("consider", fitted)
        return result

    def stop(self) -> None:
        """Kill the actor, and the training on all of the log."""
        self._stopped = True
        self._distributed.stop()
        self._actor.stop()
