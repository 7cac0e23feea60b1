"""What all measurements of a candidate say together.

A task's best few are timed again before one of them is declared the winner: its finals
(docs/decisions/0013-finals.md). The fastest of many single measurements is also the luckiest, so a
candidate counts with its finals where it has any. A turn there counts with the least of its
samples, as a measurement does (docs/decisions/0015-the-least-sample.md).
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
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
    """The samples of one measurement, seconds per run; ``per_turn`` of them were taken in a turn if
    it belongs to finals, and otherwise that is 0."""

    repeats_s: tuple[float, ...]
    per_turn: int = 0

    @property
    def turns_s(self) -> tuple[float, ...]:
        """What it took in each turn."""
        return turns_s(self.repeats_s, self.per_turn)


@dataclass(frozen=True)
class Evidence:
    """What is known of a candidate.

    ``latency_us`` is the least of its search; None if none is right, or one of its records
    disqualifies it. ``finals_s`` is what it took in each turn of its finals, a tuple for each
    round, seconds per run. ``artifact_sha256`` is of its newest right record.
    """

    candidate: Candidate
    latency_us: float | None
    artifact_sha256: str = ""
    finals_s: tuple[tuple[float, ...], ...] = ()

    @property
    def final_turns_us(self) -> list[float]:
        """All turns of its finals, microseconds."""
        return [turn_s * 1e6 for turns in self.finals_s for turn_s in turns]

    @property
    def pooled_us(self) -> float | None:
        """What it counts with: the median over the turns of its finals where there are any."""
        turns_us = self.final_turns_us
        return statistics.median(turns_us) if turns_us and self.latency_us else self.latency_us


def is_final(evaluator: EvaluatorConfig) -> bool:
    """Whether a measurement under this policy belongs to finals: as many samples for all of them,
    however slow, promising or well known they are."""
    return evaluator.hopeless_ratio == 0 and evaluator.precision == 0


def turns_s(repeats_s: Sequence[float], per_turn: int) -> tuple[float, ...]:
    """What a finalist took in each turn of a round: the least of its samples there."""
    starts = range(0, len(repeats_s), per_turn)
    return tuple(min(repeats_s[start : start + per_turn]) for start in starts)


def evidence(
    connection: sa.Connection,
    workload_key: str,
    device_kind: str,
    cold_cache: bool,
    tools_keys: Collection[str] | None = None,
) -> list[Evidence]:
    """Every candidate of a workload that has a record, in the order of their first ones; with
    ``tools_keys`` one that answers for a device of this farm with one of these sets of tools.

    Samples are read only of candidates that were measured more than once.
    """
    known = outcomes(connection, workload_key, device_kind, cold_cache)
    if tools_keys is not None:
        known = [outcome for outcome in known if outcome.answers(tools_keys)]
    return _evidence(connection, known)


def doubtful(
    connection: sa.Connection,
    workload_key: str,
    device_kind: str,
    cold_cache: bool,
    tools_keys: Collection[str],
) -> list[Evidence]:
    """Candidates of a workload of which no record answers for a device of this farm with these
    sets of tools: they were measured with others, or by another farm."""
    known = outcomes(connection, workload_key, device_kind, cold_cache)
    sure = {outcome.candidate.trace_json for outcome in known if outcome.answers(tools_keys)}
    return _evidence(
        connection, [outcome for outcome in known if outcome.candidate.trace_json not in sure]
    )


def _evidence(connection: sa.Connection, known: Sequence[Outcome]) -> list[Evidence]:
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
            repeats_s = numbers_from_json(row.repeats_s_json)
            found[row.id] = Samples(repeats_s, per_turn(row.evaluator_json))
    return found


@lru_cache(maxsize=256)
def per_turn(evaluator_json: str | None) -> int:
    """The samples in a turn of a measurement under this policy; 0 if it belongs to no finals."""
    if evaluator_json is None:
        return 0
    evaluator = from_json(EvaluatorConfig, evaluator_json)
    return max(evaluator.repeat, 1) if is_final(evaluator) else 0


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
        elif taken.per_turn:
            finals.append(taken.turns_s)
        else:
            searched += [sample * 1e6 for sample in taken.repeats_s]
    if not searched:
        searched = [turn_s * 1e6 for turns in finals for turn_s in turns]
    return Evidence(candidate, min(searched), right[-1].artifact_sha256, tuple(finals))
