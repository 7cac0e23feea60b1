"""How much is in the log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from protos.records import MeasurementStatus

from .jobs import IS_WHOLE
from .schema import (
    blobs,
    candidates,
    cost_models,
    devices,
    jobs,
    measurements,
    packages,
    workloads,
)

_REPEATED = "same-%"
"""Leases of this name (``history``) took no device's time."""


@dataclass(frozen=True)
class KindStats:
    """What was measured on one kind of device; ``device_s`` is the time that devices were busy."""

    kind: str
    cpu_models: tuple[str, ...]
    devices: int
    measurements: int
    failed: int
    first_at: float
    last_at: float
    device_s: float


@dataclass(frozen=True)
class LogStats:
    """How many rows of each there are, and how they stand."""

    jobs: Mapping[str, int]
    models: int
    workloads: int
    candidates: int
    measurements: Mapping[str, int]
    cost_models: int
    packages: int
    files: int
    file_bytes: int
    kinds: tuple[KindStats, ...]


def stats(connection: sa.Connection) -> LogStats:
    """How much there is. Reads every measurement: seconds for a million."""
    by_state = sa.select(jobs.c.state, sa.func.count().label("made")).where(IS_WHOLE)
    models = sa.select(sa.func.count(jobs.c.model_sha256.distinct()))
    size = sa.select(sa.func.coalesce(sa.func.sum(blobs.c.size_bytes), 0))
    kinds, statuses = _kinds(connection)
    return LogStats(
        jobs={row.state: row.made for row in connection.execute(by_state.group_by(jobs.c.state))},
        models=int(connection.execute(models).scalar_one()),
        workloads=_count(connection, workloads),
        candidates=_count(connection, candidates),
        measurements=statuses,
        cost_models=_count(connection, cost_models),
        packages=_count(connection, packages),
        files=_count(connection, blobs),
        file_bytes=int(connection.execute(size).scalar_one()),
        kinds=kinds,
    )


def _count(connection: sa.Connection, table: sa.Table) -> int:
    return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def _kinds(connection: sa.Connection) -> tuple[tuple[KindStats, ...], dict[str, int]]:
    """Of each kind of device, and all measurements by status."""
    m = measurements.c
    # By an expression: down the index of kinds the rows would be read in no order.
    kind = sa.func.coalesce(m.device_kind, "").label("kind")
    busy_s = sa.case((m.lease_id.like(_REPEATED), 0.0), else_=sa.func.coalesce(m.busy_s, 0.0))
    query = sa.select(
        *(kind, m.status, sa.func.count().label("made"), sa.func.sum(busy_s).label("busy_s")),
        sa.func.min(m.measured_at).label("first"),
        sa.func.max(m.measured_at).label("last"),
    ).group_by(kind, m.status)
    rows: dict[str, list[sa.Row[tuple[object, ...]]]] = {}
    statuses: dict[str, int] = {}
    for row in connection.execute(query):
        rows.setdefault(row.kind, []).append(row)
        statuses[row.status] = statuses.get(row.status, 0) + row.made
    known: dict[str, list[str]] = {}
    for name, cpu_model in connection.execute(sa.select(devices.c.kind, devices.c.cpu_model)):
        known.setdefault(name, []).append(cpu_model)
    ok = MeasurementStatus.OK.name
    found = tuple(
        KindStats(
            kind=name,
            cpu_models=tuple(sorted(set(known.get(name, ())))),
            devices=len(known.get(name, ())),
            measurements=sum(row.made for row in of_kind),
            failed=sum(row.made for row in of_kind if row.status != ok),
            first_at=min(row.first for row in of_kind),
            last_at=max(row.last for row in of_kind),
            device_s=float(sum(row.busy_s for row in of_kind)),
        )
        for name, of_kind in sorted(rows.items())
    )
    return found, dict(sorted(statuses.items()))
