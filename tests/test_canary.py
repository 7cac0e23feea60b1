"""The canary: what its times say, and what the agent does about it."""

from __future__ import annotations

import contextlib
import math
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from coordinator.canary import canary_workload
from coordinator.experiments import EVALUATOR, evaluator_of
from device_agent import canary
from device_agent.artifacts import ArtifactCache
from device_agent.build import build_kernel
from device_agent.canary import (
    PAUSE_S,
    REFERENCE_RUNS,
    SETTLED_RUNS,
    TRIES,
    Reference,
    Step,
    next_step,
    noted,
)
from device_agent.devices.cpu import describe_cpu
from device_agent.devices.replay import describe_replay
from device_agent.kernel_run import measure
from device_agent.kernel_runner import KernelRunner, Loaded, Outcome
from device_agent.lease_worker import LeaseWorker
from device_agent.timing import Plan
from protos.records import (
    CANARY_ARGS,
    Artifact,
    Circumstances,
    EvaluatorConfig,
    JobSpec,
    KernelWork,
    Lease,
    LeaseFinished,
    Measurement,
    MeasurementStatus,
    Telemetry,
    Trial,
)

from . import kernels

PATIENCE_S = 200.0
WATCHED = EvaluatorConfig(
    repeat=2, min_repeat_ms=1, timeout_s=20.0, canary_every=16, canary_drift=0.15
)

# ------------------------------------------------------------------------------- decisions


def after(*seconds: float, known: Reference | None = None) -> Reference:
    reference = known or Reference()
    for latest_s in seconds:
        reference = noted(reference, latest_s, WATCHED)
    return reference


def test_the_reference_is_the_median_of_the_first_runs() -> None:
    assert not after(1.0, 1.05).known
    reference = after(1.0, 1.1, 1.02)
    assert reference.known
    assert reference.ratio(1.02) == 1.0
    assert after(1.5, 1.5, known=reference).ratio(1.5) == pytest.approx(1.5 / 1.02)


def test_a_disturbed_first_run_is_no_part_of_the_reference() -> None:
    assert after(3.0, 1.0, 1.0, 1.0).ratio(1.0) == 1.0
    assert after(1.0, 3.0, 1.0, 1.0).ratio(1.0) == 1.0
    assert not after(1.0, math.inf, 1.0).known


def test_a_reference_taken_in_a_disturbance_is_taken_anew() -> None:
    disturbed = after(2.0, 2.0, 2.0)
    assert after(1.0, 1.0, known=disturbed).ratio(1.0) == 0.5
    assert after(1.0, 1.0, 1.0, known=disturbed).ratio(1.0) == 1.0
    assert after(1.0, 1.0, 2.0, 1.0, known=disturbed).ratio(1.0) == 0.5, "not in a row"
    assert after(1.0, 1.5, 1.0, known=disturbed).ratio(1.0) == 0.5, "they do not agree"


def test_a_device_that_settles_at_a_slower_speed_gets_another_reference() -> None:
    known = after(1.0, 1.0, 1.0)
    assert after(*[1.5] * (SETTLED_RUNS - 1), known=known).ratio(1.5) == 1.5
    assert after(*[1.5] * SETTLED_RUNS, known=known).ratio(1.5) == 1.0
    assert after(*[1.5, 2.0] * SETTLED_RUNS, known=known).ratio(1.5) == 1.5, "they do not agree"
    with_a_break = [*[1.5] * 6, 1.0, *[1.5] * 6]
    assert after(*with_a_break, known=known).ratio(1.5) == 1.5


def test_what_follows_a_canary() -> None:
    learning, known = after(1.0), after(1.0, 1.0, 1.0)
    assert next_step(known, False, 1) is Step.MEASURE
    assert next_step(known, True, 1) is Step.WAIT
    assert next_step(known, True, TRIES) is Step.GIVE_BACK
    assert next_step(learning, False, 1) is Step.AGAIN
    assert next_step(learning, True, TRIES) is Step.WAIT
    assert next_step(learning, True, TRIES + REFERENCE_RUNS) is Step.GIVE_BACK


@pytest.mark.parametrize(
    ("ratio", "drifts"), [(1.0, False), (1.1, False), (1.2, True), (0.8, True), (math.inf, True)]
)
def test_drift_goes_both_ways(ratio: float, drifts: bool) -> None:
    assert WATCHED.drifts(ratio) is drifts


