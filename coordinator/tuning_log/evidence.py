"""What all measurements of a candidate say together.

A task's best few are timed again before one of them is declared the winner: its finals
(docs/decisions/0013-finals.md). The fastest of many single measurements is also the luckiest, so a
candidate counts with the median of its finals where it has any, and of all its samples otherwise.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import sqlalchemy as sa

from protos.records import Candidate, EvaluatorConfig, MeasurementStatus

from .measurements import Outcome, outcomes
from .schema import measurements
from .values import from_json, numbers_from_json

DISQUALIFYING = (
    MeasurementStatus.WRONG_OUTPUT,
    MeasurementStatus.CRASHED,
    MeasurementStatus.GARBAGE,
    MeasurementStatus.TIMED_OUT,
)
"""One such record outweighs any number of right ones."""

_IDS_PER_QUERY = 500


@dataclass(frozen=True)
class Samples:
    """The samples of one measurement, seconds per run, and whether it belongs to finals."""

    repeats_s: tuple[float, ...]
    final: bool


@dataclass(frozen=True)
class Evidence:
    """What is known of a candidate.

    ``latency_us`` is the median over the samples of its search; None if none is right, or one of
    its records disqualifies it. ``finals_s`` are its samples in finals, a tuple for each round,
    seconds per run. ``artifact_sha256`` is of its newest right record.
    """

    candidate: Candidate
    latency_us: float | None
    artifact_sha256: str = ""
    finals_s: tuple[tuple[float, ...], ...] = ()

    @property
    def final_samples_us(self) -> list[float]:
        """All samples of its finals, microseconds."""
        return [sample * 1e6 for samples in self.finals_s for sample in samples]

    @property
    def pooled_us(self) -> float | None:
        """What it counts with: the median of its finals where there are any."""
        samples = self.final_samples_us
        return statistics.median(samples) if samples and self.latency_us else self.latency_us


def is_final(evaluator: EvaluatorConfig) -> bool:
    """Whether a measurement under this policy belongs to finals: as many samples for all of them,
    however slow, promising or well known they are."""
    return evaluator.hopeless_ratio == 0 and evaluator.precision == 0


def evidence(
    connection: sa.Connection, workload_key: str, device_kind: str, cold_cache: bool
) -> list[Evidence]:
    """Every candidate of a workload that has a record, in the order of their first ones.

    Samples are read only of candidates that were measured more than once.
    """
    known = outcomes(connection, workload_key, device_kind, cold_cache)
    times: dict[str, list[int]] = {}
    for outcome in known:
        if outcome.latency_us is not None:
            times.setdefault(outcome.candidate.trace_json, []).append(outcome.measurement_id)
    repeated = [row for rows in times.values() if len(rows) > 1 for row in rows]
    return pool(known, _samples(connection, repeated))


def _samples(connection: sa.Connection, ids: Sequence[int]) -> dict[int, Samples]:
    m = measurements.c
    found = {}
    for start in range(0, len(ids), _IDS_PER_QUERY):
        query = sa.select(m.id, m.repeats_s_json, m.evaluator_json).where(
            m.id.in_(ids[start : start + _IDS_PER_QUERY])
        )
        for row in connection.execute(query):
            final = row.evaluator_json is not None and _is_final_json(row.evaluator_json)
            found[row.id] = Samples(numbers_from_json(row.repeats_s_json), final)
    return found


@lru_cache(maxsize=256)
def _is_final_json(evaluator_json: str) -> bool:
    return is_final(from_json(EvaluatorConfig, evaluator_json))


def pool(known: Sequence[Outcome], samples: Mapping[int, Samples]) -> list[Evidence]:
    """One piece of evidence for each candidate; ``samples`` is by measurement id (pure).

    An outcome without samples counts with its latency. One that is suspect says nothing, as if it
    had not been measured.
    """
    by_trace: dict[str, list[Outcome]] = {}
    for outcome in known:
        if outcome.status is MeasurementStatus.SUSPECT:
            continue
        by_trace.setdefault(outcome.candidate.trace_json, []).append(outcome)
    return [_pooled(rows, samples) for rows in by_trace.values()]


def _pooled(rows: Sequence[Outcome], samples: Mapping[int, Samples]) -> Evidence:
    candidate = rows[0].candidate
    right = [row for row in rows if row.latency_us is not None]
    if not right or any(row.status in DISQUALIFYING for row in rows):
        return Evidence(candidate, None)
    searched: list[float] = []
    finals: list[tuple[float, ...]] = []
    for row in right:
        taken = samples.get(row.measurement_id)
        if taken is None:
            assert row.latency_us is not None
            searched.append(row.latency_us)
        elif taken.final:
            finals.append(taken.repeats_s)
        else:
            searched += [sample * 1e6 for sample in taken.repeats_s]
    if not searched:
        searched = [sample * 1e6 for final in finals for sample in final]
    latency_us = statistics.median(searched)
    return Evidence(candidate, latency_us, right[-1].artifact_sha256, tuple(finals))
