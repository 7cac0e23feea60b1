"""Leases in the log, on both databases: whoever restarts, a result finds its job, once."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from coordinator.fleet.lease_log import LOSSES_OF_POISON, LeaseLog
from coordinator.fleet.leases import Batch, Outstanding, PendingTrial
from coordinator.fleet.registry import Session
from coordinator.tuning_log import TuningLog, leases
from protos.errors import ProtocolViolation
from protos.records import (
    Artifact,
    Candidate,
    Circumstances,
    Device,
    EvaluatorConfig,
    JobSpec,
    KernelWork,
    Lease,
    Measurement,
    MeasurementStatus,
    Task,
    Telemetry,
    TensorSpec,
    Trial,
    sha256_hex,
)

pytest_plugins = ("tests.postgres",)

ARGS = (TensorSpec((1,), "float32"),)
BOARD = Device("board", '{"kind":"llvm"}', "a CPU", (0,), 1)


def artifact(text: str) -> Artifact:
    return Artifact(sha256_hex(text.encode()), len(text), text.encode())


def held(log: TuningLog, lease_id: str, programs: int = 2, kept: bool = True) -> Outstanding:
    """A lease that the board holds, of a job in the log."""
    job = log.add_job(JobSpec("a model", "0" * 64, "{}", trials=9), "test", embedded=True)
    log.set_tasks(job.job_id, [Task("a task", "w", "{}", 1, ARGS, 1, 1.0)])
    loop = asyncio.new_event_loop()
    trials = {}
    for number in range(programs):
        candidate = Candidate("w", f"[{lease_id}{number}]")
        future: asyncio.Future[Measurement] = loop.create_future()
        trials[candidate.key] = PendingTrial(candidate, artifact(str(number)), 0.5, future)
    loop.close()
    named = tuple(Trial(key, trial.artifact) for key, trial in trials.items())
    work = KernelWork("w", ARGS, 1, 0, artifact("reference"), EvaluatorConfig(), named)
    batch = Batch(job.job_id, BOARD.kind, work, kept=kept, built_with={"llvm": "22"})
    lease = Lease(lease_id, job.job_id, 60.0, kernel=work)
    return Outstanding(lease, batch, Session(BOARD), 0.0, trials)


def results(of: Outstanding) -> list[Measurement]:
    circumstances = Circumstances(
        *("board", {"tvm-ffi": "1"}, EvaluatorConfig(), 1, (0,), False, Telemetry(), Telemetry())
    )
    return [
        Measurement(
            *("w", key, MeasurementStatus.OK),
            lease_id=of.lease.lease_id,
            artifact_sha256=trial.artifact.sha256,
            repeats_s=(1e-3,),
            circumstances=circumstances,
        )
        for key, trial in of.trials.items()
    ]


def test_a_result_finds_its_lease_after_a_restart(log: TuningLog) -> None:
    lease = held(log, "l1")
    asyncio.run(LeaseLog(log).keep(lease))
    again = LeaseLog(log)  # of the coordinator that comes after
    for _ in range(2):
        assert asyncio.run(again.record_late("l1", "board", results(lease)))
    outcomes = log.outcomes("w", BOARD.kind)
    assert [outcome.candidate for outcome in outcomes] == sorted(
        (trial.candidate for trial in lease.trials.values()), key=lambda candidate: candidate.key
    )
    assert len(log.history(lease.lease.job_id).records) == 2
    measured = log.measured(BOARD.kind, artifact("0").sha256)
    assert measured is not None
    assert measured.circumstances is not None
    assert measured.circumstances.tool_versions == {"tvm-ffi": "1", "llvm": "22"}


def test_what_the_device_never_had_is_refused(log: TuningLog) -> None:
    lease = held(log, "l1")
    lease_log = LeaseLog(log)
    asyncio.run(lease_log.keep(lease))
    (first, *_) = results(lease)
    assert not asyncio.run(lease_log.record_late("l1", "another", [first]))
    assert not asyncio.run(lease_log.record_late("l2", "board", [first]))
    stranger = replace(first, candidate_key="0" * 64)
    assert asyncio.run(lease_log.record_late("l1", "board", [stranger]))
    assert log.outcomes("w", BOARD.kind) == []


def test_a_lease_goes_when_its_device_is_done_with_it(log: TuningLog) -> None:
    lease_log = LeaseLog(log)
    for lease_id in ("l1", "l2", "l3"):
        asyncio.run(lease_log.keep(held(log, lease_id)))
    lease_log.ended("l1", "board")
    lease_log.ended("l2", "somebody else")
    asyncio.run(lease_log.drop_old())

    def there() -> list[str]:
        with log.reading() as connection:
            return [name for name in ("l1", "l2", "l3") if leases.get(connection, name)]

    assert there() == ["l2", "l3"]
    with log.writing() as connection:
        assert leases.delete_older(connection, 3600.0) == 0
        assert leases.delete_older(connection, -1.0) == 2
    assert there() == []


def test_a_device_that_ends_ever_more_leases_keeps_nobody_from_getting_one(log: TuningLog) -> None:
    lease_log = LeaseLog(log)
    for number in range(300_000):  # more than a statement may name
        lease_log.ended(f"never given {number}", "board")
    lease = held(log, "l1")
    asyncio.run(lease_log.keep(lease))
    assert asyncio.run(lease_log.record_late("l1", "board", results(lease)))


def test_a_late_result_that_can_not_be_of_its_lease_is_not_kept(log: TuningLog) -> None:
    lease_log, lease = LeaseLog(log), held(log, "l1")
    asyncio.run(lease_log.keep(lease))
    first, second = results(lease)
    for wrong in (
        replace(second, artifact_sha256="0" * 64),
        replace(second, repeats_s=()),
        replace(second, circumstances=replace(second.circumstances, device="x")),  # type: ignore[type-var]
    ):
        with pytest.raises(ProtocolViolation):
            asyncio.run(lease_log.record_late("l1", "board", [first, wrong]))
    assert log.outcomes("w", BOARD.kind) == []


def test_what_is_not_kept_is_no_lease_of_the_log(log: TuningLog) -> None:
    lease = held(log, "l1", kept=False)
    lease_log = LeaseLog(log)
    asyncio.run(lease_log.keep(lease))
    assert not asyncio.run(lease_log.record_late("l1", "board", results(lease)))


def test_poison_is_known_by_its_bytes_on_a_kind_of_device(log: TuningLog) -> None:
    lease_log = LeaseLog(log)
    bad, innocent = artifact("0").sha256, artifact("1").sha256

    def poisonous(kind: str = BOARD.kind) -> dict[str, int]:
        return asyncio.run(lease_log.poisonous(kind, [bad, innocent]))

    for number in range(LOSSES_OF_POISON):
        assert poisonous() == {}
        lost = [bad, innocent] if number == 0 else [bad]
        lease = held(log, f"l{number}")
        for _ in range(2):  # the same loss, told twice, is one
            times = asyncio.run(lease_log.lost(lease, lost))
        assert times[bad] == number + 1
    assert poisonous() == {bad: LOSSES_OF_POISON}
    assert poisonous("another kind") == {}
    asyncio.run(lease_log.absolve(["l1"]))
    assert poisonous() == {}


@pytest.mark.parametrize("programs", [0, 1])
def test_asking_for_few_or_none_is_no_error(log: TuningLog, programs: int) -> None:
    asked = [artifact(str(number)).sha256 for number in range(programs)]
    assert asyncio.run(LeaseLog(log).poisonous(BOARD.kind, asked)) == {}
