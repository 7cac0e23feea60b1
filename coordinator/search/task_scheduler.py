"""Which task gets the next batch (pure): where it should save most of the model's time.

After the gradient scheduler of Ansor (Zheng et al., OSDI 2020, section 6): the expected gain of a
batch is the task's weight (or what else is at stake) times the latency it should take away. It is
read off the task's own history where there is one, discounted by what is in flight, and never more
than what is left above the task's floor, the time its arithmetic would take at the best rate any
task has reached.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

BATCH_SHARES = (0.9, 0.11, 0.03, 0.025)
"""Share of what is above the floor that a task's first, second, … batch is expected to win. Means
over 89 operators of six models that had three batches of 16 or more: the first batch is drawn at
random, the second is the first that evolves."""

LATER_SHARE, DECAY = 0.1, 1.5
"""The batch after n others wins 0.1 / n^1.5: in the same means 0.004 to 0.01 from the sixth to the
twelfth, 0.0015 around the twentieth. An operator whose batches were always expected to win as much
would get all of them once it is the heaviest, without any gain."""

HISTORY = 3
"""Batches that are looked back on."""

FLOOR_SHARE = 0.9
"""The floor in terms of the best arithmetic rate seen: another task may reach a little more. With
0.5 large products that are near it get the batches that small operators far from theirs need."""


@dataclass(frozen=True)
class TaskState:
    """What the scheduler knows of one task. Latencies in microseconds.

    ``weight`` is how often the model runs it, ``best_after`` the best latency after each finished
    batch, in order; ``stake`` is what a microsecond of it is worth, the weight if None.
    """

    weight: int
    untuned_us: float
    flops: float
    best_after: tuple[float, ...] = ()
    in_flight: int = 0
    exhausted: bool = False
    stake: float | None = None
    size: int = 16

    @property
    def best_us(self) -> float:
        """The best so far, the untuned program counted in."""
        return min((self.untuned_us, *self.best_after))


def best_rate(tasks: Sequence[TaskState]) -> float:
    """The highest arithmetic rate that any task has reached, operations per microsecond."""
    return max((task.flops / task.best_us for task in tasks if task.best_us > 0), default=0.0)


def expected_gain_us(task: TaskState, rate: float) -> float:
    """What one more batch should take off the model's latency, microseconds."""
    if task.exhausted:
        return 0.0
    floor = FLOOR_SHARE * task.flops / rate if rate > 0 else 0.0
    potential = max(0.0, task.best_us - floor)
    recent = task.best_after[-1 - HISTORY :]
    share = _share(len(task.best_after))
    if len(task.best_after) > 1:  # the step from untuned says nothing about the next one
        won = max(0.0, recent[0] - recent[-1]) / max(recent[0], 1e-9) / (len(recent) - 1)
        share = max(share, won)
    stake = task.weight if task.stake is None else task.stake
    return stake * potential * share / (1 + task.in_flight) ** 2


def _share(batches: int) -> float:
    """What the next batch should win after this many."""
    if batches < len(BATCH_SHARES):
        return BATCH_SHARES[batches]
    return LATER_SHARE / math.pow(batches, DECAY)


def choose(tasks: Sequence[TaskState]) -> int | None:
    """The index of the task that gets the next batch, the one that should win most by a trial; None
    if none has anything left to win."""
    rate = best_rate(tasks)
    gains = [expected_gain_us(task, rate) / task.size for task in tasks]
    best = max(range(len(gains)), key=gains.__getitem__, default=None)
    return best if best is not None and gains[best] > 0 else None
