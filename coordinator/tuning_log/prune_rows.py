"""How rows of the log are deleted, so that nothing is left that refers to one that has gone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from protos.records import JobState

from .candidate_records import CandidateRecord
from .schema import (
    blob_chunks,
    blobs,
    candidate_features,
    candidates,
    cost_models,
    jobs,
    measurements,
    packages,
    rankings,
)

if TYPE_CHECKING:
    from .store import TuningLog

UNFINISHED = tuple(state.name for state in JobState if not state.ended)

CANDIDATE_BYTES = 350
"""Of a candidate with its place in the index, about, beside its trace."""

MODELS_PER_TRANSACTION = 100
_KEYS_PER_STATEMENT = 500


@dataclass(frozen=True)
class OldModel:
    """A cost model that may go."""

    version: int
    device_kind: str
    size_bytes: int


def unfinished(connection: sa.Connection) -> list[str]:
    """The jobs that are not over."""
    query = sa.select(jobs.c.job_id).where(jobs.c.state.in_(UNFINISHED)).order_by(jobs.c.id)
    return list(connection.execute(query).scalars())


def lock(connection: sa.Connection, table: sa.Table) -> None:
    """Wait until nobody adds to the table, and keep it so until the transaction ends.

    SQLite has one writer at a time anyway.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"LOCK TABLE {table.name} IN SHARE ROW EXCLUSIVE MODE")


@contextlib.contextmanager
def indexed(log: TuningLog) -> Iterator[None]:
    """Indexes by which the database finds what still refers to a row that is deleted.

    Without them it reads a whole table for each. They are made where the schema has none.
    """
    made = []
    try:
        for column in (measurements.c.candidate_key, candidates.c.workload_key):
            table, name = column.table.name, f"prune_{column.table.name}_{column.name}"
            with log.writing() as connection:
                known = sa.inspect(connection).get_indexes(table)
                first = {index["column_names"][0] for index in known if index["name"] != name}
                if column.name not in first:
                    made.append(name)
                    connection.exec_driver_sql(
                        f"CREATE INDEX IF NOT EXISTS {name} ON {table} ({column.name})"
                    )
        yield
    finally:
        for name in made:
            with log.writing() as connection:
                connection.exec_driver_sql(f"DROP INDEX IF EXISTS {name}")


def delete_measurements(connection: sa.Connection, records: Sequence[CandidateRecord]) -> None:
    """Delete just these."""
    for start in range(0, len(records), _KEYS_PER_STATEMENT):
        ids = [record.id for record in records[start : start + _KEYS_PER_STATEMENT]]
        connection.execute(sa.delete(measurements).where(measurements.c.id.in_(ids)))


def candidate_sizes(keys: Sequence[str]) -> sa.Select[Any]:
    """Key and bytes of each of these candidates."""
    c, f = candidates.c, candidate_features
    features = sa.func.coalesce(sa.func.length(f.c.data), 0)
    size = sa.func.length(c.trace_json) + features + CANDIDATE_BYTES
    return sa.select(c.key, size).outerjoin(f, f.c.candidate_key == c.key).where(c.key.in_(keys))


def delete_orphans(connection: sa.Connection, keys: Sequence[str]) -> tuple[int, int]:
    """Delete those of these candidates that no measurement is left of; how many, and how large."""
    count = size_bytes = 0
    c = candidates.c
    measured = sa.exists().where(measurements.c.candidate_key == c.key)
    for start in range(0, len(keys), _KEYS_PER_STATEMENT):
        query = candidate_sizes(keys[start : start + _KEYS_PER_STATEMENT]).where(~measured)
        rows = connection.execute(query).all()
        orphans = [key for key, _size in rows]
        features = candidate_features.c.candidate_key.in_(orphans)
        connection.execute(sa.delete(candidate_features).where(features))
        connection.execute(sa.delete(candidates).where(c.key.in_(orphans)))
        count += len(rows)
        size_bytes += sum(size for _key, size in rows)
    return count, size_bytes


def old_cost_models(connection: sa.Connection, keep: int, before: float) -> list[OldModel]:
    """From before that time: of each kind of device those that were refused, and of the promoted
    ones all but the newest ``keep``. Those that an unfinished job has used stay."""
    c = cost_models.c
    used = (
        sa.select(rankings.c.cost_model_version)
        .join(jobs, jobs.c.job_id == rankings.c.job_id)
        .where(jobs.c.state.in_(UNFINISHED), rankings.c.cost_model_version.is_not(None))
    )
    found = []
    for kind in connection.execute(sa.select(c.device_kind).distinct()).scalars().all():
        newest = sa.select(c.version).where(c.device_kind == kind, c.promoted.is_(sa.true()))
        newest = newest.order_by(c.version.desc()).limit(keep)
        query = sa.select(c.version, sa.func.length(c.model_text)).where(
            c.device_kind == kind,
            c.trained_at < before,
            c.version.not_in(newest),
            c.version.not_in(used),
        )
        rows = connection.execute(query.order_by(c.version))
        found += [OldModel(version, kind, size_bytes) for version, size_bytes in rows]
    return found


def delete_cost_models(
    log: TuningLog, keep: int, before: float, at_once: int = MODELS_PER_TRANSACTION
) -> Iterator[OldModel]:
    """Delete them, and yield each that has gone. Rankings that they made stay, without their
    version."""
    while True:
        with log.writing() as connection:
            lock(connection, rankings)
            gone = old_cost_models(connection, keep, before)[:at_once]
            versions = [one.version for one in gone]
            version = rankings.c.cost_model_version
            connection.execute(
                sa.update(rankings).where(version.in_(versions)).values(cost_model_version=None)
            )
            connection.execute(sa.delete(cost_models).where(cost_models.c.version.in_(versions)))
        if not gone:
            return
        yield from gone


def unused_files(connection: sa.Connection, before: float) -> list[tuple[str, int]]:
    """SHA-256 and size of each model and package, stored before that time, that no job and no
    package refers to."""
    b = blobs.c
    package = sa.select(jobs.c.package_sha256).where(jobs.c.package_sha256.is_not(None))
    query = sa.select(b.sha256, b.size_bytes).where(
        b.stored_at < before,
        b.sha256.not_in(sa.select(jobs.c.model_sha256)),
        b.sha256.not_in(package),
        b.sha256.not_in(sa.select(packages.c.sha256)),
    )
    return [(sha256, size_bytes) for sha256, size_bytes in connection.execute(query)]


def delete_files(log: TuningLog, before: float) -> Iterator[int]:
    """Delete them, each in a transaction of its own, and yield the size of each that has gone."""
    while True:
        with log.writing() as connection:
            lock(connection, blobs)
            found = unused_files(connection, before)[:1]
            for sha256, _size_bytes in found:
                connection.execute(sa.delete(blob_chunks).where(blob_chunks.c.sha256 == sha256))
                connection.execute(sa.delete(blobs).where(blobs.c.sha256 == sha256))
        if not found:
            return
        yield found[0][1]
