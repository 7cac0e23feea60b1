"""When a job's tuning ends: after its trials, at a moment, at a latency, or without much gain."""

from __future__ import annotations

import enum
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from coordinator.search.task_scheduler import TaskState

WINDOW_S = 60.0
"""What the gain per minute is read off."""

LEAST_BATCHES = 3
"""An operator's first batches win nearly all there is, so nothing is flat before each had these."""

TELLING_SHARE = 0.01
"""Operators with less of the model's time are not waited for."""


@dataclass(frozen=True)
class Budget:
    """When to stop: trials of all tasks together, a moment of the monotonic clock, a sum of the
    operators' latencies in microseconds, a gain per minute as a share of that sum; None: no such
    limit."""

    trials: int
    deadline: float | None = None
    target_us: float | None = None
    flat_share: float | None = None

    @property
    def remaining_s(self) -> float | None:
        """Seconds left; None if there is no limit."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


class Ended(enum.StrEnum):
    """Why a job's tuning ended; the value is what people read."""

    TRIALS = "all trials were made"
    TIME = "the time limit was over"
    TARGET = "the target latency was reached"
    FLAT = "it gained too little per minute"
    NOTHING_LEFT = "no operator had anything left to win"


def operators_us(tasks: Sequence[TaskState]) -> float:
    """What all operators take together, weighted, as fast as they are by now; microseconds.

    Tasks whose untuned program can't be measured are left out: nothing will be known of them.
    """
    return sum(task.weight * task.best_us for task in tasks if task.untuned_us > 0)


class Flatness:
    """Whether tuning still wins enough: the gain of the last minute stands for the next one's."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque()

    def gain_per_minute(self, now_s: float, tasks: Sequence[TaskState]) -> float | None:
        """Note what the operators take now. The share of it that the last minute took away; None
        before a minute, or before every operator that matters has had its first batches."""
        total_us = operators_us(tasks)
        if not _begun(tasks, total_us):
            return None
        self._seen.append((now_s, total_us))
        while len(self._seen) > 1 and self._seen[1][0] <= now_s - WINDOW_S:
            self._seen.popleft()
        since_s, before_us = self._seen[0]
        if now_s - since_s < WINDOW_S or before_us <= 0:
            return None
        return (before_us - total_us) / before_us * 60.0 / (now_s - since_s)


def _begun(tasks: Sequence[TaskState], total_us: float) -> bool:
    return all(
        len(task.best_after) >= LEAST_BATCHES or task.exhausted
        for task in tasks
        if task.weight * task.best_us > TELLING_SHARE * total_us
    )
