"""What the canary's time says of the device (pure): values in, values out.

The reference is the median of the first REFERENCE_RUNS runs in which the agent's canary agreed with
itself. A canary that is slower than it says that the device is slowed down or shared just now. One
that is faster, several times in a row, says that it was so when the reference was taken, and one
that is slower by the same factor for long, that this is how fast the device is by now: then the
reference is taken anew.
"""

from __future__ import annotations

import enum
import math
import statistics
from dataclasses import dataclass, replace

from protos.records import EvaluatorConfig, Measurement, MeasurementStatus

REFERENCE_RUNS = 3
SETTLED_RUNS = 12
"""Slower runs in a row that agree with each other: the device has settled, at another speed. With
the pauses between them, and its leases given back meanwhile, that is a quarter of a minute."""

TRIES = 3
"""How often a canary that is off is run before a lease is given back."""

PAUSE_S = 0.7
"""Between two of them: most of what disturbs a device is short."""

IN_DOUBT = (MeasurementStatus.OK, MeasurementStatus.TIMED_OUT)
"""What depends on how fast the device was; a crash or a wrong output does not."""


@dataclass(frozen=True)
class Reference:
    """What the canary takes on this device: ``runs_s``, REFERENCE_RUNS of them once it is known.

    ``off_s`` are the latest runs in a row that were off it and agree with each other.
    """

    runs_s: tuple[float, ...] = ()
    off_s: tuple[float, ...] = ()

    @property
    def known(self) -> bool:
        """Whether there were enough runs."""
        return len(self.runs_s) >= REFERENCE_RUNS

    @property
    def seconds(self) -> float | None:
        """What it takes on this device; None until that is known."""
        return statistics.median(self.runs_s) if self.known else None

    def ratio(self, latest_s: float) -> float:
        """A run's time over the reference, or over what is there of it; 1 if nothing is."""
        if not math.isfinite(latest_s):
            return math.inf
        return latest_s / statistics.median(self.runs_s) if self.runs_s else 1.0


def noted(reference: Reference, latest_s: float, config: EvaluatorConfig) -> Reference:
    """The reference after another run; a failed one takes infinitely long."""
    if not math.isfinite(latest_s):
        return replace(reference, off_s=())
    ratio = reference.ratio(latest_s)
    off = config.drifts(ratio)
    if not reference.known:
        if off and ratio < 1:
            return Reference((latest_s,))  # what came before was disturbed
        return reference if off else Reference((*reference.runs_s, latest_s))
    if not off:
        return replace(reference, off_s=())
    off_s = (*reference.off_s, latest_s)
    if config.drifts(max(off_s) / min(off_s)):
        off_s = (latest_s,)
    if len(off_s) >= (REFERENCE_RUNS if ratio < 1 else SETTLED_RUNS):
        return Reference(off_s[-REFERENCE_RUNS:])
    return replace(reference, off_s=off_s)


class Step(enum.Enum):
    """What to do after a canary that ran before a measurement."""

    MEASURE = 1
    AGAIN = 2
    WAIT = 3
    GIVE_BACK = 4


def next_step(reference: Reference, drifts: bool, runs: int) -> Step:
    """What to do after ``runs`` canaries; ``reference`` has taken them into account."""
    if reference.known and not drifts:
        return Step.MEASURE
    if runs >= TRIES + (0 if reference.known else REFERENCE_RUNS):
        return Step.GIVE_BACK
    return Step.WAIT if drifts else Step.AGAIN


def judged(measurement: Measurement, ratio: float) -> Measurement:
    """A measurement as it is reported after the canary that followed it."""
    circumstances = measurement.circumstances
    if circumstances is None:
        return measurement
    judged_by = replace(measurement, circumstances=replace(circumstances, canary_ratio=ratio))
    if measurement.status not in IN_DOUBT or not circumstances.evaluator.drifts(ratio):
        return judged_by
    error = f"{in_words(ratio)} after this"
    if measurement.error:
        error += f"; {measurement.error}"
    return replace(judged_by, status=MeasurementStatus.SUSPECT, error=error)


def in_words(ratio: float) -> str:
    """What the canary did, for people."""
    if not math.isfinite(ratio):
        return "the canary failed"
    return f"the canary took {ratio:.2f} times its reference"
