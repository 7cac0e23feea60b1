"""When a job's tuning ends."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from coordinator.budget import Budget, Ended, Flatness, operators_us
from coordinator.search.task_scheduler import TaskState
from coordinator.tuner import Tuner
from protos.records import Task

TASK = Task("t", "w", "{}", 2, (), 1, 1e6)


def state(*best_after: float, weight: int = 1, untuned_us: float = 1000.0) -> TaskState:
    return TaskState(weight, untuned_us, 1e6, best_after)


def test_the_operators_time_counts_weights_and_what_is_still_untuned() -> None:
    unmeasurable = state(untuned_us=0.0)
    assert operators_us([state(500.0, 200.0, weight=3), state(), unmeasurable]) == 1600.0


def test_nothing_is_flat_before_a_minute() -> None:
    flatness = Flatness()
    tasks = [state(100.0, 100.0, 100.0)]
    assert flatness.gain_per_minute(0.0, tasks) is None
    assert flatness.gain_per_minute(59.9, tasks) is None
    assert flatness.gain_per_minute(60.0, tasks) == 0.0


def test_the_gain_is_that_of_the_last_minute() -> None:
    flatness = Flatness()
    for second in range(0, 121, 10):
        # Ten percent in the first minute, one percent in the second.
        best_us = 1000.0 - second / 60 * 100 if second <= 60 else 900.0 - (second - 60) / 60 * 9
        gain = flatness.gain_per_minute(float(second), [state(2000.0, 1500.0, best_us)])
        if second == 60:
            assert gain == pytest.approx(0.10)
    assert gain == pytest.approx(0.01)


def test_nothing_is_flat_before_each_operator_had_its_first_batches() -> None:
    flatness = Flatness()
    small = state(weight=1, untuned_us=5.0)  # less than a hundredth of the time
    for second in (0.0, 70.0, 140.0):
        waiting = [state(100.0, 100.0, 100.0), state(90.0, 80.0)]
        assert flatness.gain_per_minute(second, waiting) is None
    begun = [state(1000.0, 1000.0, 1000.0), small]
    assert flatness.gain_per_minute(200.0, begun) is None
    assert flatness.gain_per_minute(261.0, begun) == 0.0


class FakeSearch:
    """Has nothing to propose; the real one is a Ray actor."""

    batch_size = 16

    async def open(self, *_task: object) -> list[object]:
        return []

    async def propose(self, _workload_key: str, _count: int) -> list[object]:
        return []


class FakeLearning:
    """Learns nothing; the real one trains on a Ray actor."""

    experienced = False

    async def recall(self, *_known: object) -> None:
        return

    async def settle(self) -> None:
        return

    async def stop(self) -> None:
        return


def tuner(best_us: float) -> Tuner:
    from coordinator.stages import StageClock

    class Lab:
        """Only what the loop itself asks for."""

        clock = StageClock()
        devices_present = 1

        class fleet:  # noqa: N801
            class registry:  # noqa: N801
                @staticmethod
                def any_fragile(_kind: str) -> bool:
                    return False

        class device:  # noqa: N801
            kind = "k"

    found = Tuner(cast(Any, Lab), [TASK], cast(Any, FakeSearch()), cast(Any, FakeLearning()), list)
    (run,) = found.runs
    run.untuned_us, run.best_us = 500.0, best_us
    run.best_after.append(best_us)
    return found


@pytest.mark.parametrize(
    ("budget", "ended"),
    [
        (Budget(100, target_us=200.0), Ended.TARGET),
        (Budget(100, target_us=199.0), Ended.NOTHING_LEFT),
        (Budget(0, target_us=199.0), Ended.TRIALS),
        (Budget(100, deadline=0.0), Ended.TIME),
    ],
)
def test_tuning_says_why_it_ended(budget: Budget, ended: Ended) -> None:
    assert asyncio.run(tuner(best_us=100.0).tune(budget)) is ended
