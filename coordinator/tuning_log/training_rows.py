"""Everything that a kind of device has taught, piece by piece: for a training on all of it.

Of a candidate that was measured more than once there is one sample, where it was measured first:
its least latency counts, and a failure outweighs any.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from .samples import _TEACHES, SampleRow
from .schema import candidate_features, cost_models, measurements

ALL_ROWS_SCORE = "all_rows"
"""Among the scores of a cost model that was trained on all of the log: how much that was."""


@dataclass(frozen=True)
class Scope:
    """Which measurements teach: those of one kind of device, in warm or in cold caches, with
    features of this version, up to a measurement, but for some candidates."""

    device_kind: str
    cold_cache: bool
    version: int
    last: int
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Extent:
    """How many measurements there are, and the first and last of their ids (0 for none)."""

    rows: int
    first: int
    last: int


def extent(connection: sa.Connection, device_kind: str, cold_cache: bool, version: int) -> Extent:
    """What there is to learn from. Reads the whole index of the kind of device: seconds for
    millions of rows."""
    m, f = measurements.c, candidate_features.c
    query = (
        sa.select(sa.func.count(), sa.func.min(m.id), sa.func.max(m.id))
        .select_from(measurements)
        .join(candidate_features, f.candidate_key == m.candidate_key)
        .where(*_teaching(measurements, device_kind, cold_cache), f.version == version)
    )
    rows, first, last = connection.execute(query).one()
    return Extent(rows, first or 0, last or 0)


def trained_on(connection: sa.Connection, learning_kind: str) -> int:
    """How many measurements there were when a cost model was last trained on all of them, promoted
    or not; 0 for never. The models themselves stay where they are."""
    c = cost_models.c
    query = sa.select(c.scores_json).where(
        c.device_kind == learning_kind, c.scores_json.contains(f'"{ALL_ROWS_SCORE}"')
    )
    scores = connection.execute(query.order_by(c.version.desc()).limit(1)).scalar()
    return 0 if scores is None else int(json.loads(scores)[ALL_ROWS_SCORE])


def workloads(connection: sa.Connection, scope: Scope) -> list[str]:
    """Keys of the workloads that were measured, in order."""
    m = measurements.c
    query = sa.select(m.workload_key).where(m.device_kind == scope.device_kind).distinct()
    return sorted(connection.execute(query).scalars())


def latencies(connection: sa.Connection, scope: Scope, workload_key: str) -> list[float | None]:
    """Of each candidate of a workload, in no order, microseconds; None if it failed."""
    m, f = measurements.c, candidate_features.c
    query = (
        sa.select(_latency(measurements))
        .join(candidate_features, f.candidate_key == m.candidate_key)
        .where(
            m.workload_key == workload_key,
            *_teaching(measurements, scope.device_kind, scope.cold_cache),
            m.id <= scope.last,
            f.version == scope.version,
            m.candidate_key.not_in(scope.without),
        )
        .group_by(m.candidate_key)
    )
    return list(connection.execute(query).scalars())


def between(connection: sa.Connection, scope: Scope, after: int, up_to: int) -> list[SampleRow]:
    """The candidates that were first measured after one measurement and up to another."""
    m, f = measurements.c, candidate_features.c
    earlier, every = measurements.alias("earlier"), measurements.alias("every")
    of_kind = (scope.device_kind, scope.cold_cache)
    latency = (
        sa.select(_latency(every))
        .where(*_teaching(every, *of_kind), *_same(every), every.c.id <= scope.last)
        .scalar_subquery()
    )
    first = ~sa.exists().where(*_teaching(earlier, *of_kind), *_same(earlier), earlier.c.id < m.id)
    query = (
        sa.select(m.id, m.workload_key, m.candidate_key, latency.label("latency_us"), f.data)
        .join(candidate_features, f.candidate_key == m.candidate_key)
        .where(
            m.id > after,
            m.id <= min(up_to, scope.last),
            # Not an index over the whole kind of device: a few rows by their ids are wanted.
            sa.func.coalesce(m.device_kind, "") == scope.device_kind,
            *_right(measurements, scope.cold_cache),
            f.version == scope.version,
            m.candidate_key.not_in(scope.without),
            first,
        )
        .order_by(m.id)
    )
    return [
        SampleRow(row.id, row.workload_key, row.candidate_key, row.latency_us, row.data)
        for row in connection.execute(query)
    ]


def _latency(table: Any) -> sa.ColumnElement[float | None]:
    """Over one candidate's rows."""
    all_right = sa.func.count() == sa.func.count(table.c.latency_us)
    return sa.case((all_right, sa.func.min(table.c.latency_us)), else_=sa.null())


def _same(table: Any) -> Collection[sa.ColumnElement[bool]]:
    """Rows of the candidate that the query is at."""
    m = measurements.c
    return table.c.workload_key == m.workload_key, table.c.candidate_key == m.candidate_key


def _teaching(table: Any, device_kind: str, cold_cache: bool) -> Collection[sa.ColumnElement[bool]]:
    return table.c.device_kind == device_kind, *_right(table, cold_cache)


def _right(table: Any, cold_cache: bool) -> Collection[sa.ColumnElement[bool]]:
    cold = table.c.cold_cache.is_(sa.true() if cold_cache else sa.false())
    return cold, table.c.status.in_(_TEACHES)
