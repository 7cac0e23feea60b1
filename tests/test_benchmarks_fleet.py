"""The fleet's benchmark: its arithmetic, and a small run of all of it whose ledger adds up."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from benchmarks import fleet
from benchmarks.fleet_plan import Plan, device, recorded_answers
from benchmarks.fleet_run import Pace, Ran, Result, counted, measure, utilisation
from coordinator.tuning_log import TuningLog
from protos.records import (
    Candidate,
    JobSpec,
    Measurement,
    MeasurementStatus,
    Task,
)

FAST = 0.1
"""Times the recorded latencies: a hundred measurements in a second."""


def test_a_device_is_used_for_what_it_measured_within_the_window() -> None:
    def result(began: float, ended: float) -> Result:
        return Result("d", "lease", "candidate", began, ended, None)

    results = [result(0.0, 11.0), result(11.0, 13.0), result(18.0, 30.0), result(30.0, 31.0)]
    # Of 2 devices and 10 seconds each: 1 + 2 + 2.
    assert utilisation(results, 2, 10.0, 20.0) == pytest.approx(5 / 20)


def test_what_was_acknowledged_and_is_not_there_is_lost(tmp_path: Path) -> None:
    log = TuningLog.open(str(tmp_path / "log.db"))
    job = log.add_job(JobSpec("m", "0" * 64, "{}", 1), "test", embedded=True)
    log.set_tasks(job.job_id, [Task("t", "w", "{}", 1, (), 1, 1.0)])
    candidates = [Candidate("w", f"[{number}]") for number in range(4)]
    for candidate in candidates[:2]:
        made = Measurement("w", candidate.key, MeasurementStatus.OK, lease_id="l")
        log.record(job.job_id, "kind", candidate, made)
    results = [
        Result("d", "l", candidates[0].key, 0.0, 1.0, 1.1),
        Result("d", "l", candidates[1].key, 1.0, 2.0, None),  # there, though not acknowledged
        Result("d", "l", candidates[2].key, 2.0, 3.0, 3.1),  # lost
        Result("d", "l", candidates[3].key, 3.0, 4.0, None),
    ]
    assert counted(log, results) == (1, 0)
    log.close()


def test_devices_answer_what_real_ones_did_each_in_its_own_order() -> None:
    answers = recorded_answers(2.0)
    assert {answer.status for answer in answers} >= {MeasurementStatus.OK}
    assert recorded_answers(1.0)[7].busy_s * 2 == answers[7].busy_s
    assert all(answer.busy_s > 0 for answer in answers)
    plan = Plan("", "", 2, answers)
    drawn = [list(itertools.islice(plan.drawn(number), 20)) for number in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert device(0).kind == device(1).kind


def test_a_small_run_loses_and_doubles_nothing(tmp_path: Path) -> None:
    url = str(tmp_path / "log.db")
    ran = measure(url, 2, recorded_answers(FAST), Pace(1.0, 1.0))
    assert (ran.devices, ran.connected, ran.sessions) == (2, 2, 2)
    assert (ran.lost, ran.doubled) == (0, 0)
    log = TuningLog.open(url)
    by_device = log.device_measurements()
    log.close()
    assert set(by_device) == {device(0).name, device(1).name}
    assert 0 < ran.acknowledged <= sum(by_device.values())
    assert 0 < ran.utilisation <= 1
    assert ran.per_s > 0
    assert ran.cpu_ms > 0


def test_figures_are_of_the_run_with_most_devices() -> None:
    def ran(devices: int, per_s: float, lost: int) -> Ran:
        rates = (0.1, 10.0, per_s, 0.9, 5.0, 0.5, 1.2, 0.2)
        return Ran(devices, devices, devices, *rates, (1.0, 2.0, 4.0), 100, lost, 0)

    found = fleet.figures([ran(8, 50.0, 1), ran(64, 400.0, 0)])
    assert (found["devices"], found["measurements_per_s"], found["lost"]) == (64, 400.0, 1)
    assert (found["measurements_per_s_8"], found["rss_growth_mb"]) == (50.0, 3.0)
