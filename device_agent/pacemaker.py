"""Whether the device is, just now, as fast as it has been: the task's best program tells.

Whoever shares cores, caches and memory with us slows a kernel for a while, from some hundredths of
a second to seconds, and different kernels by different shares: no comparison in turn takes that
out (docs/decisions/0015-the-least-sample.md). So the best program of the task is loaded beside a
lease's candidates and run in between. While it takes longer than it has, nothing is timed.
"""

from __future__ import annotations

import logging
import math
import statistics
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from device_agent.canary import IN_DOUBT
from device_agent.devices.base import Runner
from device_agent.kernel_runner import ChildLostError
from device_agent.timing import Plan
from device_agent.turn import TimingTurn
from protos.records import Artifact, EvaluatorConfig, Measurement, MeasurementStatus

log = logging.getLogger(__name__)

EVERY_S = 0.04
"""How long a run of it stands for the device: what slows one mostly lasts longer."""

SLOWER = 1.05
"""Times what it usually takes; more than that, and the device is slowed down."""

TELLING_RUNS = 6
"""The median of fewer says nothing of what is usual."""

MAJORITY = 2
"""Runs that agree: a single one is disturbed easily, and may find a gap in what disturbs."""

LEAST_RUN_MS = 1
FASTEST_S, SLOWEST_S = 1e-4, 0.02
"""What a pacemaker may take. The time of a shorter program hangs on its process and on
how its threads wake: it would accuse the device for a whole lease. Running a longer one would take
most of the device's time."""

MOST_PATIENCE_S = 1.5
EARNED = 0.1
"""Patience is time to wait: this much is earned each second. Without any left, candidates are timed
as the device is, and SUSPECT if it drifts."""

YIELD = 1.02
"""After a lease whose patience ended, this much more is taken to be usual: a device that has become
slower for good, by its heat for example, is believed after some leases."""

MAX_KNOWN = 4096


class Pace:
    """What programs usually take on one device, by artifact, and how much patience is left.

    That is the lowest median of its runs in a lease: some programs' runs differ by a tenth where
    nothing disturbs them, so the least of them would accuse the device all the time. Used by one
    thread.
    """

    def __init__(self) -> None:
        self._usual_s: OrderedDict[str, float] = OrderedDict()
        self._patience_s = MOST_PATIENCE_S
        self._since = time.monotonic()

    def usual_s(self, artifact: Artifact) -> float | None:
        """Seconds per run, if it is known."""
        return self._usual_s.get(artifact.sha256)

    def suits(self, artifact: Artifact) -> bool:
        """Whether it can be a pacemaker, as far as is known."""
        known_s = self.usual_s(artifact)
        return known_s is None or FASTEST_S <= known_s <= SLOWEST_S

    def note(self, artifact: Artifact, runs_s: Sequence[float]) -> None:
        """It took this long in one lease, seconds per run; too few runs say nothing."""
        if len(runs_s) >= TELLING_RUNS:
            median_s = statistics.median(runs_s)
            self.set(artifact, min(median_s, self._usual_s.get(artifact.sha256, median_s)))

    def give_in(self, artifact: Artifact) -> None:
        """It did not get as fast as it has been."""
        self.set(artifact, self._usual_s[artifact.sha256] * YIELD)

    def patience_s(self) -> float:
        """How long may be waited."""
        now = time.monotonic()
        earned_s = self._patience_s + EARNED * (now - self._since)
        self._patience_s, self._since = min(MOST_PATIENCE_S, earned_s), now
        return self._patience_s

    def spend(self, seconds: float) -> None:
        """So long was waited."""
        self._patience_s = self.patience_s() - seconds

    def set(self, artifact: Artifact, seconds: float) -> None:
        """Take this to be usual."""
        self._usual_s[artifact.sha256] = seconds
        self._usual_s.move_to_end(artifact.sha256)
        while len(self._usual_s) > MAX_KNOWN:
            self._usual_s.popitem(last=False)


class Pacemaker:
    """The task's best program, loaded in ``child`` for one lease; with 0 there is none."""

    def __init__(
        self,
        runner: Runner,
        turn: TimingTurn,
        pace: Pace,
        artifact: Artifact,
        child: int,
        timeout_s: float,
    ) -> None:
        self._runner = runner
        self._turn = turn
        self._pace = pace
        self._artifact = artifact
        self._child = child
        self._timeout_s = timeout_s
        self._looked_at = 0.0
        self._runs_s: list[float] = []
        self._gave_in = False
        self._ratio = 1.0  # of its time over the usual, when patience ended

    def wait(self, stopped: threading.Event, *, look: bool) -> bool | None:
        """Return when the device is as fast as it has been, when it is not waited for any longer,
        or when ``stopped`` is set.

        True if it was so at once, as at the last look; False if it was slower; None if it was not
        looked at, because the last look still stands. ``look`` has it looked at in any case.
        """
        if not look and time.monotonic() - self._looked_at < EVERY_S:
            return None
        at_once = True
        while self._child and not self._gave_in and not stopped.is_set():
            began = time.monotonic()
            if self._is_fast():
                self._looked_at = time.monotonic()
                break
            at_once = False
            self._pace.spend(time.monotonic() - began)
            if self._pace.patience_s() <= 0:
                usual_s = self._pace.usual_s(self._artifact) or math.inf
                self._ratio = statistics.median(self._runs_s[-MAJORITY:]) / usual_s
                log.info("the task's best program takes %.2f times what is usual", self._ratio)
                self._pace.give_in(self._artifact)
                self._gave_in = True
        return at_once

    def note(self) -> None:
        """Its runs in this lease say what is usual, too."""
        self._pace.note(self._artifact, self._runs_s)

    def judged(self, measurement: Measurement, config: EvaluatorConfig) -> Measurement:
        """A measurement as it is reported: in doubt if patience ended at a device that drifts."""
        watched = config.canary_every > 0 and config.drifts(self._ratio)
        if not watched or measurement.status not in IN_DOUBT:
            return measurement
        error = f"the task's best program took {self._ratio:.2f} times what is usual before this"
        if measurement.error:
            error += f"; {measurement.error}"
        return replace(measurement, status=MeasurementStatus.SUSPECT, error=error)

    def _is_fast(self) -> bool:
        fast = slow = 0
        while max(fast, slow) < MAJORITY:
            runs_s = self._run(MAJORITY - max(fast, slow))
            if not runs_s:
                return True
            self._runs_s += runs_s
            usual_s = self._pace.usual_s(self._artifact)
            if usual_s is None:
                usual_s = statistics.median(runs_s)
                self._pace.set(self._artifact, usual_s)
            if not self._pace.suits(self._artifact):
                self._child = 0
                return True
            quick = sum(run_s <= SLOWER * usual_s for run_s in runs_s)
            fast, slow = fast + quick, slow + len(runs_s) - quick
        return fast >= MAJORITY

    def _run(self, count: int) -> Sequence[float]:
        """Seconds per run; none if it is of no use, and then it is not run again."""
        usual_s = self._pace.usual_s(self._artifact)
        number = max(1, round(LEAST_RUN_MS * 1e-3 / usual_s)) if usual_s else 1
        plan = Plan(number, count, LEAST_RUN_MS)
        try:
            with self._turn.measuring():
                outcome = self._runner.sample(self._child, plan, self._timeout_s)
        except ChildLostError:
            self._child = 0
            return ()
        if outcome.status is not MeasurementStatus.OK:
            log.warning("the pacemaker failed: %s", outcome.error)
            self._child = 0
            return ()
        return outcome.repeats_s
