"""A coordinator that runs for months: jobs that have ended are left to the log."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from coordinator import jobs as module
from coordinator.fleet.builders import Builders
from coordinator.jobs import Jobs
from protos.records import JobSpec, JobState
from tests.farm import real_fleet
from tests.kernels import target_json
from tests.models import small_model


def test_only_the_last_of_the_jobs_that_have_ended_are_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 2)
    targets = (target_json(1), target_json(2))

    async def scenario() -> None:
        async with real_fleet(tmp_path) as fleet:
            jobs = Jobs(fleet.log, fleet.fleet, Builders(1), embedded=False)
            ids = []
            for trials in range(1, 5):
                spec = JobSpec("small", "", targets[0], trials)
                ids.append((await jobs.submit(spec, small_model())).job_id)
                assert (await jobs.cancel(ids[-1])).state is JobState.CANCELLED
            whole = await jobs.submit(JobSpec("small", "", "", 9, targets=targets), small_model())
            assert {(await jobs.job(part.job_id)).state for part in whole.parts} == {
                JobState.QUEUED
            }
            assert (await jobs.cancel(whole.job_id)).state is JobState.CANCELLED
            assert len(jobs._jobs) == 2
            waiting = await jobs.submit(JobSpec("small", "", targets[0], 1), small_model())
            after = await jobs.submit(JobSpec("small", "", targets[0], 10), small_model())
            await jobs.cancel(after.job_id)
            for job_id in (*ids, whole.job_id, *(part.job_id for part in whole.parts)):
                assert (await jobs.job(job_id)).state is JobState.CANCELLED
            assert (await jobs.job(waiting.job_id)).state is JobState.QUEUED
            assert jobs.states() == {JobState.QUEUED: 1, JobState.CANCELLED: 7}
            assert {job.state for job in await jobs.newest(10)} == {
                JobState.CANCELLED,
                JobState.QUEUED,
            }

    asyncio.run(scenario())
