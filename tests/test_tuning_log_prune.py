"""What `tunefarm log prune` deletes and what it never does, over SQLite and PostgreSQL."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from coordinator.cli.log_prune import age
from coordinator.tuning_log import TuningLog
from coordinator.tuning_log.candidate_records import CandidateRecord, by_candidate
from coordinator.tuning_log.prune import Amount, Pruned, Pruner
from coordinator.tuning_log.prune_rows import delete_cost_models
from coordinator.tuning_log.retention import DAY_S, Retention, going, protected
from coordinator.tuning_log.schema import (
    blobs,
    candidate_features,
    candidates,
    cost_models,
    imports,
    measurements,
    metadata,
    rankings,
    users,
    workloads,
)
from protos.records import (
    UNTUNED_TRACE,
    Candidate,
    EvaluatorConfig,
    JobState,
    Measurement,
    MeasurementStatus,
    sha256_hex,
)
from tests.test_tuning_log import (
    KIND,
    RESULT,
    circumstances,
    failed,
    ok,
    spec,
    task,
)

pytest_plugins = ("tests.postgres",)

KEEP = Retention(keep=2)
UNTUNED = Candidate("w1", UNTUNED_TRACE)
FINALS = EvaluatorConfig(number=1, repeat=2, hopeless_ratio=0.0, precision=0.0)


def new_job(log: TuningLog, *keys: str, state: JobState = JobState.DONE) -> str:
    job = log.add_job(spec(), "here:1", embedded=True)
    log.set_tasks(job.job_id, [task(key) for key in keys or ("w1",)])
    log.save_job(dataclasses.replace(job, state=state))
    return job.job_id


def candidate(number: int, key: str = "w1") -> Candidate:
    return Candidate(key, f"[trace {number}]")


class Farm:
    """Records measurements that are as old as they are said to be."""

    def __init__(self, log: TuningLog) -> None:
        self.log = log
        self._leases = 0

    def record(
        self, job_id: str, one: Candidate, days: float, *times_us: float, **changes: Any
    ) -> None:
        """A right measurement of so many repeats, unless ``changes`` say otherwise."""
        kind = changes.pop("kind", KIND)
        status = changes.pop("status", None)
        lease = f"lease-{self._leases}"
        self._leases += 1
        if status is None:
            made = ok(one, lease, *(time_us * 1e-6 for time_us in times_us), **changes)
        else:
            made = failed(one, lease, status)
        self._keep(job_id, kind, one, made, days)

    def _keep(self, job_id: str, kind: str, one: Candidate, made: Measurement, days: float) -> None:
        assert self.log.record(job_id, kind, one, made)
        m = measurements.c
        with self.log.writing() as connection:
            connection.execute(
                sa.update(measurements)
                .where(m.lease_id == made.lease_id)
                .values(measured_at=m.measured_at - days * DAY_S)
            )


@pytest.fixture
def farm(log: TuningLog) -> Farm:
    return Farm(log)


def rows(log: TuningLog, table: sa.Table) -> set[Any]:
    """The first column of each row's primary key."""
    with log.reading() as connection:
        return set(connection.execute(sa.select(next(iter(table.primary_key)))).scalars())


def everything(log: TuningLog) -> Mapping[str, Sequence[Any]]:
    with log.reading() as connection:
        return {
            table.name: sorted(map(repr, connection.execute(sa.select(table))))
            for table in metadata.sorted_tables
        }


def indexes(log: TuningLog) -> set[str | None]:
    with log.reading() as connection:
        look = sa.inspect(connection)
        return {
            index["name"]
            for table in metadata.sorted_tables
            for index in look.get_indexes(table.name)
        }


