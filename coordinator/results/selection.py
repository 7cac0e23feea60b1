"""Which record of each task goes into the model (pure).

The fastest kernel by itself is not always the fastest in the model. Threads cost more there: the
pool must be woken between kernels that don't use it, and what one kernel's threads wrote lies in
the caches of other cores than the next one's threads read from. How much that is depends on model
and machine, so a few handicaps for kernels with threads are tried, and the whole model decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from coordinator.search.traces import uses_threads
from coordinator.tuning_log import Outcome

THREAD_HANDICAPS_US = (0.0, 3.0, 6.0, 12.0, 30.0)
"""Microseconds by which a kernel with threads must beat one without."""

Selection = Mapping[str, Outcome]
"""A record for each workload key."""


def select(outcomes: Iterable[Outcome], handicap_us: float) -> Outcome | None:
    """The record with the lowest latency, handicap included; None if none is right."""

    def cost_us(outcome: Outcome) -> float:
        latency_us = float("inf") if outcome.latency_us is None else outcome.latency_us
        return latency_us + (handicap_us if uses_threads(outcome.candidate.trace_json) else 0.0)

    right = [outcome for outcome in outcomes if outcome.latency_us is not None]
    return min(right, key=cost_us, default=None)


def selections(outcomes: Mapping[str, Sequence[Outcome]]) -> list[Selection]:
    """What the handicaps select, each different selection once; ``outcomes`` by workload key."""
    found: list[Selection] = []
    for handicap_us in THREAD_HANDICAPS_US:
        chosen = {key: select(known, handicap_us) for key, known in outcomes.items()}
        selection = {key: outcome for key, outcome in chosen.items() if outcome is not None}
        if selection not in found:
            found.append(selection)
    return found
