"""How often to run a kernel and when to stop: decisions only, no clock."""

from __future__ import annotations

import math
from dataclasses import dataclass

from protos.records import EvaluatorConfig

FIRST_RUN_ALLOWANCE_S = 0.005
"""What a first run may cost beside the kernel: page faults, cold caches, waking threads."""

SAFETY = 0.8
"""Share of the time that is left which may be planned for."""

MAX_NUMBER = 1_000_000
FLUSH_BYTES = 64 << 20
"""Written before a repeat to empty the caches; larger than the last level of those we have."""

WARM_UP_BELOW_S = 0.2
"""A model slower than this is timed without an extra run first: its own run warms it."""


@dataclass(frozen=True)
class Plan:
    """``repeat`` samples of ``number`` runs, more where that is under ``min_repeat_ms``."""

    number: int
    repeat: int
    min_repeat_ms: int
    flush_bytes: int = 0

    @property
    def runs(self) -> int:
        """All runs, with the evaluator's own warm-up."""
        return self.number * self.repeat + 1


def is_hopeless(config: EvaluatorConfig, best_us: float, run_s: float, first: bool) -> bool:
    """Whether a candidate that took ``run_s`` is too slow to be worth repeats.

    The first run is judged with an allowance: for a kernel of microseconds it says little.
    """
    if config.hopeless_ratio <= 0 or best_us <= 0:
        return False
    allowance = FIRST_RUN_ALLOWANCE_S if first else 0.0
    return run_s > config.hopeless_ratio * best_us * 1e-6 + allowance


def plan(config: EvaluatorConfig, run_s: float, left_s: float) -> Plan | None:
    """How to time a kernel whose warm run takes ``run_s`` in the ``left_s`` before the time-out.

    Repeats are given up before runs per repeat are. None: there is no time for more than the run
    that was made.
    """
    run_s = max(run_s, 1e-9)
    affordable = math.floor(max(left_s, 0.0) * SAFETY / run_s)
    if affordable < 2:
        return None
    repeat = max(config.repeat, 1)
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