def check_whole(log: TuningLog) -> None:
    """Nothing refers to what is not there, and no candidate is without a measurement."""
    with log.reading() as connection:
        for table in metadata.sorted_tables:
            for key in table.foreign_keys:
                there = sa.select(key.column)
                dangling = sa.select(sa.func.count()).where(
                    key.parent.is_not(None), key.parent.not_in(there)
                )
                assert connection.execute(dangling).scalar_one() == 0, key
        if connection.dialect.name == "sqlite":
            assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
    measured = {*_column(log, measurements.c.candidate_key)}
    assert rows(log, candidates) == measured
    assert {*_column(log, measurements.c.workload_key)} <= rows(log, workloads)
    assert {*_column(log, rankings.c.workload_key)} <= rows(log, workloads)
    assert not [name for name in indexes(log) if name and name.startswith("prune")]


def _column(log: TuningLog, column: sa.Column[Any]) -> list[Any]:
    with log.reading() as connection:
        return list(connection.execute(sa.select(column)).scalars())


def pruned(log: TuningLog, retention: Retention = KEEP) -> Pruned:
    """Survey, which changes nothing; then delete, which deletes just that."""
    before = everything(log)
    found = Pruner(log, retention).survey()
    assert everything(log) == before
    done = Pruner(log, retention).delete()
    check_whole(log)
    assert {kind: one.rows for kind, one in found.measurements.items()} == {
        kind: one.rows for kind, one in done.measurements.items()
    }
    amounts = ("candidates", "workloads", "files")
    assert [getattr(found, name).rows for name in amounts] == [
        getattr(done, name).rows for name in amounts
    ]
    assert found.cost_models == done.cost_models
    again = Pruner(log, retention).survey()
    assert (again.rows, again.candidates.rows, again.cost_models) == (0, 0, {})
    return done


def left(log: TuningLog) -> set[str]:
    """The traces of the candidates that are left."""
    return {*_column(log, candidates.c.trace_json)}


# ---------------------------------------------------------------------------------- what stays


def test_an_empty_log(log: TuningLog) -> None:
    done = pruned(log)
    assert (done.rows, done.known, done.unfinished) == (0, {}, ())


def test_the_best_and_the_untuned_stay_with_all_that_is_known_of_them(
    log: TuningLog, farm: Farm
) -> None:
    job_id = new_job(log, "w1", "w2")
    farm.record(job_id, UNTUNED, 200, 100.0)
    for number in range(1, 7):
        farm.record(job_id, candidate(number), 150, 10.0 * number, 11.0 * number)
    farm.record(job_id, candidate(1), 120, 10.5)
    farm.record(job_id, candidate(1), 150, 99.0, kind="kind-b")
    evidence = log.evidence("w1", KIND)
    with log.writing() as connection:
        for key in connection.execute(sa.select(candidates.c.key)).scalars().all():
            row = {"candidate_key": key, "version": 1, "data": b"features"}
            connection.execute(sa.insert(candidate_features).values(row))
    best = log.best_k("w1", KIND, 2)
    done = pruned(log)
    kept = [item for item in evidence if item.candidate in (UNTUNED, candidate(1), candidate(2))]
    assert log.evidence("w1", KIND) == kept
    assert log.best_k("w1", KIND, 2) == best
    assert log.evidence("w1", "kind-b") != []
    assert done.measurements[KIND].rows == done.candidates.rows == 4
    assert done.known == {KIND: 8, "kind-b": 1}
    assert done.measurements.keys() == {KIND}
    assert done.candidates.size_bytes > 0
    assert rows(log, candidate_features) == rows(log, candidates)


def test_what_is_young_stays(log: TuningLog, farm: Farm) -> None:
    job_id = new_job(log)
    for number in range(1, 7):
        farm.record(job_id, candidate(number), 89 + number % 3, 10.0 * number)
    assert pruned(log).rows == 2
    assert left(log) == {candidate(number).trace_json for number in (1, 2, 3, 6)}


