"""What a cost model is trained on: features of candidates, and what became of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from protos.records import MeasurementStatus

from .database import insert
from .schema import candidate_features, measurements

_TEACHES = tuple(status.name for status in MeasurementStatus if status.teaches)


@dataclass(frozen=True)
class SampleRow:
    """One measurement of a candidate whose features are kept; ``latency_us`` is None if it
    failed."""

    measurement_id: int
    workload_key: str
    candidate_key: str
    latency_us: float | None
    features: bytes


def keep(connection: sa.Connection, version: int, features: Mapping[str, bytes]) -> None:
    """Keep features by candidate key, in place of those of another version."""
    # In one order everywhere, so that two transactions never wait for each other in a circle.
    for key in sorted(features):
        row = {"candidate_key": key, "version": version, "data": features[key]}
        statement = insert(connection, candidate_features).values(**row)
        connection.execute(
            statement.on_conflict_do_update(index_elements=["candidate_key"], set_=row)
        )


def after(
    connection: sa.Connection,
    device_kind: str,
    cold_cache: bool,
    version: int,
    measurement_id: int,
    limit: int,
) -> list[SampleRow]:
    """The oldest measurements after this one, of all jobs."""
    # Not an index over the whole kind of device, which would be sorted: the next few are wanted.
    kind = sa.func.coalesce(measurements.c.device_kind, "")
    query = _of_kind(kind == device_kind, cold_cache, version)
    query = query.where(measurements.c.id > measurement_id)
    return _rows(connection.execute(query.order_by(measurements.c.id).limit(limit)).all())


def newest(
    connection: sa.Connection, device_kind: str, cold_cache: bool, version: int, limit: int
) -> list[SampleRow]:
    """The newest measurements of all jobs, oldest first."""
    kind: sa.ColumnElement[str] = measurements.c.device_kind
    if connection.dialect.name == "sqlite":
        # As above. PostgreSQL knows how many there are of the kind, and would not if it were so.
        kind = sa.func.coalesce(kind, "")
    query = _of_kind(kind == device_kind, cold_cache, version)
    found = connection.execute(query.order_by(measurements.c.id.desc()).limit(limit)).all()
    return _rows(found[::-1])


def _of_kind(kind: sa.ColumnElement[bool], cold_cache: bool, version: int) -> sa.Select[Any]:
    m, f = measurements.c, candidate_features.c
    return (
        sa.select(m.id, m.workload_key, m.candidate_key, m.latency_us, f.data)
        .join(candidate_features, f.candidate_key == m.candidate_key)
        .where(
            kind,
            m.cold_cache.is_(sa.true() if cold_cache else sa.false()),
            m.status.in_(_TEACHES),
            f.version == version,
        )
    )


def _rows(found: Sequence[sa.Row[Any]]) -> list[SampleRow]:
    return [
        SampleRow(row.id, row.workload_key, row.candidate_key, row.latency_us, row.data)
        for row in found
    ]
