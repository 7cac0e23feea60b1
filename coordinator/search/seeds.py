"""Which records of elsewhere are timed first, and what they are good for then (pure).

A record answers for a device only if it was made by this farm, on that kind of device, with the
tools of today. Any other is a seed: the best of them are timed before a search proposes anything of
its own. Where that confirms what they said, the others of their making are believed, too, and the
operator is not tuned again; where it is slower now, they count for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coordinator.tuning_log import Evidence
from protos.records import UNTUNED_TRACE, Candidate

TIMED_AGAIN = 3
"""Of a task's doubtful records, how many are timed again."""

TRIED_OF_ELSEWHERE, TOLD_OF_ELSEWHERE = 4, 8
"""How many programs like those of other kinds of device are tried before a search proposes its own,
and how many candidates of those kinds a search is told of."""

CONFIRMED = 1.1
"""A doubtful record is confirmed if the best one takes no longer than this many times what the best
of them said: between two sessions on one device, times differ by some percent."""


@dataclass(frozen=True)
class Elsewhere:
    """A candidate of another kind of device, and how many float32 elements that CPU's vectors have,
    if that is known."""

    candidate: Candidate
    lanes: int | None = None


def confirmed(best_us: float | None, doubtful: Sequence[Evidence]) -> bool:
    """Whether ``best_us``, the best latency that is sure, is what these records promise."""
    promised_us = _best_us(doubtful)
    return best_us is not None and promised_us is not None and best_us <= CONFIRMED * promised_us


def to_time_again(doubtful: Sequence[Evidence]) -> list[Candidate]:
    """The fastest of the doubtful records, fastest first, without the untuned program."""
    tuned = [item for item in doubtful if item.candidate.trace_json != UNTUNED_TRACE]
    timed = sorted(
        (item.latency_us, item.candidate.key, item.candidate)
        for item in tuned
        if item.latency_us is not None
    )
    return [candidate for _, _, candidate in timed[:TIMED_AGAIN]]


def from_elsewhere(best: Mapping[str, Sequence[Elsewhere]]) -> list[Elsewhere]:
    """Candidates out of the best of other kinds of device, those of each in turn, each once."""
    queues = [
        [one for one in best[kind] if one.candidate.trace_json != UNTUNED_TRACE]
        for kind in sorted(best)
    ]
    found: dict[str, Elsewhere] = {}
    for rank in range(max(map(len, queues), default=0)):
        for queue in queues:
            if rank < len(queue) and len(found) < TOLD_OF_ELSEWHERE:
                found.setdefault(queue[rank].candidate.key, queue[rank])
    return list(found.values())


def _best_us(items: Sequence[Evidence]) -> float | None:
    return min(
        (
            item.latency_us
            for item in items
            if item.latency_us is not None and item.candidate.trace_json != UNTUNED_TRACE
        ),
        default=None,
    )