def test_warm_and_cold_caches_have_their_own_best(log: TuningLog, farm: Farm) -> None:
    job_id = new_job(log)
    for number in range(1, 5):
        farm.record(job_id, candidate(number), 100, 10.0 * number)
        cold = circumstances(cold_cache=True)
        farm.record(job_id, candidate(number), 100, 100.0 / number, circumstances=cold)
    best = log.best_k("w1", KIND, 2), log.best_k("w1", KIND, 2, cold_cache=True)
    assert pruned(log).rows == 4
    assert (log.best_k("w1", KIND, 2), log.best_k("w1", KIND, 2, cold_cache=True)) == best
    assert len(log.outcomes("w1", KIND)) == len(log.outcomes("w1", KIND, cold_cache=True)) == 2


def test_a_wrong_output_is_not_forgotten_while_a_right_time_is_remembered(
    log: TuningLog, farm: Farm
) -> None:
    job_id = new_job(log)
    for number in (1, 2, 3):
        farm.record(job_id, candidate(number), 100, 10.0 * number)
    farm.record(job_id, candidate(1), 100, status=MeasurementStatus.WRONG_OUTPUT)
    farm.record(job_id, candidate(4), 100, status=MeasurementStatus.WRONG_OUTPUT)
    farm.record(job_id, candidate(4), 1, 40.0)
    evidence = log.evidence("w1", KIND)
    pruned(log)
    # Number 1 has the best time, and is no candidate; so two right ones stay beside it.
    assert log.evidence("w1", KIND) == evidence
    assert evidence[0].latency_us is evidence[-1].latency_us is None


def test_finalists_stay(log: TuningLog, farm: Farm) -> None:
    job_id = new_job(log)
    known = dataclasses.replace(circumstances(), evaluator=FINALS)
    for number in range(1, 7):
        farm.record(job_id, candidate(number), 100, 10.0 * number)
    for number in (1, 4):
        farm.record(job_id, candidate(number), 100, 50.0, 51.0, circumstances=known)
    evidence = log.evidence("w1", KIND)
    pruned(log)
    kept = {candidate(number) for number in (1, 2, 4)}
    assert log.evidence("w1", KIND) == [item for item in evidence if item.candidate in kept]


def test_the_best_of_each_origin_and_set_of_tools_stay(log: TuningLog, farm: Farm) -> None:
    job_id = new_job(log)
    newer = dataclasses.replace(circumstances(), tool_versions={"tvm": "0.28.0"})
    for number in range(1, 5):
        farm.record(job_id, candidate(number), 100, 10.0 * number)
        farm.record(job_id, candidate(10 + number), 100, 100.0 * number, circumstances=newer)
        farm.record(job_id, candidate(20 + number), 100, 1.0 * number)
    with log.writing() as connection:
        connection.execute(sa.insert(users).values(name="ann", first_seen_at=0.0))
        values = {"source": "f", "format": "parquet", "imported_by": "ann", "imported_at": 0.0}
        connection.execute(sa.insert(imports).values(import_id=1, records=4, **values))
        keys = [candidate(20 + number).key for number in range(1, 5)]
        of_import = sa.update(measurements).where(measurements.c.candidate_key.in_(keys))
        connection.execute(of_import.values(import_id=1, job_id=None))
    today = [newer.tool_versions]
    best = log.evidence("w1", KIND, toolchains=today)[:2]
    pruned(log)
    kept = {candidate(number).trace_json for number in (1, 2, 11, 12, 21, 22)}
    assert left(log) == kept
    assert log.evidence("w1", KIND, toolchains=today) == best


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING])
def test_nothing_of_an_unfinished_job_goes(log: TuningLog, farm: Farm, state: JobState) -> None:
    older = new_job(log, "w1", "w2")
    for key in ("w1", "w2"):
        for number in range(1, 6):
            farm.record(older, candidate(number, key), 100, 10.0 * number)
    running = new_job(log, "w1", state=state)
    farm.record(running, candidate(5, "w2"), 100, 60.0)  # its tasks have been set again
    done = pruned(log)
    assert done.unfinished == (running,)
    assert done.rows == 2
    assert len(log.outcomes("w1", KIND)) == 5
    assert [o.latency_us for o in log.outcomes("w2", KIND)] == pytest.approx([10, 20, 50, 60])