@pytest.mark.parametrize(
    ("status", "judged"),
    [
        (MeasurementStatus.OK, MeasurementStatus.SUSPECT),
        (MeasurementStatus.TIMED_OUT, MeasurementStatus.SUSPECT),
        (MeasurementStatus.WRONG_OUTPUT, MeasurementStatus.WRONG_OUTPUT),
        (MeasurementStatus.CRASHED, MeasurementStatus.CRASHED),
    ],
)
def test_only_times_are_in_doubt(status: MeasurementStatus, judged: MeasurementStatus) -> None:
    circumstances = Circumstances("board", {}, WATCHED, 1, (0,), False, Telemetry(), Telemetry())
    measured = Measurement("w", "c", status, "l", "a", (1e-3,), "why", circumstances=circumstances)
    good = canary.judged(measured, 1.05)
    assert (good.status, good.error) == (status, "why")
    assert good.circumstances is not None
    assert good.circumstances.canary_ratio == 1.05
    doubtful = canary.judged(measured, 1.23)
    assert doubtful.status is judged
    assert doubtful.repeats_s == measured.repeats_s
    assert doubtful.latency_us is None
    if judged is MeasurementStatus.SUSPECT:
        assert doubtful.error == "the canary took 1.23 times its reference after this; why"


# ------------------------------------------------------------------------------- the agent


class SetClock:
    """A real zygote whose canary takes as long as the test says: nobody can heat a CPU on demand.

    ``times_s`` are those of the next canaries; the last one stays.
    """

    def __init__(self) -> None:
        target = kernels.target_json(1)
        self.device = describe_cpu("board", target, None, emulated=False)
        self.times_s: list[float] = [1.0]
        self.ran: list[str] = []
        self.canary_ran = threading.Event()
        self.candidate_ran = threading.Event()
        self._real = KernelRunner(self.device)
        self._canary = 0
        self._time_s = 1.0

    def prepare(self, work: KernelWork, reference: bytes) -> None:
        self._real.prepare(work, reference)

    def is_prepared(self, work: KernelWork) -> bool:
        return self._real.is_prepared(work)

    def load(self, work: KernelWork, artifact: bytes) -> Loaded | None:
        loaded = self._real.load(work, artifact)
        if loaded is not None and work.args == CANARY_ARGS:
            self._canary = loaded.child
        return loaded

    def check(self, child: int, timeout_s: float) -> Outcome:
        outcome = self._real.check(child, timeout_s)
        if child != self._canary:
            self.ran.append("candidate")
            self.candidate_ran.set()
            return outcome
        assert outcome.status is MeasurementStatus.OK, outcome.error
        self.ran.append("canary")
        self._time_s = self.times_s.pop(0) if len(self.times_s) > 1 else self.times_s[0]
        self.canary_ran.set()
        if math.isfinite(self._time_s):
            return outcome
        return Outcome(MeasurementStatus.WRONG_OUTPUT)

    def sample(self, child: int, plan: Plan, timeout_s: float) -> Outcome:
        if child != self._canary:
            return self._real.sample(child, plan, timeout_s)
        return Outcome(MeasurementStatus.OK, "", (self._time_s,) * plan.repeat)

    def end(self, child: int) -> None:
        self._real.end(child)

    def close(self) -> None:
        self._real.close()


class Board:
    """A lease worker with the clock that the test sets, and what it reports."""

    def __init__(self) -> None:
        self.clock = SetClock()
        self.reported: queue.Queue[Any] = queue.Queue()
        artifacts = ArtifactCache(_nothing_to_fetch)
        self.worker = LeaseWorker(self.clock.device, artifacts, self.reported.put, self.clock)
        self.worker.start()

    def run(self, lease: Lease) -> tuple[list[Measurement], LeaseFinished]:
        """The lease's results, and its end."""
        self.worker.submit(lease)
        results: list[Measurement] = []
        while isinstance(record := self.reported.get(timeout=PATIENCE_S), Measurement):
            results.append(record)
        assert isinstance(record, LeaseFinished)
        return results, record


def _nothing_to_fetch(artifact: Artifact) -> bytes:
    raise AssertionError(artifact)


@pytest.fixture
def board() -> Iterator[Board]:
    one = Board()
    with contextlib.closing(one.worker):
        yield one


@pytest.fixture(scope="module")
def canary_artifact() -> Artifact:
    outcome = build_kernel(canary_workload(1), "", kernels.target_json(1))
    assert outcome.artifact is not None, outcome.error
    return outcome.artifact


@pytest.fixture
def lease(canary_artifact: Artifact) -> Callable[..., Lease]:
    def make(*names: str, config: EvaluatorConfig = WATCHED) -> Lease:
        trials = tuple(Trial(f"c{i}", kernels.kernel(name)) for i, name in enumerate(names))
        reference = kernels.kernel("doubled")
        work = KernelWork("workload", kernels.VECTORS, 1, 7, reference, config, trials)
        work = KernelWork(**{**work.__dict__, "canary": canary_artifact})
        return Lease("lease", "job", 3600.0, kernel=work)

    return make


def _ratios(results: list[Measurement]) -> list[float | None]:
    return [m.circumstances.canary_ratio for m in results if m.circumstances is not None]


