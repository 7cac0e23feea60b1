"""One candidate on its way through a device: loaded, checked, timed in pieces."""

from __future__ import annotations

from dataclasses import dataclass, replace

from device_agent.devices.base import Runner
from device_agent.kernel_runner import ChildLostError, LeaseFailedError, Loaded, Outcome
from device_agent.timing import Progress, next_plan
from protos.records import EvaluatorConfig, KernelWork, MeasurementStatus, Telemetry, Trial

MOST_DOUBTS = 3
"""Looks at one candidate that are not counted."""


@dataclass(eq=False)  # each is itself
class KernelRun:
    """A trial whose candidate was loaded. ``progress`` is None until it was checked."""

    trial: Trial
    loaded: Loaded
    progress: Progress | None = None
    waited_s: float = 0.0
    before: Telemetry | None = None
    after: Telemetry | None = None
    doubts: int = 0

    def piece(self, runner: Runner, config: EvaluatorConfig, best_us: float) -> bool:
        """Check it at first, later take some samples; False if it is done, or has failed.

        Raises ChildLostError.
        """
        if self.progress is None:
            return self._check(runner, config.timeout_s)
        plan = next_plan(config, best_us, self.progress)
        if plan is None:
            return False
        left_s = config.timeout_s - self.progress.busy_s
        sampled = runner.sample(self.loaded.child, plan, left_s)
        if sampled.status is not MeasurementStatus.OK:
            failed = replace(self.loaded.outcome, status=sampled.status, error=sampled.error)
            self.loaded = Loaded(0, failed)
            return False
        self.progress = self.progress.after(plan, sampled.repeats_s, sampled.busy_s)
        return next_plan(config, best_us, self.progress) is not None

    def doubt(self, config: EvaluatorConfig, best_us: float) -> bool:
        """Its last look was one at a slow device; True if it needs another one for that."""
        if self.progress is None or not self.loaded.child or self.doubts >= MOST_DOUBTS:
            return False
        progress = replace(self.progress, looks=self.progress.looks - 1)
        if next_plan(config, best_us, progress) is None:
            return False  # it has had all the samples that it may have
        self.progress, self.doubts = progress, self.doubts + 1
        return True

    def _check(self, runner: Runner, timeout_s: float) -> bool:
        checked = runner.check(self.loaded.child, timeout_s)
        right = checked.status is MeasurementStatus.OK
        load_s = self.loaded.outcome.busy_s
        outcome = replace(
            checked,
            repeats_s=(),
            busy_s=checked.busy_s + load_s,
            parts=replace(checked.parts, load_s=load_s),
        )
        self.loaded = Loaded(self.loaded.child if right else 0, outcome)
        if right:
            self.progress = Progress(checked.repeats_s[0], busy_s=checked.busy_s)
        return right

    @property
    def result(self) -> Outcome:
        """What is known, with the samples if it is right."""
        outcome, progress = self.loaded.outcome, self.progress
        if progress is None:
            return outcome
        return replace(
            outcome,
            repeats_s=progress.repeats_s if outcome.status is MeasurementStatus.OK else (),
            busy_s=outcome.busy_s + progress.spent_s,
            parts=replace(outcome.parts, time_s=progress.spent_s),
        )


def measure(runner: Runner, work: KernelWork, loaded: Loaded) -> Outcome:
    """Check and time one candidate without a break, and end it; raises LeaseFailedError."""
    run = KernelRun(Trial("", work.reference), loaded)
    try:
        while run.loaded.child and run.piece(runner, work.evaluator, work.best_us):
            pass
    except ChildLostError as error:
        raise LeaseFailedError("the kernel process ended beside it") from error
    finally:
        runner.end(loaded.child)
    return run.result