def test_a_candidate_stays_while_another_kind_of_device_needs_it(
    log: TuningLog, farm: Farm
) -> None:
    job_id = new_job(log)
    for number in range(1, 5):
        farm.record(job_id, candidate(number), 100, 10.0 * number)
    farm.record(job_id, candidate(4), 100, 10.0, kind="kind-b")
    done = pruned(log)
    assert (done.measurements, done.candidates.rows) == (
        {KIND: Amount(2, done.measurements[KIND].size_bytes)},
        1,
    )
    assert left(log) == {candidate(number).trace_json for number in (1, 2, 4)}


# ---------------------------------------------------------------------------------- what goes


def test_workloads_whose_last_candidate_went_go(log: TuningLog, farm: Farm) -> None:
    job_id = new_job(log, "w1", "w2", "w3", "w4")
    for key in ("w1", "w2", "w3"):
        farm.record(job_id, candidate(1, key), 100, status=MeasurementStatus.CRASHED)
    log.add_ranking(job_id, "w3", None, 0.5, 0.5, 0.5, 8)
    log.set_tasks(job_id, [task("w1")])
    done = pruned(log)
    # An import may have added number 4, which never had a candidate, just now.
    assert rows(log, workloads) == {"w1", "w3", "w4"}
    assert (done.workloads.rows, done.workloads.size_bytes) == (1, len('{"root":1}'))


def test_the_newest_promoted_cost_models_stay(log: TuningLog) -> None:
    job_id = new_job(log)
    running = new_job(log, state=JobState.RUNNING)
    versions = [log.add_cost_model(KIND, f"tree {i}", i, {}) for i in range(7)]
    other = log.add_cost_model("kind-b", "tree", 1, {})
    with log.writing() as connection:
        c = cost_models.c
        old = sa.update(cost_models).values(trained_at=c.trained_at - 100 * DAY_S)
        connection.execute(old.where(c.version != versions[2]))
        refused = sa.update(cost_models).values(promoted=False)
        connection.execute(refused.where(c.version == versions[6]))
    log.add_ranking(job_id, "w1", versions[0], 0.5, 0.5, 0.5, 8)
    log.add_ranking(running, "w1", versions[1], 0.5, 0.5, 0.5, 8)
    done = pruned(log, Retention(cost_models=2))
    # 4 and 5 are the newest, 2 is young, 1 is in use; 0 and 3 are old, and 6 was refused.
    assert rows(log, cost_models) == {*(versions[i] for i in (1, 2, 4, 5)), other}
    assert done.cost_models == {KIND: Amount(3, 3 * len("tree 0"))}
    assert log.rankings(job_id)[0].cost_model_version is None
    assert log.rankings(running)[0].cost_model_version == versions[1]
    assert log.latest_cost_model(KIND) is not None


def test_files_that_nothing_refers_to_go(log: TuningLog) -> None:
    model = log.put_blob(b"model")
    log.add_job(dataclasses.replace(spec(), model_sha256=model), "here:1", embedded=True)
    job_id = new_job(log)
    log.put_blob(b"nobody's")
    young = log.put_blob(b"uploaded just now")
    log.add_package("key", job_id, RESULT, b"wheel")
    result = dataclasses.replace(RESULT, package_sha256=log.put_blob(b"first wheel"))
    log.save_job(dataclasses.replace(log.job(job_id), state=JobState.DONE, result=result))
    with log.writing() as connection:
        old = sa.update(blobs).values(stored_at=blobs.c.stored_at - 100 * DAY_S)
        connection.execute(old.where(blobs.c.sha256 != young))
    done = pruned(log)
    assert (done.files.rows, done.files.size_bytes) == (1, len(b"nobody's"))
    kept = [b"model", b"uploaded just now", b"wheel", b"first wheel"]
    assert rows(log, blobs) == {sha256_hex(data) for data in kept}
    assert log.get_blob(model) == b"model"


