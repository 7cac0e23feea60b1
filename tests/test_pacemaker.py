"""The pacemaker: whether a device is slowed down, and what is then done with its times.

The device is a fake one, whose slowness is the test's: no test can slow a real one at will, to the
sample.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from device_agent import pacemaker
from device_agent.artifacts import ArtifactCache
from device_agent.devices.replay import describe_replay
from device_agent.kernel_leases import KernelLease, KernelLeases
from device_agent.kernel_run import MOST_DOUBTS, KernelRun
from device_agent.kernel_runner import ChildLostError, Loaded, Outcome
from device_agent.pacemaker import (
    EVERY_S,
    FASTEST_S,
    MAX_KNOWN,
    SLOWEST_S,
    TELLING_RUNS,
    YIELD,
    Pace,
    Pacemaker,
)
from device_agent.timing import Plan, Progress
from device_agent.turn import TimingTurn
from protos.records import (
    Artifact,
    EvaluatorConfig,
    KernelWork,
    Measurement,
    MeasurementStatus,
    TensorSpec,
    Trial,
)

BEST = Artifact.of(b"best")
AS_FAST = Artifact.of(b"as fast")
WORK = KernelWork("w", (TensorSpec((4,), "float32"),) * 2, 1, 0, BEST, EvaluatorConfig(), ())
POLICY = EvaluatorConfig(
    repeat=2, hopeless_ratio=1.5, max_repeat=12, contender_ratio=1.08, precision=0.02, looks=2
)
OFTEN = 1_000
PACEMAKER = 7


class SlowedDevice:
    """A fake runner. Every kernel takes 1 ms, times what ``moods`` gives for each sample."""

    def __init__(self, moods: Iterable[float]) -> None:
        self._moods = iter(moods)
        self._numbers = itertools.count(1)
        self.sampled: list[int] = []
        self.fault: Callable[[], Outcome] | None = None

    def prepare(self, work: KernelWork, reference: bytes) -> None:
        pass

    def is_prepared(self, work: KernelWork) -> bool:
        return True

    def load(self, work: KernelWork, artifact: bytes) -> Loaded:
        return Loaded(next(self._numbers), Outcome(MeasurementStatus.OK))

    def check(self, child: int, timeout_s: float) -> Outcome:
        return Outcome(MeasurementStatus.OK, repeats_s=(1e-3,), busy_s=1e-3)

    def sample(self, child: int, plan: Plan, timeout_s: float) -> Outcome:
        self.sampled.append(child)
        if self.fault is not None:
            return self.fault()
        repeats_s = tuple(1e-3 * next(self._moods) for _ in range(max(plan.repeat, 1)))
        return Outcome(MeasurementStatus.OK, "", repeats_s, busy_s=sum(repeats_s))

    def end(self, child: int) -> None:
        pass

    def close(self) -> None:
        pass


def _pacemaker(device: SlowedDevice, pace: Pace) -> Pacemaker:
    return Pacemaker(device, TimingTurn(()), pace, BEST, PACEMAKER, 10.0)


def _known(seconds: float = 1e-3) -> Pace:
    pace = Pace()
    pace.note(BEST, [seconds] * TELLING_RUNS)
    return pace


NEVER = threading.Event()


# ------------------------------------------------------------------------- what it says


def test_a_device_that_is_fast_is_asked_twice_and_then_stands_for_a_while() -> None:
    device = SlowedDevice([1.0, 1.04, 1.0, 1.0])
    one = _pacemaker(device, _known())
    assert one.wait(NEVER, look=False) is True
    assert len(device.sampled) == 1
    assert one.wait(NEVER, look=False) is None, f"asked again within {EVERY_S} s"
    assert one.wait(NEVER, look=True) is True
    assert len(device.sampled) == 2


def test_a_slow_device_is_waited_for() -> None:
    device = SlowedDevice([1.3, 1.0, 1.3, *[1.3] * 6, 1.0, 1.0])
    assert _pacemaker(device, _known()).wait(NEVER, look=False) is False
    assert len(device.sampled) == 6, "a look at two runs, or at a third one if they disagree"


def test_patience_ends_and_the_pace_gives_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacemaker, "MOST_PATIENCE_S", 0.02)
    device, pace = SlowedDevice(itertools.repeat(1.3)), _known()
    one = _pacemaker(device, pace)
    assert one.wait(NEVER, look=False) is False
    assert pace.usual_s(BEST) == pytest.approx(1e-3 * YIELD)
    runs = len(device.sampled)
    assert one.wait(NEVER, look=True) is True, "the times are taken as they are"
    assert len(device.sampled) == runs
    for _ in range(OFTEN):
        pace.spend(1.0)
        if _pacemaker(device, pace).wait(NEVER, look=True):
            break
    else:
        pytest.fail("a device that stays slower is never believed")
    assert pace.usual_s(BEST) == pytest.approx(1.3e-3, rel=0.05)


def test_who_is_stopped_does_not_wait() -> None:
    stopped = threading.Event()
    stopped.set()
    device = SlowedDevice([])
    _pacemaker(device, _known()).wait(stopped, look=True)
    assert device.sampled == []


def test_an_unknown_program_sets_the_pace() -> None:
    pace = Pace()
    assert _pacemaker(SlowedDevice([1.02, 1.0]), pace).wait(NEVER, look=False) is True
    assert pace.usual_s(BEST) == pytest.approx(1.01e-3)


def _lost() -> Outcome:
    raise ChildLostError


@pytest.mark.parametrize(
    "fault",
    [
        lambda: Outcome(MeasurementStatus.CRASHED, "a signal"),
        lambda: Outcome(MeasurementStatus.OK, "", (2 * SLOWEST_S,)),
        lambda: Outcome(MeasurementStatus.OK, "", (FASTEST_S / 2,)),
        _lost,
    ],
)
def test_one_that_is_of_no_use_is_not_asked_again(fault: Callable[[], Outcome]) -> None:
    device = SlowedDevice([])
    device.fault = fault
    one = _pacemaker(device, Pace())
    assert one.wait(NEVER, look=True) is True
    assert one.wait(NEVER, look=True) is True
    assert device.sampled == [PACEMAKER]


def test_what_is_known_to_be_too_short_or_too_long_is_not_even_loaded() -> None:
    for seconds in (FASTEST_S / 2, 2 * SLOWEST_S):
        assert not _known(seconds).suits(BEST)
    assert _known(1e-3).suits(BEST)
    assert Pace().suits(BEST), "nothing is known"


def test_a_lease_tells_what_is_usual() -> None:
    pace = _known(1.1e-3)
    one = _pacemaker(SlowedDevice(itertools.repeat(1.0)), pace)
    for _ in range(TELLING_RUNS):
        one.wait(NEVER, look=True)
    one.note()
    assert pace.usual_s(BEST) == pytest.approx(1e-3)


def test_a_slow_moment_does_not_make_a_program_useless() -> None:
    device = SlowedDevice([30.0, 30.0, 1.0, 1.0])
    assert _pacemaker(device, _known()).wait(NEVER, look=True) is False
    assert len(device.sampled) == 2


def test_the_pace_is_the_lowest_median_and_its_memory_is_bounded() -> None:
    pace = _known(2e-3)
    pace.note(BEST, [1e-3, 3e-3, 3e-3, 3e-3, 3e-3, 3e-3])
    assert pace.usual_s(BEST) == 2e-3
    pace.note(BEST, [1e-3] * (TELLING_RUNS - 1))
    assert pace.usual_s(BEST) == 2e-3, "too few"
    pace.note(BEST, [1e-3, 1.5e-3, 1.5e-3, 1.5e-3, 1.5e-3, 3e-3])
    assert pace.usual_s(BEST) == 1.5e-3
    for number in range(MAX_KNOWN):
        pace.set(Artifact.of(number.to_bytes(4, "big")), 1.0)
    assert pace.usual_s(BEST) is None


# ------------------------------------------------------------------------- what follows


def _measured(
    device: SlowedDevice, trial: Artifact, paced: bool, config: EvaluatorConfig = POLICY
) -> Measurement:
    """What is reported of a candidate of a task whose best is known to take a millisecond."""
    reported: list[Measurement] = []
    leases = KernelLeases(
        describe_replay("fake", '{"kind":"llvm","mcpu":"cortex-a72","num-cores":1}', 0.1),
        ArtifactCache(lambda artifact: artifact.data),
        device,
        TimingTurn(()),
        reported.append,
        threading.Event(),
    )
    first = KernelWork(
        *(WORK.workload_key, WORK.args, 1, 0, BEST, config, (Trial("best", BEST),)),
    )
    leases.execute(KernelLease("first", "job", first, threading.Event(), lambda: False))
    work = KernelWork(
        *(WORK.workload_key, WORK.args, 1, 0, BEST, config, (Trial("c", trial),)),
        best_us=1000.0,
        pacemaker=BEST if paced else None,
    )
    leases.execute(KernelLease("second", "job", work, threading.Event(), lambda: False))
    best, measured = reported
    assert best.latency_us == pytest.approx(1000.0)
    return measured


FIRST_LEASE = [1.0] * 7
"""Samples of the best, which nobody knows then: two, and five more, which tell its median."""


def test_a_slowed_device_would_deceive_us() -> None:
    device = SlowedDevice([*FIRST_LEASE, *[1.3] * 4, *[1.0] * 20])
    assert _measured(device, AS_FAST, paced=False).latency_us == pytest.approx(1300.0)


def test_nothing_is_timed_while_the_device_is_slow() -> None:
    device = SlowedDevice([*FIRST_LEASE, *[1.3] * 8, *[1.0] * 20])
    assert _measured(device, AS_FAST, paced=True).latency_us == pytest.approx(1000.0)


def test_a_look_at_a_device_that_turned_slow_is_not_counted() -> None:
    """The pacemaker is fast, both looks at the candidate are slow, and so is the pacemaker then."""
    device = SlowedDevice([*FIRST_LEASE, 1.0, 1.0, *[1.3] * 4, *[1.3] * 4, *[1.0] * 20])
    measured = _measured(device, AS_FAST, paced=True)
    assert measured.status is MeasurementStatus.OK
    assert measured.latency_us == pytest.approx(1000.0)


@pytest.mark.parametrize(
    ("factor", "status"), [(1.3, MeasurementStatus.SUSPECT), (1.1, MeasurementStatus.OK)]
)
def test_what_a_device_times_that_stays_slow_is_suspect(
    factor: float, status: MeasurementStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacemaker, "MOST_PATIENCE_S", 0.02)
    device = SlowedDevice([*FIRST_LEASE, *[factor] * 100_000])
    config = replace(POLICY, canary_every=16, canary_drift=0.15)
    measured = _measured(device, AS_FAST, paced=True, config=config)
    assert measured.status is status
    assert ("1.30 times what is usual" in measured.error) is (status is MeasurementStatus.SUSPECT)
    assert measured.repeats_s


def test_only_looks_are_doubted_and_not_for_ever() -> None:
    run = KernelRun(Trial("c", AS_FAST), Loaded(1, Outcome(MeasurementStatus.OK)))
    assert not run.doubt(POLICY, 1000.0), "it has failed"
    run.progress = Progress(2e-3, looks=2)
    for _ in range(MOST_DOUBTS):
        assert run.doubt(POLICY, 1000.0)
        assert run.progress.looks == 1
        run.progress = Progress(2e-3, looks=2)
    assert not run.doubt(POLICY, 1000.0)
    full = KernelRun(Trial("c", AS_FAST), Loaded(1, Outcome(MeasurementStatus.OK)))
    full.progress = Progress(1e-3, (1e-3,) * POLICY.max_repeat, looks=3)
    assert not full.doubt(POLICY, 1000.0), "it has had all its samples"
