"""Retrains the cost model as measurements stream in, on a Ray actor.

A new model is promoted only if it orders the newest measurements, which it has not seen, at least
as well as the one in use.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coordinator.ray_runtime import Actor
from cost_model.model import MIN_SAMPLES, CostModel, Sample
from cost_model.ranking import pairwise_accuracy
from protos import host_lock

HELD_OUT = 16
"""The newest measurements, kept from training to judge by."""

MAX_SAMPLES = 20_000
"""Older measurements than the newest this many no longer train."""


@dataclass(frozen=True)
class Training:
    """One retraining: ``text`` is the model to use from now on, None if the old one stays.

    ``pairwise`` and ``pairwise_before`` are the new and the old model's accuracy on the held-out
    measurements, None where those say nothing. ``train_s`` leaves out the wait for those who time
    on this host.
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
    """Lives in an actor: all samples of one kind of device, and the model in use."""

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._samples: list[Sample] = []
        self._model: CostModel | None = None

    def adopt(self, text: str) -> None:
        """Begin with a model that the log has kept."""
        self._model = CostModel(text)

    def train(self, new: Sequence[Sample]) -> Training | None:
        """Add samples, retrain, promote; None while there are too few to learn from."""
        self._samples = (self._samples + list(new))[-MAX_SAMPLES:]
        if len(self._samples) < MIN_SAMPLES + HELD_OUT:
            return None
        with host_lock.working():
            started = time.monotonic()
            held_out = self._samples[-HELD_OUT:]
            model = CostModel.train(self._samples[:-HELD_OUT], self._num_threads)
            after = _accuracy(model, held_out)
            before = None if self._model is None else _accuracy(self._model, held_out)
        promoted = before is None or after is None or after >= before
        if promoted:
            self._model = model
        seconds = time.monotonic() - started
        text = model.text if promoted else None
        return Training(text, len(self._samples), after, before, seconds)


def _accuracy(model: CostModel, samples: Sequence[Sample]) -> float | None:
    """Pairwise accuracy within each task, weighted by the tasks' sizes."""
    by_task: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_task[sample.workload_key].append(sample)
    total = weight = 0.0
    for group in by_task.values():
        scores = model.predict(np.stack([sample.features for sample in group]))
        latencies = [np.inf if s.latency_us is None else s.latency_us for s in group]
        accuracy = pairwise_accuracy(scores.tolist(), latencies)
        if accuracy is not None:
            total += accuracy * len(group)
            weight += len(group)
    return total / weight if weight else None


class Trainer:
    """The coordinator's side of the actor."""

    def __init__(self, num_threads: int) -> None:
        self._actor = Actor(lambda: TrainerWorker(num_threads), "trainer")

    def start(self) -> None:
        """Start the actor's process."""
        self._actor.start()

    async def adopt(self, text: str) -> None:
        """See TrainerWorker.adopt."""
        await self._actor.call("adopt", text)

    async def train(self, new: Sequence[Sample]) -> Training | None:
        """See TrainerWorker.train."""
        result: Training | None = await self._actor.call("train", new)
        return result

    def stop(self) -> None:
        """Kill the actor."""
        self._actor.stop()