# ---------------------------------------------------------------------------------- how it goes


def test_transactions_are_short(log: TuningLog, farm: Farm) -> None:
    job_id = new_job(log, "w1", "w2")
    for key in ("w1", "w2"):
        for number in range(1, 10):
            for _ in range(2):
                farm.record(job_id, candidate(number, key), 100, 10.0 * number)
    told: list[tuple[str, int, int]] = []
    done = Pruner(log, KEEP, lambda *words: told.append(words), 3).delete()
    check_whole(log)
    assert done.rows == 2 * 7 * 2
    deleted = [rows for what, rows, _of in told if what == "measurements deleted"]
    # Whole candidates of two records each: four of them are the least above three.
    assert deleted == list(range(4, 29, 4))


def test_interrupted_it_loses_nothing_else(log: TuningLog, farm: Farm) -> None:
    job_id = new_job(log)
    for number in range(1, 13):
        farm.record(job_id, candidate(number), 100, 10.0 * number)
    best = log.best_k("w1", KIND, 2)

    def interrupt(what: str, done: int, of: int) -> None:
        if what == "measurements deleted" and done >= 6:
            raise KeyboardInterrupt

    pruner = Pruner(log, KEEP, interrupt, rows_per_transaction=3)
    with pytest.raises(KeyboardInterrupt):
        pruner.delete()
    check_whole(log)
    assert pruner.done.rows == 6
    assert len(log.outcomes("w1", KIND)) == 6
    assert pruned(log).rows == 4
    assert log.best_k("w1", KIND, 2) == best