def test_measurements_are_reported_after_a_good_canary(
    board: Board, lease: Callable[..., Lease]
) -> None:
    board.clock.times_s = [1.0, 1.0, 1.0, 1.1]
    results, finished = board.run(lease("doubled", "wrong", "doubled"))
    results.sort(key=lambda result: result.candidate_key)  # those that fail come first
    assert [result.candidate_key for result in results] == ["c0", "c1", "c2"]
    assert [result.status.name for result in results] == ["OK", "WRONG_OUTPUT", "OK"]
    assert _ratios(results) == [pytest.approx(1.1)] * 3
    assert finished == LeaseFinished("lease", "", pytest.approx(1.1), 1.0)
    assert board.clock.ran == ["canary"] * REFERENCE_RUNS + ["candidate"] * 3 + ["canary"]


def test_a_canary_that_drifts_makes_what_was_before_it_suspect(
    board: Board, lease: Callable[..., Lease]
) -> None:
    config = EvaluatorConfig(**{**WATCHED.__dict__, "canary_every": 2})
    board.clock.times_s = [1.0, 1.0, 1.0, 1.23, 1.0]
    results, finished = board.run(lease("doubled", "wrong", "doubled", config=config))
    results.sort(key=lambda result: result.candidate_key)
    assert [result.status.name for result in results] == ["SUSPECT", "WRONG_OUTPUT", "OK"]
    assert results[0].error == "the canary took 1.23 times its reference after this"
    assert results[0].repeats_s
    assert results[0].latency_us is None
    assert _ratios(results) == [pytest.approx(1.23), pytest.approx(1.23), 1.0]
    assert finished.canary_ratio == pytest.approx(1.23), "it decided"
    assert not finished.error


def test_nothing_is_measured_while_the_canary_is_off(
    board: Board, lease: Callable[..., Lease]
) -> None:
    board.clock.times_s = [1.0, 1.0, 1.0, 1.4]
    (suspect,), _ = board.run(lease("doubled"))
    assert suspect.status is MeasurementStatus.SUSPECT
    board.clock.ran.clear()
    results, finished = board.run(lease("doubled"))
    assert results == []
    assert board.clock.ran == ["canary"] * TRIES
    assert "1.40 times its reference" in finished.error
    assert finished.canary_ratio == pytest.approx(1.4)
    board.clock.times_s = [1.4, 1.0]
    results, finished = board.run(lease("doubled"))
    assert [result.status.name for result in results] == ["OK"], "a short disturbance is waited for"
    assert not finished.error


def test_a_canary_that_computes_nonsense_is_off(board: Board, lease: Callable[..., Lease]) -> None:
    board.clock.times_s = [math.inf]
    results, finished = board.run(lease("doubled"))
    assert results == []
    assert "the canary failed" in finished.error
    assert finished.canary_ratio == math.inf


def test_a_dropped_lease_waits_for_no_canary_and_a_closed_agent_reports_nothing(
    board: Board, lease: Callable[..., Lease]
) -> None:
    board.clock.times_s = [1.0, 1.0, 1.0, 9.0]
    board.run(lease("doubled"))
    board.clock.canary_ran.clear()
    board.worker.submit(lease("doubled"))
    assert board.clock.canary_ran.wait(PATIENCE_S)  # it is off; a pause and another try follow
    board.worker.cancel("lease")
    assert board.reported.get(timeout=PATIENCE_S) == LeaseFinished("lease", "", 9.0, 1.0)
    board.clock.times_s = [1.0]
    board.clock.candidate_ran.clear()
    board.worker.submit(lease("doubled", "endless"))
    assert board.clock.candidate_ran.wait(PATIENCE_S)  # and is held back
    board.worker.close()
    assert board.reported.empty()


def test_an_emulated_cpu_is_not_watched() -> None:
    here = describe_cpu("board", kernels.target_json(1), None, emulated=False)
    emulated = describe_cpu("board", kernels.target_json(1), None, emulated=True)
    spec = JobSpec("a model", "0" * 64, "{}", 1)
    replay = describe_replay("replay", None, 0.1)
    assert evaluator_of(spec, here) == evaluator_of(spec, replay) == EVALUATOR
    assert evaluator_of(spec, emulated).canary_every == 0
    rough = evaluator_of(replace(spec, canary_drift=0.5, cold_cache=True), here)
    assert (rough.canary_drift, rough.cold_cache) == (0.5, True)


def test_a_real_canary_on_this_machine(canary_artifact: Artifact) -> None:
    """Its time is the machine's affair here: only that it runs, is right, and takes a while."""
    config = EvaluatorConfig(number=4, repeat=3, min_repeat_ms=0, timeout_s=20.0)
    work = KernelWork("the canary", CANARY_ARGS, 1, 0, canary_artifact, config, ())
    device = describe_cpu("board", kernels.target_json(1), None, emulated=False)
    with contextlib.closing(KernelRunner(device)) as runner:
        runner.prepare(work, canary_artifact.data)
        for _ in range(2):
            loaded = runner.load(work, canary_artifact.data)
            assert loaded is not None
            outcome = measure(runner, work, loaded)
            assert outcome.status is MeasurementStatus.OK, outcome.error
            assert all(1e-4 < repeat_s < 1.0 for repeat_s in outcome.repeats_s)
    assert PAUSE_S * (TRIES - 1) < 2.0
