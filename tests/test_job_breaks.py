"""A job's run that breaks off: when it is begun again, and when that is the end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from coordinator import job_breaks
from coordinator.job_breaks import BREAKS_IN_A_ROW, run_through_breaks
from coordinator.ray_runtime import ActorLost
from protos.errors import FarmError, JobFailed, LogUnavailable


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_breaks, "PAUSE_S", 0.0)


class Job:
    """Each run makes so many trials and ends with an error, until there are no more errors. The
    log is away for so many questions after each."""

    def __init__(self, *runs: tuple[int, FarmError | None], away: int = 0) -> None:
        self._runs: Iterator[tuple[int, FarmError | None]] = iter(runs)
        self._away = self._left = away
        self.trials = self.runs = self.asked = 0

    async def run(self) -> None:
        made, error = next(self._runs)
        self.trials += made
        self.runs += 1
        self._left = self._away
        if error is not None:
            raise error

    async def ask_log(self) -> None:
        self.asked += 1
        self._left -= 1
        if self._left >= 0:
            raise LogUnavailable("away")

    def through(self, patience_s: float = 60.0) -> None:
        asyncio.run(
            run_through_breaks("j-1", self.run, lambda: self.trials, self.ask_log, patience_s)
        )


LOST, AWAY = ActorLost("the process trainer died"), LogUnavailable("gone")


def test_it_goes_on_when_the_log_is_back() -> None:
    job = Job((10, AWAY), (5, LOST), (3, None), away=4)
    job.through()
    assert (job.runs, job.trials, job.asked) == (3, 18, 10)


def test_as_often_as_there_is_progress() -> None:
    job = Job(*[(1, LOST)] * (3 * BREAKS_IN_A_ROW), (0, None))
    job.through()
    assert job.runs == 3 * BREAKS_IN_A_ROW + 1


def test_without_progress_it_ends() -> None:
    job = Job((1, LOST), *[(0, LOST)] * 9)
    with pytest.raises(ActorLost):
        job.through()
    assert job.runs == BREAKS_IN_A_ROW + 1


def test_a_log_that_stays_away_ends_it() -> None:
    job = Job((1, LOST), (1, None), away=10**9)
    with pytest.raises(LogUnavailable, match="away"):
        job.through(patience_s=0.05)
    assert job.runs == 1


def test_what_is_wrong_with_the_job_ends_it() -> None:
    job = Job((1, JobFailed("the model is wrong")), (1, None))
    with pytest.raises(JobFailed):
        job.through()
    assert job.runs == 1


def test_what_was_cancelled_is_not_begun_again() -> None:
    """What a run does at its end, such as saving the job, may fail, too."""

    async def scenario() -> int:
        runs = 0

        async def run() -> None:
            nonlocal runs
            runs += 1
            try:
                await asyncio.Event().wait()
            finally:
                raise LogUnavailable("gone")

        job = Job()
        going = asyncio.create_task(
            run_through_breaks("j-1", run, lambda: runs, job.ask_log, patience_s=60.0)
        )
        await asyncio.sleep(0)
        going.cancel()
        with pytest.raises(asyncio.CancelledError):
            await going
        return runs

    assert asyncio.run(scenario()) == 1
