"""A job that misses its target latency as a whole is tuned on."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import Any, cast

import pytest

from coordinator.budget import Ended
from coordinator.job_runner import JobRunner, _target_us
from protos.records import Job, JobSpec, JobState, ModelResult

TARGET_MS = 10.0


class Rounds(JobRunner):
    """Made-up rounds of tuning: after each, what the operators and the whole model take, in
    milliseconds, and why it ended. The real ones are those of ``JobRunner``."""

    def __init__(self, *rounds: tuple[float, float, Ended]) -> None:
        spec = JobSpec("m", "0" * 64, "{}", trials=9, target_latency_ms=TARGET_MS)
        job = Job("j", spec, JobState.RUNNING)
        super().__init__(job, *cast(Any, (None, None, None, None)))
        self._rounds = list(rounds)
        self.beside_ms: list[float] = []

    @contextmanager
    def _helpers(self) -> Any:
        yield (None, None)

    async def _tune(self, *_arguments: Any, beside_ms: float = 0.0) -> None:
        self.beside_ms.append(beside_ms)
        operators_ms, _, self._ended = self._rounds[0]

        class Run:
            """A task of which only the state is asked for."""

            def state(self) -> Any:
                from coordinator.search.task_scheduler import TaskState

                return TaskState(1, operators_ms * 1e3, 1.0)

        class Tuner:
            """Has one such task."""

            runs = (Run(),)

        self._tuner = cast(Any, Tuner())

    async def _finish(self, *_arguments: Any) -> ModelResult:
        return ModelResult(99.0, self._rounds.pop(0)[1], 0.0, 0.0, "m.whl", "0", 1)

    async def all(self) -> ModelResult:
        await self._tune()
        result = await self._finish()
        return await self._tune_on(b"", *cast(Any, (None, None)), result)


def test_what_the_model_takes_beside_its_operators_counts() -> None:
    job = Rounds((9.5, 12.0, Ended.TARGET), (7.4, 9.9, Ended.TARGET))
    assert asyncio.run(job.all()).tuned_ms == 9.9
    assert job.beside_ms == [0.0, 2.5]


@pytest.mark.parametrize("ended", [Ended.TRIALS, Ended.TIME, Ended.NOTHING_LEFT, Ended.FLAT])
def test_the_other_limits_hold(ended: Ended) -> None:
    job = Rounds((9.5, 12.0, Ended.TARGET), (8.0, 11.0, ended))
    assert asyncio.run(job.all()).tuned_ms == 11.0
    assert len(job.beside_ms) == 2


def test_a_target_that_is_reached_at_once() -> None:
    job = Rounds((9.5, 9.8, Ended.TARGET))
    assert asyncio.run(job.all()).tuned_ms == 9.8
    assert job.beside_ms == [0.0]


def test_what_the_operators_may_take() -> None:
    spec = JobSpec("m", "", "{}", 1, target_latency_ms=10.0)
    assert _target_us(spec, 2.5) == 7500.0
    assert _target_us(spec, 12.0) == 0.0, "then the other limits end it"
    assert _target_us(JobSpec("m", "", "{}", 1), 1.0) is None
