"""Which record of each task goes into the model (pure).

The fastest kernel by itself is not always the fastest in the model. Threads cost more there: the
pool must be woken between kernels that don't use it, and what one kernel's threads wrote lies in
the caches of other cores than the next one's threads read from. How much that is depends on model
and machine, so a few handicaps for kernels with threads are tried, and the whole model decides.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from coordinator.search.traces import uses_threads
from coordinator.tuning_log import Evidence

THREAD_HANDICAPS_US = (0.0, 3.0, 6.0, 12.0, 30.0)
"""Microseconds by which a kernel with threads must beat one without."""

USUAL_HANDICAPS_US = THREAD_HANDICAPS_US[1:2]
"""Where only one is tried."""

Selection = Mapping[str, Evidence]
"""A candidate for each workload key."""


def select(known: Iterable[Evidence], handicap_us: float) -> Evidence | None:
    """The candidate with the lowest latency, handicap included; None if none is right."""
    candidates = contenders(known)
    flattery = _flattery(candidates)

    def cost_us(item: Evidence) -> float:
        latency_us = float("inf") if item.pooled_us is None else item.pooled_us
        if not item.finals_s:
            latency_us *= flattery
        return latency_us + (handicap_us if uses_threads(item.candidate.trace_json) else 0.0)

    return min(candidates, key=cost_us, default=None)


def _flattery(known: Iterable[Evidence]) -> float:
    """By how much a task's single measurements flatter: finals over search, at least 1.

    Those without finals are judged with it beside those with.
    """
    ratios = [
        item.pooled_us / item.latency_us
        for item in known
        if item.finals_s and item.latency_us and item.pooled_us
    ]
    return max(1.0, statistics.median(ratios)) if ratios else 1.0


def contenders(known: Iterable[Evidence]) -> list[Evidence]:
    """Who may be selected: of each kind those of the finals, if there were any.

    One without finals was slower than the finalists, or has not met them yet. It may be selected if
    it was faster in its search than any of them was in theirs: then it has come later.
    """
    right = [item for item in known if item.latency_us is not None]
    found = []
    for threads in (True, False):
        kind = [item for item in right if uses_threads(item.candidate.trace_json) is threads]
        bars_us = [item.latency_us for item in kind if item.finals_s and item.latency_us]
        bar_us = min(bars_us, default=float("inf"))
        found += [item for item in kind if item.finals_s or (item.latency_us or 0.0) < bar_us]
    return found


def selections(
    known: Mapping[str, Sequence[Evidence]], handicaps_us: Sequence[float] = THREAD_HANDICAPS_US
) -> list[Selection]:
    """What the handicaps select, each different selection once; ``known`` is by workload key."""
    found: list[Selection] = []
    for handicap_us in handicaps_us:
        chosen = {key: select(items, handicap_us) for key, items in known.items()}
        selection = {key: item for key, item in chosen.items() if item is not None}
        if selection not in found:
            found.append(selection)
    return found
