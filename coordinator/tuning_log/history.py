"""What one job had measured, in the order in which it came in."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from protos.records import UNTUNED_TRACE, Candidate, History, HistoryRecord, MeasurementStatus

from .schema import job_tasks, measurements

_REPEATED = "same-"
"""A lease of this name is no device's: it repeats what is known of the same bytes."""


def history(connection: sa.Connection, job_id: str) -> History:
    """All of a job's measurements; empty if it made none."""
    rows = connection.execute(_query(job_id)).all()
    if not rows:
        return History()
    first = rows[0]
    tasks = sa.select(job_tasks.c.workload_key).where(job_tasks.c.job_id == job_id)
    measured = (row.workload_key for row in rows)
    keys = list(dict.fromkeys((*measured, *connection.execute(tasks).scalars())))
    untuned = {Candidate(key, UNTUNED_TRACE).key for key in keys}
    known = _known_before(connection, job_id, first)
    return History(
        tuple(_record(row, untuned, known) for row in rows),
        _best_before(connection, first, keys),
        first.device_kind,
    )


def _query(job_id: str) -> sa.Select[Any]:
    m = measurements.c
    wanted = (m.id, m.measured_at, m.lease_id, m.workload_key, m.candidate_key, m.device_kind)
    outcome = (m.status, m.latency_us, m.busy_s, m.device, m.cold_cache)
    return sa.select(*wanted, *outcome).where(m.job_id == job_id).order_by(m.id)


def _record(row: sa.Row[Any], untuned: set[str], known: set[str]) -> HistoryRecord:
    is_untuned = row.candidate_key in untuned
    repeated = (row.lease_id or "").startswith(_REPEATED)
    return HistoryRecord(
        measured_at=row.measured_at,
        workload_key=row.workload_key,
        candidate_key=row.candidate_key,
        status=MeasurementStatus[row.status],
        latency_us=row.latency_us,
        busy_s=0.0 if repeated else row.busy_s or 0.0,
        device=row.device or "",
        untuned=is_untuned,
        trial=not is_untuned and row.candidate_key not in known,
    )


def _before(first: sa.Row[Any], table: Any) -> sa.ColumnElement[bool]:
    """Older records that answer for the job's device and caches."""
    return sa.and_(
        table.device_kind == first.device_kind,
        table.cold_cache.is_(sa.true() if first.cold_cache else sa.false()),
        table.id < first.id,
    )


def _known_before(connection: sa.Connection, job_id: str, first: sa.Row[Any]) -> set[str]:
    """Those of the job's candidates that were tried before it."""
    mine, older = measurements.alias("mine").c, measurements.alias("older").c
    earlier = sa.exists().where(
        _before(first, older),
        older.workload_key == mine.workload_key,
        older.candidate_key == mine.candidate_key,
    )
    query = sa.select(mine.candidate_key).distinct().where(mine.job_id == job_id, earlier)
    return set(connection.execute(query).scalars())


def _best_before(
    connection: sa.Connection, first: sa.Row[Any], keys: list[str]
) -> dict[str, float]:
    m = measurements.c
    found = {}
    for key in keys:
        query = sa.select(sa.func.min(m.latency_us)).where(
            _before(first, m), m.workload_key == key, m.latency_us.is_not(None)
        )
        latency_us = connection.execute(query).scalar_one()
        if latency_us is not None:
            found[key] = latency_us
    return found
