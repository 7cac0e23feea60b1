"""Measurements, append-only, and the questions that a search asks of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from protos.errors import BadRequest
from protos.records import Candidate, Measurement, MeasurementStatus

from .append import append
from .circumstances import measurement_columns, measurement_of
from .schema import candidates, jobs, measurements
from .values import finite

Result = tuple[str, str, Candidate, Measurement, float | None]
"""Job id, kind of device, candidate, what became of it, and the score that was predicted for it."""


_SAYS_NOTHING = (MeasurementStatus.DEVICE_LOST.name, MeasurementStatus.SUSPECT.name)
"""What was the device's doing, not the program's."""

_KNOWN_BY = ("lease_id", "job_id", "device_kind", "candidate_key")
"""The columns of both unique indexes: they tell which rows of a statement were new."""

_NOTHING = dict.fromkeys(c.name for c in measurements.c if c.name not in ("id", "measured_at"))


@dataclass(frozen=True)
class Outcome:
    """One record of a candidate, as much of it as a search learns from."""

    measurement_id: int
    candidate: Candidate
    status: MeasurementStatus
    latency_us: float | None
    artifact_sha256: str
    tool_versions_key: str
    imported: bool = False

    def answers(self, tools_keys: Collection[str]) -> bool:
        """Whether it says what a device of this farm with one of these sets of tools would measure;
        what never was on a device (it did not build) does so with any tools."""
        return not self.imported and self.tool_versions_key in ("", *tools_keys)


@dataclass(frozen=True)
class BestRecord:
    """The fastest correct record of a workload on a kind of device."""

    measurement_id: int
    candidate: Candidate
    latency_us: float


def record_many(connection: sa.Connection, results: Sequence[Result]) -> list[bool]:
    """Append what is new; True where it was. Raises BadRequest if keys contradict each other."""
    if not results:
        return []
    _add_candidates(connection, results)
    # In one order everywhere, so that two transactions never wait for each other in a circle.
    order = sorted(range(len(results)), key=lambda i: _lease_order(results[i][3]))
    cold = _caches_of_jobs(connection, results)
    rows = [_row(results[i], cold) for i in order]
    appended = {tuple(row) for row in append(connection, measurements, rows, _KNOWN_BY)}
    new = [False] * len(results)
    for index, row in zip(order, rows, strict=True):
        name = tuple(row[column] for column in _KNOWN_BY)
        new[index] = name in appended
        appended.discard(name)  # the first of two alike was new, the second was not
    return new


def _add_candidates(connection: sa.Connection, results: Sequence[Result]) -> None:
    """Those that the log lacks, in the order of their keys; raises BadRequest."""
    named = {}
    for _job_id, _kind, candidate, measurement, _score in results:
        key = candidate.key
        if (measurement.workload_key, measurement.candidate_key) != (candidate.workload_key, key):
            raise BadRequest(
                f"a measurement of candidate {measurement.candidate_key!r} (lease"
                f" {measurement.lease_id!r}) came with candidate {key!r}"
            )
        named[key] = candidate
    rows = [
        {"key": key, "workload_key": named[key].workload_key, "trace_json": named[key].trace_json}
        for key in sorted(named)
    ]
    append(connection, candidates, rows, ("key",))


def _row(result: Result, cold: Mapping[str, bool]) -> dict[str, Any]:
    """A row of ``measurements`` with every column but those that the database fills in."""
    job_id, device_kind, _candidate, measurement, score = result
    score = finite(score)
    return {
        **_NOTHING,
        "job_id": job_id,
        "device_kind": device_kind,
        "predicted_score": None if score is None else float(score),  # of NumPy's, too
        "cold_cache": cold.get(job_id, False),
        **measurement_columns(measurement),
    }


def _caches_of_jobs(connection: sa.Connection, results: Sequence[Result]) -> dict[str, bool]:
    """Where no device says how it timed (it did not build), its job says how it would have."""
    silent = {job_id for job_id, _kind, _candidate, m, _score in results if m.circumstances is None}
    if not silent:
        return {}
    query = sa.select(jobs.c.job_id, jobs.c.cold_cache).where(jobs.c.job_id.in_(sorted(silent)))
    return {row.job_id: row.cold_cache for row in connection.execute(query)}


def outcomes(
    connection: sa.Connection, workload_key: str, device_kind: str, cold_cache: bool
) -> list[Outcome]:
    """Every record of a workload on a kind of device, oldest first."""
    m = measurements.c
    answer = (m.id, m.status, m.latency_us, m.artifact_sha256, m.tool_versions_key, m.import_id)
    query = (
        sa.select(*answer, candidates.c.trace_json)
        .join(candidates, candidates.c.key == m.candidate_key)
        .where(_of_kind(device_kind, cold_cache), m.workload_key == workload_key)
        .order_by(m.id)
    )
    return [
        Outcome(
            measurement_id=row.id,
            candidate=Candidate(workload_key, row.trace_json),
            status=MeasurementStatus[row.status],
            latency_us=row.latency_us,
            artifact_sha256=row.artifact_sha256 or "",
            tool_versions_key=row.tool_versions_key or "",
            imported=row.import_id is not None,
        )
        for row in connection.execute(query)
    ]


def measured(
    connection: sa.Connection,
    device_kind: str,
    artifact_sha256: str,
    tools_keys: Collection[str] | None,
    cold_cache: bool,
) -> Measurement | None:
    """The newest record of these bytes that says something of them."""
    if not artifact_sha256:
        return None
    query = (
        sa.select(measurements)
        .where(
            _of_kind(device_kind, cold_cache),
            measurements.c.artifact_sha256 == artifact_sha256,
            measurements.c.import_id.is_(None),
            measurements.c.status.not_in(_SAYS_NOTHING),
        )
        .order_by(measurements.c.id.desc())
        .limit(1)
    )
    if tools_keys is not None:
        query = query.where(measurements.c.tool_versions_key.in_(sorted(tools_keys)))
    row = connection.execute(query).first()
    return None if row is None else measurement_of(row)


def device_kinds(connection: sa.Connection) -> list[str]:
    """Every kind of device with a record."""
    m = measurements.c
    found: list[str] = []
    while True:
        # From one to the next by the index: DISTINCT would read all of it.
        query = sa.select(sa.func.min(m.device_kind)).where(m.device_kind > (found or [""])[-1])
        kind = connection.execute(query).scalar_one()
        if kind is None:
            return found
        found.append(kind)


def per_device(connection: sa.Connection) -> dict[str, int]:
    """How many records each device made."""
    m = measurements.c
    query = sa.select(m.device, sa.func.count().label("made")).where(m.device.is_not(None))
    return {row.device: row.made for row in connection.execute(query.group_by(m.device))}


def _lease_order(measurement: Measurement) -> tuple[str, str]:
    return measurement.lease_id, measurement.candidate_key


def _of_kind(device_kind: str, cold_cache: bool) -> sa.ColumnElement[bool]:
    """What answers: the same kind of device, and caches as warm or as cold."""
    m = measurements.c
    return sa.and_(
        m.device_kind == device_kind, m.cold_cache.is_(sa.true() if cold_cache else sa.false())
    )
