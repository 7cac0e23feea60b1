"""The finals as a job plays them: a real log, and a device that is made up."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from coordinator.experiments import EVALUATOR, Experiments, Lab
from coordinator.finals import Finals, final_evaluator, reserve_s
from coordinator.fleet.fleet import Fleet
from coordinator.stages import StageClock
from coordinator.task_run import TaskRun
from coordinator.tuning_log import TuningLog
from device_agent.build import BuildOutcome
from device_agent.timing import Progress, next_plan
from protos.records import (
    UNTUNED_TRACE,
    Artifact,
    Candidate,
    Circumstances,
    Device,
    EvaluatorConfig,
    JobSpec,
    Measurement,
    MeasurementStatus,
    Task,
    Telemetry,
)

DEVICE = Device("d", "{}", "a CPU", (0,), 1)
NOISE = 0.02


class Bench(Experiments):
    """Times by name: a candidate takes ``true_us[trace]``, give or take the noise."""

    def __init__(self, lab: Lab, true_us: dict[str, float]) -> None:
        super().__init__(lab)
        self.rounds: list[list[str]] = []
        self.built: list[str] = []
        self.failing: set[str] = set()
        self.hanging = False
        self._lab = lab
        self._true_us = true_us
        self._random = random.Random(0)
        self._leases = 0

    async def reference(self, run: TaskRun) -> Artifact:
        return Artifact.of(b"untuned")

    async def build(self, run: TaskRun, candidate: Candidate) -> BuildOutcome:
        self.built.append(candidate.trace_json)
        artifact = Artifact.of(candidate.trace_json.encode())
        return BuildOutcome(artifact, MeasurementStatus.OK, "", 0.0, ())

    async def again(
        self,
        run: TaskRun,
        trials: Sequence[tuple[Candidate, Artifact]],
        evaluator: EvaluatorConfig,
    ) -> list[Measurement]:
        self.rounds.append([candidate.trace_json for candidate, _ in trials])
        if self.hanging:
            await asyncio.Event().wait()
        return [self.measure(candidate, artifact, evaluator) for candidate, artifact in trials]

    def measure(
        self, candidate: Candidate, artifact: Artifact, evaluator: EvaluatorConfig
    ) -> Measurement:
        self._leases += 1
        true_s = self._true_us[candidate.trace_json] * 1e-6
        samples = tuple(true_s * (1 + self._random.uniform(-NOISE, NOISE)) for _ in range(6))
        fails = candidate.trace_json in self.failing
        measurement = Measurement(
            candidate.workload_key,
            candidate.key,
            MeasurementStatus.WRONG_OUTPUT if fails else MeasurementStatus.OK,
            f"lease-{id(self)}-{self._leases}",
            artifact.sha256,
            () if fails else samples,
            circumstances=Circumstances(
                "d", {}, evaluator, 1, (0,), False, Telemetry(), Telemetry()
            ),
        )
        lab = self._lab
        lab.tuning_log.record(lab.job_id, lab.device.kind, candidate, measurement)
        return measurement


@pytest.fixture
def log(tmp_path: Path) -> Iterator[TuningLog]:
    opened = TuningLog.open(str(tmp_path / "log.db"))
    yield opened
    opened.close()


def bench(log: TuningLog, **true_us: float) -> tuple[Bench, TaskRun]:
    """A job with one task, each candidate measured once in its search; ``u`` is the untuned."""
    spec = JobSpec("m", "0" * 64, "{}", trials=100)
    job = log.add_job(spec, "test", embedded=True)
    task = Task("a task", "w", "{}", 1, (), 1, 1.0)
    log.set_tasks(job.job_id, [task])
    fleet = Fleet(log)
    fleet.registry.join(DEVICE)
    lab = Lab(job.job_id, 0, DEVICE, log, fleet, cast(Any, None), StageClock(), EVALUATOR)
    times = {UNTUNED_TRACE if name == "u" else name: us for name, us in true_us.items()}
    found = Bench(lab, times)
    if not log.evidence("w", DEVICE.kind):
        for trace in times:
            found.measure(Candidate("w", trace), Artifact.of(trace.encode()), EVALUATOR)
    return found, TaskRun(task, untuned_us=times.get(UNTUNED_TRACE), best_us=min(times.values()))


def hold(made: tuple[Bench, TaskRun], deadline: float | None = None) -> TaskRun:
    experiments, run = made
    finals = Finals(experiments._lab, experiments, [run], lambda: None)
    asyncio.run(finals.hold(deadline))
    return run


def test_the_winner_has_an_interval_and_the_log_knows_that_it_is_over(log: TuningLog) -> None:
    times = {"u": 50.0, "a": 10.0, "b": 10.8, "c": 20.0}
    first = bench(log, **times)
    run = hold(first)
    assert run.final is not None
    assert run.final.low_us is not None
    assert run.final.high_us is not None
    assert run.final.low_us <= run.final.latency_us <= run.final.high_us
    assert run.final.latency_us == pytest.approx(10.0, rel=NOISE)
    assert run.final.tied == 0
    assert {trace for played in first[0].rounds for trace in played} == {"a", "b"}
    assert sorted(first[0].built) == ["a", "b"], "each is built once"
    progress = run.progress()
    assert (progress.tuned_us, progress.tuned_low_us) == (run.final.latency_us, run.final.low_us)

    second = bench(log, **times)
    assert hold(second).final == run.final
    assert second[0].rounds == []


def test_a_tie_is_said(log: TuningLog) -> None:
    made = bench(log, u=50.0, a=10.0, b=10.01, c=10.02)
    run = hold(made)
    assert run.final is not None
    assert run.final.tied == 2
    assert 2 <= len(made[0].rounds) <= 5
    firsts = [played[0] for played in made[0].rounds]
    assert len(set(firsts)) > 1, "the order rotates"


def test_one_that_turns_out_wrong_never_wins(log: TuningLog) -> None:
    made = bench(log, u=50.0, a=10.0, b=10.8)
    made[0].failing = {"a"}
    run = hold(made)
    assert run.final is not None
    assert run.final.latency_us == pytest.approx(10.8, rel=NOISE)


def test_what_the_search_built_is_not_built_again(log: TuningLog) -> None:
    made = bench(log, u=50.0, a=10.0, b=10.4)
    known = Candidate("w", "a")
    made[1].keep(Artifact.of(b"a"), made[0].measure(known, Artifact.of(b"a"), EVALUATOR))
    hold(made)
    assert made[0].built == ["b"]


def test_when_time_is_over_the_finals_end_and_go_on_the_next_time(log: TuningLog) -> None:
    times = {"u": 50.0, "a": 10.0, "b": 10.4}
    made = bench(log, **times)
    made[0].hanging = True
    began = time.monotonic()
    assert hold(made, began + 0.2).final is None
    assert time.monotonic() - began < 5.0
    none_left = bench(log, **times)
    hold(none_left, began)
    assert none_left[0].rounds == []
    assert hold(bench(log, **times)).final is not None


def test_the_untuned_program_may_win(log: TuningLog) -> None:
    run = hold(bench(log, u=10.0, a=10.7))
    assert run.final is not None
    assert run.untuned_us == run.final.latency_us


def test_finals_take_the_same_samples_of_everybody() -> None:
    policy = final_evaluator(EVALUATOR)
    unknown = next_plan(policy, 1.0, Progress(1e-3, (1e-3,) * 30, 0.030, 0.1))
    assert unknown is not None, "neither how slow nor how well known it is ends it"
    assert next_plan(policy, 1.0, Progress(1e-3, (1e-3,) * 35, 0.035, 0.1)) is None
    assert policy.min_repeat_ms == EVALUATOR.min_repeat_ms


def test_what_is_reserved_is_a_small_share_of_the_limit() -> None:
    assert reserve_s(30.0, 100, 1) == pytest.approx(1.5)
    assert reserve_s(3600.0, 10, 1) < 20.0
    assert reserve_s(3600.0, 10, 2) == reserve_s(3600.0, 10, 1) / 2
