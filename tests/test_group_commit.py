"""Results of many sessions in one transaction: durable when told, and each with its own errors."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from coordinator.tuning_log import TuningLog
from coordinator.tuning_log.group_commit import GroupCommit
from coordinator.tuning_log.measurements import Result
from coordinator.tuning_log.schema import projects
from protos.errors import BadRequest, Conflict, LogUnavailable
from protos.records import Candidate, JobSpec, Measurement, MeasurementStatus, Task

pytest_plugins = ("tests.postgres",)

WORKLOAD, KIND = "w", "kind"


class CountingLog(TuningLog):
    """A real log that counts the transactions which write."""

    transactions = 0

    def record_many(self, results: Sequence[Any], also: Sequence[Any] = ()) -> list[bool]:
        new = super().record_many(results, also)
        self.transactions += 1
        return new


@pytest.fixture
def counting(url: str) -> Iterator[CountingLog]:
    opened = CountingLog.open(url)
    yield opened
    opened.close()


def job_of(log: TuningLog) -> str:
    job = log.add_job(JobSpec("m", "0" * 64, "{}", 1), "test", embedded=True)
    log.set_tasks(job.job_id, [Task("t", WORKLOAD, "{}", 1, (), 1, 1.0)])
    return job.job_id


def result(job_id: str, number: int, workload: str = WORKLOAD) -> Result:
    candidate = Candidate(workload, f"[{number}]")
    made = Measurement(workload, candidate.key, MeasurementStatus.OK, f"lease-{number}")
    return job_id, KIND, candidate, made, None


def recorded(log: TuningLog) -> set[str]:
    return {outcome.candidate.trace_json for outcome in log.outcomes(WORKLOAD, KIND)}


def project(name: str) -> sa.Insert:
    return sa.insert(projects).values(name=name, created_at=0.0)


def test_what_arrives_together_is_one_transaction(counting: CountingLog) -> None:
    job_id = job_of(counting)
    before = counting.transactions

    async def scenario() -> None:
        group = GroupCommit(counting)
        works = [group.record([result(job_id, number)]) for number in range(50)]
        await asyncio.gather(
            *works, group.write(lambda connection: connection.execute(project("p")))
        )
        assert len(recorded(counting)) == 50, "durable before it is said"
        await group.record([result(job_id, 50)])
        await group.record([result(job_id, 50)])  # delivered again

    asyncio.run(scenario())
    assert counting.transactions == before + 3
    assert len(counting.outcomes(WORKLOAD, KIND)) == 51


def test_an_error_goes_to_who_caused_it_and_to_nobody_else(counting: CountingLog) -> None:
    job_id = job_of(counting)

    def breaks(_connection: sa.Connection) -> None:
        raise BadRequest("this one is bad")

    async def scenario() -> None:
        group = GroupCommit(counting)
        found = await asyncio.gather(
            group.record([result(job_id, 0)]),
            group.record([result(job_id, 1), result(job_id, 2, "a workload of no job")]),
            group.write(breaks),
            group.write(lambda connection: connection.execute(project("p"))),
            group.record([result(job_id, 3)]),
            return_exceptions=True,
        )
        assert [type(one) for one in found] == [
            *(type(None), Conflict, BadRequest, type(None), type(None))
        ]

    asyncio.run(scenario())
    assert recorded(counting) == {"[0]", "[3]"}, "of one caller all or nothing"
    with counting.reading() as connection:
        names = set(connection.execute(sa.select(projects.c.name)).scalars())
    assert "p" in names


def test_a_log_that_is_gone_is_said_to_all_and_is_asked_again_later(counting: CountingLog) -> None:
    job_id = job_of(counting)
    closed = CountingLog.open(counting.url)
    closed.close()

    async def scenario() -> None:
        group = GroupCommit(closed)
        works = [group.record([result(job_id, number)]) for number in range(3)]
        found = await asyncio.gather(*works, return_exceptions=True)
        assert [type(one) for one in found] == [LogUnavailable] * 3
        with pytest.raises(LogUnavailable):
            await group.record([result(job_id, 3)])

    asyncio.run(scenario())
    assert recorded(counting) == set()


def test_a_caller_that_leaves_takes_nothing_with_it(counting: CountingLog) -> None:
    job_id = job_of(counting)

    async def scenario() -> None:
        group = GroupCommit(counting)
        leaver = asyncio.create_task(group.record([result(job_id, 0)]))
        stayer = asyncio.create_task(group.record([result(job_id, 1)]))
        await asyncio.sleep(0)
        leaver.cancel()
        await stayer
        assert leaver.cancelled()

    asyncio.run(scenario())
    assert recorded(counting) == {"[0]", "[1]"}