def test_a_workload_goes_with_the_last_of_its_candidates(log: TuningLog, farm: Farm) -> None:
    job_id = new_job(log)
    farm.record(job_id, candidate(1), 100, status=MeasurementStatus.CRASHED)
    log.set_tasks(job_id, [])
    interrupting = [True]

    def interrupt(_connection: Any, _cursor: Any, statement: str, *_others: Any) -> None:
        if statement.startswith("DELETE FROM workloads") and interrupting.pop():
            raise KeyboardInterrupt

    with log.reading() as connection:
        sa.event.listen(connection.engine, "before_cursor_execute", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Pruner(log, KEEP).delete()
    check_whole(log)
    interrupting.append(False)
    done = pruned(log)
    assert (done.rows, done.candidates.rows, done.workloads.rows) == (1, 1, 1)
    assert rows(log, workloads) == set()


def test_no_index_is_built_for_nothing_and_none_is_left(log: TuningLog, farm: Farm) -> None:
    built = []

    def interrupt(_connection: Any, _cursor: Any, statement: str, *_others: Any) -> None:
        if statement.startswith("CREATE INDEX"):
            built.append(statement)
            if len(built) == 2:
                raise KeyboardInterrupt

    new_job(log)
    with log.reading() as connection:
        engine = connection.engine
    sa.event.listen(engine, "before_cursor_execute", interrupt)
    assert Pruner(log, KEEP).delete().rows == 0
    assert built == []
    job_id = new_job(log)
    for number in range(1, 6):
        farm.record(job_id, candidate(number), 100, 10.0 * number)
    with pytest.raises(KeyboardInterrupt):
        Pruner(log, KEEP).delete()
    check_whole(log)
    assert len(log.outcomes("w1", KIND)) == 5


def test_what_is_written_meanwhile_stays(log: TuningLog, farm: Farm) -> None:
    job_id = new_job(log)
    for number in range(1, 6):
        farm.record(job_id, candidate(number), 100, 10.0 * number)

    def write(what: str, _done: int, _of: int) -> None:
        if what == "workloads read":
            farm.record(job_id, candidate(5), 0, 50.0)

    done = Pruner(log, KEEP, write).delete()
    check_whole(log)
    assert done.rows == 2
    assert len([o for o in log.outcomes("w1", KIND) if o.candidate == candidate(5)]) == 2


def test_a_job_that_takes_the_workload_up_meanwhile_keeps_it(log: TuningLog, farm: Farm) -> None:
    job_id = new_job(log)
    for number in range(1, 6):
        farm.record(job_id, candidate(number), 100, 10.0 * number)

    def submit(what: str, _done: int, _of: int) -> None:
        if what == "workloads read":
            new_job(log, state=JobState.RUNNING)

    assert Pruner(log, KEEP, submit).delete().rows == 0
    assert len(log.outcomes("w1", KIND)) == 5


def test_a_farm_that_records_meanwhile_is_not_refused(log: TuningLog, farm: Farm) -> None:
    job_id = new_job(log)
    for number in range(60):
        farm.record(job_id, candidate(number), 100, 10.0 + number)

    def record(number: int) -> bool:
        return log.record(job_id, KIND, candidate(number), ok(candidate(number), f"new-{number}"))

    with ThreadPoolExecutor(4) as pool:
        recorded = pool.map(record, range(59, 0, -1))
        done = Pruner(log, KEEP, rows_per_transaction=2).delete()
        assert all(recorded)
    check_whole(log)
    assert len(log.outcomes("w1", KIND)) == 60 + 59 - done.rows


def test_cost_models_go_in_several_transactions(log: TuningLog) -> None:
    versions = [log.add_cost_model(KIND, "tree", i, {}) for i in range(8)]
    gone = delete_cost_models(log, keep=3, before=math.inf, at_once=2)
    assert [one.version for one in gone] == versions[:5]
    assert rows(log, cost_models) == set(versions[5:])


# ---------------------------------------------------------------------------------- pure


def known(key: str, number: int, latency_us: float | None, **changes: Any) -> CandidateRecord:
    status = "OK" if latency_us is not None else "CRASHED"
    record = CandidateRecord(
        number, 0.0, "j", key, False, status, latency_us, f"[{(latency_us or 0) * 1e-6}]", None, 1
    )
    return record._replace(**changes)


@pytest.mark.parametrize("text", ["999999d", "9" * 400 + "d", "99999999h"])
def test_an_age_that_no_clock_can_show_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="more than 1000 years"):
        age(text)


def test_ties_are_decided_by_the_key() -> None:
    of_candidate = {key: [known(key, i, 1.0)] for i, key in enumerate("dbca")}
    assert protected("w", of_candidate, 2) - {Candidate("w", UNTUNED_TRACE).key} == {"a", "b"}


def test_failures_take_no_place_among_the_best() -> None:
    records = [known("a", 1, None), known("b", 2, 5.0), known("c", 3, 6.0)]
    found = going("w", records, 1, before=1.0, unfinished=())
    assert [record.id for record in found.records] == [1, 3]
    assert found.staying == {"b"}


def test_what_answers_with_other_tools_is_not_disqualified_by_these() -> None:
    records = [
        known("a", 1, 5.0, tool_versions_key="new"),
        known("a", 2, None, tool_versions_key="old"),
        known("b", 3, 4.0, tool_versions_key="old"),
        known("c", 4, None, status="BUILD_ERROR"),
    ]
    of_candidate = by_candidate(records)
    assert protected("w", of_candidate, 1) - {Candidate("w", UNTUNED_TRACE).key} == {"a", "b"}


def test_the_time_of_the_limit_itself_is_young() -> None:
    records = [known("a", 1, None, measured_at=1.0), known("b", 2, None, measured_at=0.99)]
    assert [r.id for r in going("w", records, 1, 1.0, ()).records] == [2]
    assert not going("w", records, 1, 1.0, {"j"}).records
