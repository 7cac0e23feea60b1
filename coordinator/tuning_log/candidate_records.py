"""What is known of each candidate of a workload, without reading any trace.

For questions of the whole log: a trace is three kilobytes, and there may be a million of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import sqlalchemy as sa

from protos.records import UNTUNED_TRACE, Candidate, MeasurementStatus

from .evidence import Evidence, Samples, per_turn, pool
from .measurements import Outcome
from .schema import measurements
from .values import numbers_from_json

RECORD_BYTES = 1000
"""Of a measurement and its places in the indexes, about, beside the texts of various lengths."""


class CandidateRecord(NamedTuple):
    """One measurement, as much of it as decides which candidates are the best."""

    id: int
    measured_at: float
    job_id: str | None
    candidate_key: str
    cold_cache: bool
    status: str
    latency_us: float | None
    repeats_s_json: str
    evaluator_json: str | None
    size_bytes: int
    import_id: int | None = None
    tool_versions_key: str | None = None

    @property
    def final(self) -> bool:
        """Whether it belongs to finals."""
        return per_turn(self.evaluator_json) > 0


def records_of(
    connection: sa.Connection, workload_key: str, device_kind: str
) -> list[CandidateRecord]:
    """Every record of a workload on a kind of device, with warm and with cold caches."""
    m = measurements.c
    texts = (m.repeats_s_json, m.error, m.evaluator_json, m.tool_versions_json)
    size = sum((sa.func.coalesce(sa.func.length(text), 0) for text in texts), RECORD_BYTES)
    query = sa.select(
        *(m.id, m.measured_at, m.job_id, m.candidate_key, m.cold_cache, m.status, m.latency_us),
        *(m.repeats_s_json, m.evaluator_json),
        *(sa.cast(size, sa.BigInteger), m.import_id, m.tool_versions_key),
    ).where(m.device_kind == device_kind, m.workload_key == workload_key)
    return [CandidateRecord(*row) for row in connection.execute(query)]


def by_candidate(records: Iterable[CandidateRecord]) -> dict[str, list[CandidateRecord]]:
    """The records of each candidate."""
    found: dict[str, list[CandidateRecord]] = {}
    for record in records:
        found.setdefault(record.candidate_key, []).append(record)
    return found


def evidence_of(
    workload_key: str, candidates: dict[str, list[CandidateRecord]]
) -> dict[str, Evidence]:
    """What ``TuningLog.evidence`` says of each candidate, by its key (pure).

    The key stands where the trace would; of one kind of device and cache.
    """
    known, samples = [], {}
    for key, records in candidates.items():
        stand_in = Candidate(workload_key, key)
        repeated = sum(record.latency_us is not None for record in records) > 1
        for record in records:
            status = MeasurementStatus[record.status]
            known.append(Outcome(record.id, stand_in, status, record.latency_us, "", ""))
            if repeated and record.latency_us is not None:
                repeats_s = numbers_from_json(record.repeats_s_json)
                samples[record.id] = Samples(repeats_s, per_turn(record.evaluator_json))
    return {item.candidate.trace_json: item for item in pool(known, samples)}


def untuned_key(workload_key: str) -> str:
    """The candidate that is the workload as it is."""
    return Candidate(workload_key, UNTUNED_TRACE).key
