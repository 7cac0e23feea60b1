"""How often to run a kernel and when to stop: decisions only, no clock."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from protos.median import median_interval
from protos.records import EvaluatorConfig

SAFETY = 0.8
"""Share of the time that is left which may be planned for."""

MORE_SAMPLES = 5
"""Taken of a contender before it is looked at again."""

MAX_NUMBER = 1_000_000
FLUSH_BYTES = 64 << 20
"""Written before a repeat to empty the caches; larger than the last level of those we have."""

WARM_UP_BELOW_S = 0.2
"""A model slower than this is timed without an extra run first: its own run warms it."""


@dataclass(frozen=True)
class Plan:
    """``repeat`` samples of ``number`` runs, more where that is under ``min_repeat_ms``.

    With ``repeat`` at 0 it is one run.
    """

    number: int
    repeat: int
    min_repeat_ms: int
    flush_bytes: int = 0

    @property
    def runs(self) -> int:
        """All runs, with the evaluator's own warm-up."""
        return self.number * self.repeat + 1


SINGLE_RUN = Plan(1, 0, 0)
"""Without the evaluator."""


@dataclass(frozen=True)
class Progress:
    """What is known of a candidate's time: its fastest single run (the first one checked it), the
    samples that came after it, what they took, and what all of its runs took; seconds. ``looks``
    counts how often it was its turn: for single runs, and then for samples."""

    run_s: float
    samples_s: tuple[float, ...] = ()
    spent_s: float = 0.0
    busy_s: float = 0.0
    looks: int = 1

    def after(self, plan: Plan, seconds: Sequence[float], took_s: float) -> Progress:
        """With what a plan gave, which took ``took_s``."""
        single = plan == SINGLE_RUN
        return Progress(
            min(self.run_s, *seconds) if single else self.run_s,
            self.samples_s if single else (*self.samples_s, *seconds),
            self.spent_s + took_s,
            self.busy_s + took_s,
            self.looks + 1 if single or self.samples_s else 1,
        )

    @property
    def repeats_s(self) -> tuple[float, ...]:
        """What a measurement reports."""
        return self.samples_s or (self.run_s,)

    @property
    def latency_s(self) -> float:
        """The best guess of one run: as Measurement.latency_us, the least."""
        return min(self.repeats_s)


def next_plan(config: EvaluatorConfig, best_us: float, progress: Progress) -> Plan | None:
    """What to do next with a candidate whose output was right; None: it is done.

    ``repeat`` samples of one that is not hopeless, and then some more at a time of a contender.
    Whoever looks hopeless, or like no contender, gets another look before it is believed: what
    slows a device for a tenth of a second is over by then.
    """
    last_look = progress.looks >= config.looks
    if not progress.samples_s and is_hopeless(config, best_us, progress.run_s):
        return None if last_look else SINGLE_RUN
    count = more_samples(config, best_us, progress.samples_s, progress.spent_s)
    if not count and not last_look and not _capped(config, progress):
        count = max(config.repeat, 1)
    if not count:
        return None
    return plan(config, count, progress.latency_s, config.timeout_s - progress.busy_s)


def _capped(config: EvaluatorConfig, progress: Progress) -> bool:
    """Whether it may have no more samples, however good it is."""
    if len(progress.samples_s) >= config.max_repeat:
        return True
    return 0 < config.max_timing_ms <= progress.spent_s * 1e3


def is_hopeless(config: EvaluatorConfig, best_us: float, run_s: float) -> bool:
    """Whether a candidate that took ``run_s`` is too slow to be worth repeats."""
    if config.hopeless_ratio <= 0 or best_us <= 0:
        return False
    return run_s > config.hopeless_ratio * best_us * 1e-6


def is_contender(config: EvaluatorConfig, best_us: float, latency_s: float) -> bool:
    """Whether a candidate that takes ``latency_s`` so far may be among the task's best."""
    if config.contender_ratio <= 0 or best_us <= 0:
        return True
    return latency_s <= config.contender_ratio * best_us * 1e-6


def more_samples(
    config: EvaluatorConfig, best_us: float, samples_s: Sequence[float], spent_s: float
) -> int:
    """How many samples to take on top of these, which took ``spent_s``; 0: they are enough."""
    taken, least = len(samples_s), max(config.repeat, 1)
    if taken < least:
        return least - taken
    more = min(config.max_repeat - taken, MORE_SAMPLES)
    if config.max_timing_ms:
        left_s = config.max_timing_ms * 1e-3 - spent_s
        more = min(more, math.floor(left_s * taken / max(spent_s, 1e-9)))
    if more <= 0:
        return 0
    if not is_contender(config, best_us, min(samples_s)):
        return 0
    interval_s = median_interval(samples_s)
    if interval_s is None:
        return more
    width_s = interval_s[1] - interval_s[0]
    return 0 if width_s < config.precision * statistics.median(samples_s) else more


def plan(config: EvaluatorConfig, repeat: int, run_s: float, left_s: float) -> Plan | None:
    """How to take ``repeat`` samples of a kernel whose run takes ``run_s`` in ``left_s``.

    That is the time before the time-out. Repeats are given up before runs per repeat are. None:
    there is no time for more than the run that was made.
    """
    run_s = max(run_s, 1e-9)
    affordable = math.floor(max(left_s, 0.0) * SAFETY / run_s)
    if affordable < 2:
        return None
    repeat = max(repeat, 1)
    if config.cold_cache:
        # Each sample is one run after a flush; flushing takes some 20 ms.
        return Plan(1, max(1, min(repeat, affordable - 1)), 0, FLUSH_BYTES)
    number = min(max(config.number, math.ceil(config.min_repeat_ms / 1e3 / run_s), 1), MAX_NUMBER)
    if number * repeat < affordable:
        return Plan(number, repeat, config.min_repeat_ms)
    if number < affordable:
        return Plan(number, (affordable - 1) // number, 0)
    return Plan(affordable - 1, 1, 0)


def needs_warm_up(run_s: float) -> bool:
    """Whether a model's turn begins with an untimed run, after others had the caches."""
    return run_s < WARM_UP_BELOW_S
