"""Checked rows into a log: a batch a transaction, what is there already is left alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ..database import insert
from ..schema import candidates, imports, measurements, now, users, workloads
from ..store import TuningLog
from ..values import clean
from .report import ImportReport
from .rows import IMPORTED

BATCH_ROWS = 1000

_MAX_SOURCE_BYTES = 1024

_NOTHING = dict.fromkeys(column.name for column in measurements.c if column.name != "id")


@dataclass(frozen=True)
class Row:
    """One checked row, and where it stands in its file."""

    file: str
    number: int
    columns: dict[str, Any]


def batches(rows: Iterator[Row], size: int = BATCH_ROWS) -> Iterator[list[Row]]:
    """So many at a time."""
    batch: list[Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch


class LogWriter:
    """Writes what one import brings, and counts it in the report."""

    def __init__(
        self, log: TuningLog, report: ImportReport, source: str, form: str, user: str
    ) -> None:
        self._log = log
        self._report = report
        self._import = {
            "source": clean(source, _MAX_SOURCE_BYTES),
            "format": form,
            "imported_by": clean(user),
        }

    def workload_texts(self, keys: Sequence[str]) -> dict[str, str]:
        """The texts of those workloads that the log has."""
        query = sa.select(workloads.c.key, workloads.c.workload_json)
        with self._log.reading() as connection:
            found = connection.execute(query.where(workloads.c.key.in_(keys)))
            return {key: text for key, text in found}  # noqa: C416 (mypy wants them apart)

    def add_workloads(self, rows: Sequence[Row]) -> None:
        """Keep those that are new."""
        with self._log.writing() as connection:
            added = _insert_new(connection, workloads, rows)
        self._report.workloads += added
        self._report.readable += len(rows)

    def add_candidates(self, rows: Sequence[Row]) -> None:
        """Keep those that are new and whose workload is there; the others are damaged."""
        with self._log.writing() as connection:
            query = sa.select(workloads.c.key)
            keys = {row.columns["workload_key"] for row in rows}
            there = set(connection.scalars(query.where(workloads.c.key.in_(keys))))
            fitting = [row for row in rows if row.columns["workload_key"] in there]
            added = _insert_new(connection, candidates, fitting)
        for row in rows:
            if row.columns["workload_key"] not in there:
                self._report.damage(row.file, row.number, "its workload is not there")
        self._report.candidates += added
        self._report.readable += len(fitting)

    def add_measurements(self, rows: Sequence[Row]) -> None:
        """Append those that are new and whose candidate is there; the others are damaged."""
        with self._log.writing() as connection:
            keys = {row.columns["candidate_key"] for row in rows}
            query = sa.select(candidates.c.key, candidates.c.workload_key)
            there = {
                (row.workload_key, row.key)
                for row in connection.execute(query.where(candidates.c.key.in_(keys)))
            }
            fitting = [row for row in rows if _named(row) in there]
            new = _new(connection, fitting)
            added, import_id = self._append(connection, new)
        for row in rows:
            if _named(row) not in there:
                self._report.damage(row.file, row.number, "its candidate is not there")
        self._report.import_id = import_id
        self._report.imported += added
        self._report.known += len(fitting) - added
        self._report.readable += len(fitting)

    def _append(
        self, connection: sa.Connection, new: list[dict[str, Any]]
    ) -> tuple[int, int | None]:
        """Returns how many were added, and under which import."""
        import_id = self._report.import_id
        if not new:
            return 0, import_id
        clock = connection.execute(sa.select(now())).scalar_one()
        if import_id is None:
            import_id = self._new_import(connection, clock)
        default = {**_NOTHING, "measured_at": clock}
        rows = [{**default, **columns, "import_id": import_id} for columns in new]
        added = _insert(connection, measurements, rows, measurements.c.id)
        connection.execute(
            sa.update(imports)
            .where(imports.c.import_id == import_id)
            .values(records=imports.c.records + added)
        )
        return added, import_id

    def _new_import(self, connection: sa.Connection, clock: float) -> int:
        user = {"name": self._import["imported_by"], "first_seen_at": clock}
        connection.execute(insert(connection, users).values(user).on_conflict_do_nothing())
        values = {**self._import, "imported_at": clock, "records": 0}
        result = connection.execute(
            sa.insert(imports).values(values).returning(imports.c.import_id)
        )
        return int(result.scalar_one())


def _named(row: Row) -> tuple[str, str]:
    return row.columns["workload_key"], row.columns["candidate_key"]


def _insert_new(connection: sa.Connection, table: sa.Table, rows: Sequence[Row]) -> int:
    """Returns how many were not there."""
    named = {row.columns["key"]: row.columns for row in rows}
    # In one order everywhere, so that two transactions never wait for each other in a circle.
    return _insert(connection, table, [named[key] for key in sorted(named)], table.c.key)


def _insert(
    connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]], name: sa.Column[Any]
) -> int:
    if not rows:
        return 0
    statement = insert(connection, table).on_conflict_do_nothing().returning(name)
    return len(connection.execute(statement, rows).all())


def _new(connection: sa.Connection, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Those that the log does not have, each once, in their order: the log's is that of time."""
    m = measurements.c
    leases = {row.columns["lease_id"] for row in rows}
    query = sa.select(m.lease_id, m.candidate_key).where(m.lease_id.in_(leases))
    seen = {(lease, candidate) for lease, candidate in connection.execute(query)}
    unleased = _unleased(connection, rows)
    new = []
    for row in rows:
        lease = _lease(row.columns)
        made_up = lease[0].startswith(IMPORTED)
        if lease not in seen and not (made_up and _moment(row.columns) in unleased):
            seen.add(lease)
            new.append(row.columns)
    return new


def _unleased(connection: sa.Connection, rows: Sequence[Row]) -> set[tuple[Any, ...]]:
    """What the log itself measured without a lease, of the candidates whose lease is made up."""
    m = measurements.c
    suspects = [row.columns for row in rows if row.columns["lease_id"].startswith(IMPORTED)]
    found: set[tuple[Any, ...]] = set()
    for kind in {columns["device_kind"] for columns in suspects}:
        of_kind = [columns for columns in suspects if columns["device_kind"] == kind]
        query = sa.select(m.device_kind, m.candidate_key, m.status, m.measured_at).where(
            m.device_kind == kind,
            m.workload_key.in_({columns["workload_key"] for columns in of_kind}),
            m.candidate_key.in_({columns["candidate_key"] for columns in of_kind}),
            m.lease_id.is_(None),
        )
        found.update(tuple(row) for row in connection.execute(query))
    return found


def _lease(columns: dict[str, Any]) -> tuple[str, str]:
    return columns["lease_id"], columns["candidate_key"]


def _moment(columns: dict[str, Any]) -> tuple[Any, ...]:
    named = (columns["device_kind"], columns["candidate_key"], columns["status"])
    return (*named, columns.get("measured_at"))
