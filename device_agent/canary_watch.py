"""Runs the canary beside the measurements of a lease, and holds those back until it is good."""

from __future__ import annotations

import logging
import math
import statistics
import threading
import time
from collections.abc import Callable

from device_agent import canary
from device_agent.canary import Reference, Step
from device_agent.kernel_runner import LeaseFailedError, Outcome
from device_agent.turn import TimingTurn
from protos.records import (
    CANARY_ARGS,
    Artifact,
    EvaluatorConfig,
    KernelWork,
    Measurement,
    MeasurementStatus,
)

log = logging.getLogger(__name__)

CANARY_EVALUATOR = EvaluatorConfig(number=4, repeat=3, min_repeat_ms=0, timeout_s=5.0)
"""Three samples of some milliseconds: whoever shares the CPUs gets his turn within one of them."""

MAX_REFERENCES = 16

FRESH_S = 2.0
"""How long a good canary stands for the device before the next measurement."""


class CanaryWatch:
    """What one device's canaries have said since its agent started. Used by one thread.

    ``error`` says why the last one failed, if it did.
    """

    def __init__(
        self,
        run: Callable[[KernelWork, bytes], Outcome],
        turn: TimingTurn,
        closed: threading.Event,
        held_back: Callable[[], str] = str,
    ) -> None:
        """``run`` checks and times a kernel; ``closed`` is set when what runs is being killed.
        ``held_back`` says what holds the device back just now, if anything does: a canary then is
        one that failed, however long it took."""
        self._run = run
        self._turn = turn
        self._closed = closed
        self._held_back = held_back
        self._references: dict[str, Reference] = {}
        self._good_at = -math.inf
        self.error = ""

    @property
    def fresh(self) -> bool:
        """Whether a canary was good a moment ago and nothing has been measured since."""
        return time.monotonic() - self._good_at < FRESH_S

    def spent(self) -> None:
        """Something was measured: the next measurement needs another canary."""
        self._good_at = -math.inf

    def rest(self) -> None:
        """Let the builders have the host before we wait for anything."""
        self._turn.end()

    def reference(self, artifact: Artifact) -> Reference:
        """What is known of this canary's time."""
        return self._references.get(artifact.sha256, Reference())

    def look(self, artifact: Artifact, data: bytes, config: EvaluatorConfig) -> float | None:
        """Run it; its time over the reference, infinite if it failed, None if we are closing."""
        work = KernelWork("the canary", CANARY_ARGS, 1, 0, artifact, CANARY_EVALUATOR, ())
        self._good_at = -math.inf
        latest_s = math.inf
        try:
            outcome = self._run(work, data)
            error = outcome.error or self._held_back()
            if outcome.status is MeasurementStatus.OK and not error:
                latest_s = statistics.median(outcome.repeats_s)
        except LeaseFailedError as failure:
            error = str(failure)
        if self._closed.is_set():
            return None
        if error:
            log.warning("the canary failed: %s", error)
        self.error = error
        before = self.reference(artifact)
        known = canary.noted(before, latest_s, config)
        if before.known and known.runs_s != before.runs_s:
            log.warning(
                "the canary has settled at %.2f times what it took, which is its reference now",
                before.ratio(latest_s),
            )
        self._references.pop(artifact.sha256, None)
        self._references[artifact.sha256] = known
        while len(self._references) > MAX_REFERENCES:
            del self._references[next(iter(self._references))]
        ratio = known.ratio(latest_s)
        if not config.drifts(ratio):
            self._good_at = time.monotonic()
        return ratio


class LeaseGuard:
    """One lease's measurements: none before a good canary, none reported before the next one."""

    def __init__(
        self,
        watch: CanaryWatch,
        work: KernelWork,
        fetch: Callable[[Artifact], bytes],
        report: Callable[[Measurement], None],
        dropped: threading.Event,
    ) -> None:
        self._last: float | None = None
        self._off: float | None = None
        self._watch = watch
        self._config = work.evaluator
        self._canary = work.canary if work.evaluator.canary_every else None
        self._fetch = fetch
        self._report = report
        self._dropped = dropped
        self._held: list[Measurement] = []

    @property
    def canary_ratio(self) -> float | None:
        """That of the canary that decided, as LeaseFinished says it."""
        return self._last if self._off is None else self._off

    @property
    def canary_s(self) -> float | None:
        """What the canary takes on this device, seconds; None if there is none, or until that is
        known."""
        return None if self._canary is None else self._watch.reference(self._canary).seconds

    def ready(self) -> bool:
        """Whether the next measurement may begin; False if the lease was dropped meanwhile.

        Raises LeaseFailedError if the canary stays off its reference for about two seconds.
        """
        if self._canary is None or self._held or self._watch.fresh:
            return True
        runs = 0
        while (ratio := self._look(self._canary)) is not None:
            runs += 1
            known = self._watch.reference(self._canary)
            step = canary.next_step(known, self._config.drifts(ratio), runs)
            if step is Step.MEASURE:
                return True
            if step is Step.GIVE_BACK:
                raise LeaseFailedError(
                    f"{canary.in_words(ratio)}, and it ran {runs} times; nothing is measured on "
                    "this device until it is as it was: see what else runs there, and how hot it "
                    f"is. {self._watch.error}".strip()
                )
            if step is Step.WAIT and self._pause():
                return False
        return False

    def take(self, measurement: Measurement) -> bool:
        """Report it now or later; False if what was held back has turned out to be suspect."""
        if self._canary is None:
            self._report(measurement)
            return True
        self._watch.spent()
        self._held.append(measurement)
        return len(self._held) < self._config.canary_every or self.finish()

    def finish(self) -> bool:
        """Run the canary after what is held back, and report that; False if it is suspect.

        When the agent is closing, it is forgotten: what was not reported is measured again.
        """
        if self._canary is None or not self._held:
            return True
        ratio = self._look(self._canary)
        held, self._held = self._held, []
        if ratio is None:
            return True
        for measurement in held:
            self._report(canary.judged(measurement, ratio))
        if self._config.drifts(ratio):
            self._off = ratio
            return False
        return True

    def _look(self, artifact: Artifact) -> float | None:
        ratio = self._watch.look(artifact, self._fetch(artifact), self._config)
        if ratio is not None:
            self._last = ratio
        return ratio

    def _pause(self) -> bool:
        """Wait a little, the builders having the host; True if the lease is dropped meanwhile."""
        self._watch.rest()
        return self._dropped.wait(canary.PAUSE_S)
