"""Which measurements of a workload stay when the log is pruned (pure)."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from .candidate_records import CandidateRecord, by_candidate, evidence_of, untuned_key

DAY_S = 86400.0


@dataclass(frozen=True)
class Retention:
    """What stays whatever its age: the best ``keep`` candidates of each workload, kind of device,
    cache, origin and set of tools, and the newest ``cost_models`` of a kind. All else stays for
    ``older_than_s``."""

    older_than_s: float = 90 * DAY_S
    keep: int = 10
    cost_models: int = 10


@dataclass(frozen=True)
class Going:
    """Records of a workload on one kind of device that may go, a candidate's together.

    ``staying`` are the candidates that keep a record there.
    """

    records: tuple[CandidateRecord, ...] = ()
    staying: frozenset[str] = frozenset()


def going(
    workload_key: str,
    records: Sequence[CandidateRecord],
    keep: int,
    before: float,
    unfinished: Collection[str],
) -> Going:
    """What of a workload's records on one kind of device may go.

    A candidate's records with warm caches, or with cold ones, go together or not at all: a wrong
    output must not be forgotten while a right time is remembered. They stay if one of them is from
    ``before`` or later or an unfinished job's.
    """
    gone: list[CandidateRecord] = []
    staying: set[str] = set()
    for cold in (False, True):
        same = by_candidate(record for record in records if bool(record.cold_cache) is cold)
        best = protected(workload_key, same, keep)
        for key, of_candidate in same.items():
            young = any(record.measured_at >= before for record in of_candidate)
            if young or key in best or any(r.job_id in unfinished for r in of_candidate):
                staying.add(key)
            else:
                gone += of_candidate
    return Going(tuple(gone), frozenset(staying))


def protected(
    workload_key: str, candidates: dict[str, list[CandidateRecord]], keep: int
) -> set[str]:
    """Who stays of the candidates of one kind of device and cache, whatever its age.

    The untuned program, the finalists (of them the winner is chosen), the ``keep`` with the fastest
    records, and as many that nothing disqualifies: by all records, and by those of each origin and
    set of tools alone, as only this farm's with today's tools answer
    (docs/decisions/0031-records-of-elsewhere.md).
    """
    untuned = untuned_key(workload_key)
    stay = {key for key, records in candidates.items() if any(record.final for record in records)}
    origins = _by_origin(candidates)
    for same in (candidates, *(origins if len(origins) > 1 else ())):
        stay |= _best({key: of for key, of in same.items() if key != untuned}, workload_key, keep)
    return stay | {untuned}


def _best(candidates: dict[str, list[CandidateRecord]], workload_key: str, keep: int) -> set[str]:
    fastest_us: dict[str, float] = {}
    for key, records in candidates.items():
        times = [record.latency_us for record in records if record.latency_us is not None]
        if times:
            fastest_us[key] = min(times)
    right_us = {
        key: item.latency_us
        for key, item in evidence_of(workload_key, candidates).items()
        if item.latency_us is not None
    }
    best: set[str] = set()
    for times_us in (fastest_us, right_us):
        best.update(heapq.nsmallest(keep, times_us, key=lambda key: (times_us[key], key)))
    return best


def _by_origin(
    candidates: dict[str, list[CandidateRecord]],
) -> list[dict[str, list[CandidateRecord]]]:
    """The records of this farm and imported ones apart, and those of each set of tools. What never
    was on a device has neither tools nor a time, and is in none."""
    found: dict[tuple[bool, str | None], list[CandidateRecord]] = {}
    for records in candidates.values():
        for record in records:
            origin = record.import_id is not None, record.tool_versions_key
            if record.tool_versions_key is not None or record.latency_us is not None:
                found.setdefault(origin, []).append(record)
    return [by_candidate(records) for records in found.values()]
