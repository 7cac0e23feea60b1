"""What is done with records of elsewhere: which are timed first, and when they are believed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import numpy as np

from coordinator.budget import Budget
from coordinator.experiments import EVALUATOR, Lab
from coordinator.fleet.fleet import Fleet
from coordinator.search import seeds
from coordinator.search.proposer import Outcome, Proposal
from coordinator.stages import StageClock
from coordinator.task_run import TaskRun
from coordinator.tuner import Tuner
from coordinator.tuning_log import Evidence, TuningLog
from cost_model.features import CANDIDATE_WIDTH
from protos.records import (
    UNTUNED_TRACE,
    Candidate,
    Circumstances,
    Device,
    JobSpec,
    Measurement,
    MeasurementStatus,
    Task,
    Telemetry,
)

DEVICE = Device("d", "{}", "a CPU", (0,), 1, tool_versions={"tvm": "2"})
TASK = Task("t", "w", "{}", 1, (), 1, 1e6)


def known(trace: str, us: float | None) -> Evidence:
    return Evidence(Candidate("w", trace), us)


def test_the_fastest_doubtful_ones_are_timed_again() -> None:
    items = [known(UNTUNED_TRACE, 1.0), known("c", 30.0), known("a", 10.0), known("x", None)]
    items += [known("b", 20.0), known("d", 40.0)]
    assert [c.trace_json for c in seeds.to_time_again(items)] == ["a", "b", "c"]
    assert seeds.to_time_again([]) == []


def test_a_promise_is_confirmed_by_what_is_about_as_fast() -> None:
    doubtful = [known("a", 100.0), known("b", 120.0), known(UNTUNED_TRACE, 1.0)]
    assert seeds.confirmed(109.0, doubtful)
    assert not seeds.confirmed(111.0, doubtful)
    assert not seeds.confirmed(None, doubtful)
    assert not seeds.confirmed(100.0, [])


def test_other_kinds_take_turns() -> None:
    def candidates(lanes: int, *traces: str) -> list[seeds.Elsewhere]:
        return [seeds.Elsewhere(Candidate("w", trace), lanes) for trace in traces]

    best = {"k2": candidates(8, "a", "b", "c"), "k1": candidates(4, "b", UNTUNED_TRACE, "d", "e")}
    found = [(one.candidate.trace_json, one.lanes) for one in seeds.from_elsewhere(best)]
    assert found == [("b", 4), ("a", 8), ("d", 4), ("e", 4), ("c", 8)]
    assert seeds.from_elsewhere({}) == []


class FakeSearch:
    """Proposes what it is given; the real one is a Ray actor."""

    batch_size = 16

    def __init__(self) -> None:
        self.observed: list[Outcome] = []

    async def open(self, *_task: object) -> dict[str, object]:
        return {}

    async def seed(self, _key: str, candidates: list[Candidate]) -> list[Proposal]:
        features = np.zeros(CANDIDATE_WIDTH, np.float32)
        return [Proposal(candidate, features, None) for candidate in candidates]

    async def observe(self, _key: str, outcomes: list[Outcome]) -> None:
        self.observed += outcomes


class FakeLearning:
    """Learns nothing; the real one trains on a Ray actor."""

    experienced = False

    async def adopt(self, _others: object) -> None:
        return

    async def recall(self, *_known: object) -> None:
        return

    async def learn(self, *_batch: object) -> None:
        return


class FakeExperiments:
    """A device on which a candidate takes ``us[trace]``."""

    def __init__(self, us: dict[str, float]) -> None:
        self.us = us
        self.measured: list[str] = []

    async def run(self, _run: TaskRun, proposals: list[Proposal]) -> list[Measurement]:
        self.measured += [p.candidate.trace_json for p in proposals]
        return [_ok(p.candidate, self.us[p.candidate.trace_json], "new") for p in proposals]


def _ok(candidate: Candidate, us: float, lease: str, tools: str = "2") -> Measurement:
    circumstances = Circumstances(
        "d", {"tvm": tools}, EVALUATOR, 1, (0,), False, Telemetry(), Telemetry()
    )
    return Measurement(
        candidate.workload_key,
        candidate.key,
        MeasurementStatus.OK,
        lease,
        repeats_s=(us * 1e-6,),
        circumstances=circumstances,
    )


def tuned(
    path: Path, old_us: dict[str, float], now_us: dict[str, float]
) -> tuple[Tuner, list[str]]:
    """A job on a log whose records were made with other tools, after it has timed them again; and
    what it timed."""
    log = TuningLog.open(str(path / "log.db"))
    job = log.add_job(JobSpec("m", "ab" * 32, "{}", 100), "here:1", embedded=True)
    log.set_tasks(job.job_id, [TASK])
    for trace, us in old_us.items():
        candidate = Candidate("w", trace)
        log.record(job.job_id, DEVICE.kind, candidate, _ok(candidate, us, "old", "1"))
    untuned = Candidate("w", UNTUNED_TRACE)
    log.record(job.job_id, DEVICE.kind, untuned, _ok(untuned, 1000.0, "untuned"))
    fleet = Fleet(log)
    fleet.registry.join(DEVICE)
    lab = Lab(*(job.job_id, 0, DEVICE, log, fleet, cast(Any, None), StageClock(), EVALUATOR))
    tuner = Tuner(lab, [TASK], cast(Any, FakeSearch()), cast(Any, FakeLearning()), lambda: None)
    device = FakeExperiments(now_us)
    tuner.experiments = cast(Any, device)

    async def play() -> None:
        await tuner.remember()
        await tuner.time_again(Budget(100, None))

    asyncio.run(play())
    log.close()
    return tuner, device.measured


OLD = {"a": 100.0, "b": 110.0, "c": 120.0, "d": 130.0, "e": 140.0}


def test_what_is_confirmed_need_not_be_tried_again(tmp_path: Path) -> None:
    tuner, measured = tuned(tmp_path, OLD, {"a": 103.0, "b": 108.0, "c": 125.0})
    (run,) = tuner.runs
    assert measured == ["a", "b", "c"]
    assert run.best_us == 103.0
    assert (tuner.counts.total, tuner.counts.from_log, run.trials) == (5, 2, 5)
    assert {outcome.candidate.trace_json for outcome in run.tried()} == set(OLD)


def test_what_is_slower_now_is_tuned_anew(tmp_path: Path) -> None:
    tuner, measured = tuned(tmp_path, OLD, {"a": 150.0, "b": 140.0, "c": 160.0})
    (run,) = tuner.runs
    assert measured == ["a", "b", "c"]
    assert (run.best_us, tuner.counts.total, tuner.counts.from_log) == (140.0, 3, 0)
    assert {outcome.candidate.trace_json for outcome in run.tried()} == {"a", "b", "c"}


def test_half_a_batch_is_half_a_batch_of_the_history() -> None:
    run = TaskRun(TASK)
    run.advance(4, 16)
    assert run.best_after == [], "nothing was timed"
    for trials, best_us, history in [
        (4, 90.0, [90.0]),
        (8, 80.0, [80.0]),
        (4, 70.0, [80.0, 70.0]),
        (16, 60.0, [80.0, 70.0, 60.0]),
        (0, 60.0, [80.0, 70.0, 60.0]),
        (28, 50.0, [80.0, 70.0, 60.0, 50.0]),
        (1, 40.0, [80.0, 70.0, 60.0, 50.0, 40.0]),
    ]:
        run.best_us = best_us
        run.advance(trials, 16)
        assert run.best_after == history


def test_nothing_is_timed_again_twice(tmp_path: Path) -> None:
    log = TuningLog.open(str(tmp_path / "log.db"))
    job = log.add_job(JobSpec("m", "ab" * 32, "{}", 100), "here:1", embedded=True)
    log.set_tasks(job.job_id, [TASK])
    best = Candidate("w", "a")
    log.record(job.job_id, DEVICE.kind, best, _ok(best, 104.0, "again"))
    log.close()
    tuner, measured = tuned(tmp_path, OLD, {})
    assert measured == []
    assert (tuner.counts.total, tuner.counts.from_log) == (5, 5)
    assert tuner.runs[0].best_us == 104.0
