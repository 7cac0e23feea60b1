"""The tuning log's benchmark: its records, its arithmetic, and a small run of all of it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from benchmarks import log_records, tuning_log
from benchmarks.json_database import Loaded
from benchmarks.log_records import DEVICE_KIND, Plan, batch_of, everything
from benchmarks.log_writers import Said, Writer
from benchmarks.postgres_server import NoPostgres, binaries
from benchmarks.process import run_quietly
from benchmarks.tuning_log import Written
from coordinator.tuning_log import TuningLog
from coordinator.tuning_log.best import best_k
from protos.records import Candidate, JobSpec, Measurement, MeasurementStatus, Task

pytest_plugins = ("tests.postgres",)

ROOT = Path(__file__).resolve().parent.parent
TRACES = (
    ('[["SamplePerfectTile",["l3"],[2,64],["v6","v7"]]]', [[0, [4, 2]]]),
    ('[["SamplePerfectTile",["l3"],[3,64],["v6","v7","v8"]]]', [[0, [4, 2, 2]]]),
)


@pytest.fixture(params=["sqlite", "postgres"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> TuningLog:
    """A new log in either database."""
    sqlite = request.param == "sqlite"
    url = str(tmp_path / "log.db") if sqlite else request.getfixturevalue("postgres_url")
    opened = TuningLog.open(url)
    request.addfinalizer(opened.close)
    return opened


def plan_for(log: TuningLog, measurements: int, writers: int, workloads: int) -> Plan:
    tasks = [Task("t", f"w{i}", f'"{i}"', 1, (), 1, 1.0) for i in range(workloads)]
    job = log.add_job(JobSpec("model", "0" * 64, "{}", 1), "test", embedded=True)
    log.set_tasks(job.job_id, tasks)
    keys = tuple(task.workload_key for task in tasks)
    return Plan(measurements, writers, (job.job_id,), keys, TRACES)


def test_each_writer_has_its_share_of_the_same_records() -> None:
    plan = Plan(1003, 4, ("j",), ("w0", "w1", "w2"), TRACES)
    assert [sum(plan.sizes(writer)) for writer in range(4)] == [251, 251, 251, 250]
    results = [result for _workload, result in everything(plan)]
    assert len({(m.lease_id, m.candidate_key) for _, _, _, m, _ in results}) == 1003
    assert len({candidate for _, _, candidate, _, _ in results}) < 1003, "some are measured again"
    assert results[:16] == batch_of(plan, 0, 0, 16)
    assert log_records.writer_and_batch(log_records.lease_id(3, 25_000)) == (3, 25_000)


def test_rates_of_tenths_and_the_memory_that_grew_most() -> None:
    assert tuning_log.tenths(0.0, [(float(i), 5) for i in range(1, 21)]) == (5.0,) * 10

    def writer(number: int, rss_mb: list[int], killed: bool = False) -> Writer:
        said = [Said(0.0, i, 1, 0, 0, rss * 10**6) for i, rss in enumerate(rss_mb)]
        return Writer(number, said, killed)

    writers = [
        writer(0, [1, 50, 60], killed=True),
        writer(1, [7, 8, 9]),
        writer(2, [5, 9, 8]),
    ]
    assert tuning_log.memory(writers) == (5.0, 9.0, 8.0)


def test_what_json_gave_up_is_a_figure_and_the_others_are_of_what_it_loaded() -> None:
    one = Written("sqlite", 10.0, (9.0,), 0, 0, 0, (1.0, 2.0, 3.0), 0.5, 0.6, 1, 2)
    loaded = [Loaded(10, 1, 2.0, 3, 0.1), Loaded(100, 1, 600.0, 3, given_up="not done")]
    found = tuning_log.figures([one], loaded)
    assert (found["lost"], found["doubled"], found["rss_growth_mb"]) == (1, 2, 2.0)
    assert (found["json_records"], found["json_given_up_at"]) == (10, 100)


def test_what_is_missing_is_counted(log: TuningLog) -> None:
    plan = plan_for(log, 200, 2, 3)
    whole = batch_of(plan, 0, 0, 16)
    assert all(log.record_many(whole))
    assert not any(log.record_many(whole[::-1]))
    log.record_many(batch_of(plan, 1, 0, plan.sizes(1)[0])[5:])
    assert tuning_log.counted(log, plan) == (200 - 16 - plan.sizes(1)[0] + 5, 0)


def test_the_best_few_are_different_candidates_in_order(log: TuningLog) -> None:
    plan = plan_for(log, 1, 1, 2)
    (job_id,) = plan.job_ids
    rows = []
    for number in range(60):  # the fastest candidate has more records than a page
        candidate = Candidate("w0", f"t{0 if number < 40 else number}")
        measurement = Measurement(
            *("w0", candidate.key, MeasurementStatus.OK),
            lease_id=f"l{number}",
            repeats_s=(1e-6 * (number + 1),),
        )
        rows.append((job_id, DEVICE_KIND, candidate, measurement, 0.5))
    failed = Candidate("w0", "failed")
    crash = Measurement("w0", failed.key, MeasurementStatus.CRASHED, lease_id="l")
    assert all(log.record_many([*rows, (job_id, DEVICE_KIND, failed, crash, None)]))
    with log.reading() as connection:
        best = best_k(connection, "w0", DEVICE_KIND, 3, cold_cache=False)
        assert [(b.candidate.trace_json, round(b.latency_us)) for b in best] == [
            *(("t0", 1), ("t40", 41), ("t41", 42))
        ]
        assert len(best_k(connection, "w0", DEVICE_KIND, 100, cold_cache=False)) == 21
        assert best_k(connection, "w0", DEVICE_KIND, 3, cold_cache=True) == []
        assert best_k(connection, "w1", DEVICE_KIND, 3, cold_cache=False) == []


def test_a_small_run_loses_and_doubles_nothing() -> None:
    try:
        binaries()
    except NoPostgres as error:
        pytest.skip(str(error))
    command = [sys.executable, "-m", "benchmarks.tuning_log", "--quick", "--writers", "3"]
    command += ["--measurements", "2000", "--workloads", "10"]
    said = run_quietly(command, {**os.environ, "PYTHONPATH": str(ROOT)})
    assert "fsync=on, synchronous_commit=on" in said
    found = json.loads(said.splitlines()[-1])["figures"]
    assert (found["lost"], found["doubled"]) == (0, 0)
    assert found["json_records"] == 200
    assert {"inserts_per_s_postgres", "inserts_per_s_sqlite", "rss_growth_mb"} <= set(found)
    assert {"best_k_ms_postgres", "best_k_ms_sqlite", "json_load_s", "json_best_k_ms"} <= set(found)
