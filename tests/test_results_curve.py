"""The tuning curve of a job and what its measurements took, from the log's records."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.results.curve import CurvePoint, tuning_cost, tuning_curve
from coordinator.tuning_log import TuningLog
from protos.records import (
    UNTUNED_TRACE,
    Candidate,
    History,
    HistoryRecord,
    Measurement,
    MeasurementStatus,
    TaskProgress,
)
from tests.test_tuning_log import KIND, circumstances, failed, new_job, ok

pytest_plugins = ("tests.postgres",)

TASKS = (TaskProgress("a", "wa", 2, untuned_us=100.0), TaskProgress("b", "wb", 1, untuned_us=50.0))


def record(at: float, key: str, name: str, us: float | None, **changes: object) -> HistoryRecord:
    status = MeasurementStatus.OK if us is not None else MeasurementStatus.CRASHED
    plain = HistoryRecord(1000.0 + at, key, name, status, us, busy_s=0.5, device="d1")
    return replace(plain, **changes)  # type: ignore[arg-type]


def untuned(at: float, key: str, us: float) -> HistoryRecord:
    return record(at, key, f"{key}-untuned", us, untuned=True, trial=False)


def test_each_better_program_lowers_the_sum_by_its_weight() -> None:
    records = (
        untuned(0, "wa", 100.0),
        untuned(1, "wb", 50.0),
        record(2, "wa", "a1", 40.0),
        record(3, "wb", "b1", None),
        record(5, "wb", "b2", 30.0),
        record(6, "wa", "a2", 45.0),
    )
    assert tuning_curve(TASKS, History(records)) == (
        CurvePoint(0, 0.0, 250.0),
        CurvePoint(1, 2.0, 130.0),
        CurvePoint(3, 5.0, 110.0),
        CurvePoint(4, 6.0, 110.0),
    )


def test_a_job_that_goes_on_starts_where_the_log_is() -> None:
    history = History((record(0, "wa", "a9", 10.0),), {"wa": 20.0})
    points = tuning_curve(TASKS, history)
    assert [point.latency_us for point in points] == [90.0, 70.0, 70.0]


def test_an_operator_without_an_untuned_time_counts_from_its_first_time_on() -> None:
    tasks = (TaskProgress("a", "wa", 2), TaskProgress("never timed", "wx", 9))
    points = tuning_curve(tasks, History((record(0, "wa", "a1", 8.0), record(1, "wa", "a2", 5.0))))
    assert [point.latency_us for point in points] == [16.0, 10.0, 10.0]


def test_finals_may_lower_the_sum_without_a_new_trial() -> None:
    records = (record(0, "wa", "a1", 40.0), record(9, "wa", "a1", 38.0))
    points = tuning_curve(TASKS, History(records))
    assert [(point.trials, point.latency_us) for point in points] == [
        (0, 250.0),
        (1, 130.0),
        (1, 126.0),
        (1, 126.0),
    ]


def test_nothing_measured_is_no_curve_and_costs_nothing() -> None:
    assert tuning_curve(TASKS, History()) == ()
    assert tuning_cost(History()).device_s == 0.0


def test_a_candidate_counts_once_by_the_best_that_became_of_it() -> None:
    suspect = MeasurementStatus.SUSPECT
    records = (
        untuned(0, "wa", 100.0),
        record(1, "wa", "a1", None, status=suspect),
        record(2, "wa", "a1", 40.0),
        record(3, "wa", "a1", None, status=suspect, device="d2"),
        record(4, "wa", "a2", None),
        record(5, "wa", "a3", None, status=MeasurementStatus.BUILD_ERROR, busy_s=0.0, device=""),
    )
    cost = tuning_cost(History(records))
    assert cost.trials == {
        MeasurementStatus.OK: 1,
        MeasurementStatus.BUILD_ERROR: 1,
        MeasurementStatus.CRASHED: 1,
    }
    assert (cost.device_s, cost.measurements, cost.devices) == (2.5, 5, ("d1", "d2"))


# ------------------------------------------------------------------------- from the log


def keep(log: TuningLog, job_id: str, measurement: Measurement, trace: str) -> None:
    log.record(job_id, KIND, Candidate(measurement.workload_key, trace), measurement)


def test_the_history_is_the_jobs_own_in_its_order(log: TuningLog) -> None:
    earlier, job_id = new_job(log, "w1", "w3"), new_job(log, "w1", "w2", "w3")
    keep(log, earlier, ok(Candidate("w3", "tuned"), "lease-9", 7e-4), "tuned")  # and enough
    known, new, unbuilt = (Candidate("w1", trace) for trace in ("known", "new", "unbuilt"))
    base = Candidate("w2", UNTUNED_TRACE)
    keep(log, earlier, ok(known, "lease-1", 3e-4), "known")
    cold = replace(ok(new, "lease-0", 1e-6), circumstances=circumstances(cold_cache=True))
    keep(log, earlier, cold, "new")
    keep(log, job_id, ok(base, "lease-2", 5e-4), UNTUNED_TRACE)
    keep(log, job_id, ok(known, "lease-3", 2e-4), "known")
    keep(log, job_id, ok(new, "same-1", 1e-4), "new")
    keep(log, job_id, failed(unbuilt, "lease-4", MeasurementStatus.CRASHED), "unbuilt")
    found = log.history(job_id)
    assert found.best_before_us == {"w1": pytest.approx(300.0), "w3": pytest.approx(700.0)}
    assert [(r.candidate_key, r.untuned, r.trial) for r in found.records] == [
        (base.key, True, False),
        (known.key, False, False),
        (new.key, False, True),
        (unbuilt.key, False, True),
    ]
    assert [r.busy_s for r in found.records] == [1.5, 1.5, 0.0, 1.5]
    assert [r.latency_us is None for r in found.records] == [False, False, False, True]
    assert {r.device for r in found.records} == {"d1"}
    assert log.history(new_job(log)) == History()
