"""A tuning log, or a part of it, as Parquet files: lossless but for models and packages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa

from protos.errors import BadRequest

from ..schema import candidates, device_labels, devices, job_tasks, jobs, measurements, workloads
from ..store import TuningLog
from .columns import TABLES, batch, schema
from .folders import new_export
from .report import ExportReport, Progress, no_progress
from .selection import Filters, Selection, best_ids, id_pages, measured, select

FILES = {table: f"{table}.parquet" for table in TABLES}

PAGE_ROWS = {"workloads": 32, "candidates": 500, "measurements": 1000, "devices": 500, "jobs": 50}
"""Rows that are in memory at a time while they are read."""

ROW_GROUP_ROWS = 20_000
ROW_GROUP_BYTES = 32 << 20
"""A row group is written when it is as large as this, and in memory until then."""

_COMPRESSION_LEVEL = 9

Rows = Iterator[Sequence[Any]]
"""Pages of rows, each a mapping by the names of the log's columns."""


def export_parquet(
    log: TuningLog,
    folder: Path,
    filters: Filters,
    force: bool = False,
    progress: Progress = no_progress,
) -> ExportReport:
    """Write ``folder`` with the records that fit the filters.

    Raises BadRequest if none does or there is an export already, NotFound for unknown names.
    """
    with new_export(folder, list(FILES.values()), force) as work:
        with log.reading() as connection:
            _see_one_moment(connection)
            selection = select(connection, filters)
            ids = best_ids(connection, selection) if filters.best is not None else None
            total = _count(connection, selection, ids)
            if not total:
                raise BadRequest("no measurement in this tuning log fits; nothing was written")
            written = _write_all(connection, work, selection, ids, _counting(progress, total))
        sizes = {name: (work / name).stat().st_size for name in FILES.values()}
    return ExportReport(folder, written, sizes)


def _see_one_moment(connection: sa.Connection) -> None:
    """SQLite's reader does so by itself; PostgreSQL's would see what comes in between."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def _count(connection: sa.Connection, selection: Selection, ids: list[int] | None) -> int:
    if ids is not None:
        return len(ids)
    query = sa.select(sa.func.count()).select_from(measurements).where(selection.condition())
    return int(connection.execute(query).scalar_one())


def _counting(progress: Progress, total: int) -> Progress:
    """Measurements only: the other tables are small beside them."""
    return lambda done, _total: progress(done, total)


def _write_all(
    connection: sa.Connection,
    work: Path,
    selection: Selection,
    ids: list[int] | None,
    progress: Progress,
) -> dict[str, int]:
    """Each table in its file; returns the number of rows of each."""
    chosen: set[str] | None = None
    if ids is None:
        pages = _by_key(connection, "measurements", selection.condition(by_id=True))
    else:
        chosen = set()
        pages = _by_id(connection, ids, chosen)
    written = {"measurements": _write(work, "measurements", pages, progress)}
    pages = _candidates(connection, selection, chosen)
    written["candidates"] = _write(work, "candidates", pages)
    written["workloads"] = _write(work, "workloads", _workloads(connection, selection))
    of_kinds = devices.c.kind.in_(selection.kinds) if selection.filters.kind else sa.true()
    written["devices"] = _write(work, "devices", _devices(connection, of_kinds))
    written["jobs"] = _write(work, "jobs", _by_key(connection, "jobs", _of_jobs(selection)))
    return {table: written[table] for table in ("measurements", "candidates", "workloads")}


def _write(work: Path, table: str, pages: Rows, progress: Progress = no_progress) -> int:
    """One file, a row group at a time."""
    options: dict[str, Any] = {"compression": "zstd", "compression_level": _COMPRESSION_LEVEL}
    count = group_rows = group_bytes = 0
    group = []
    with pq.ParquetWriter(work / FILES[table], schema(table), **options) as writer:
        for rows in pages:
            page = batch(table, rows)
            group.append(page)
            count += len(rows)
            group_rows += len(rows)
            group_bytes += page.nbytes
            if group_rows >= ROW_GROUP_ROWS or group_bytes >= ROW_GROUP_BYTES:
                _write_group(writer, table, group)
                group, group_rows, group_bytes = [], 0, 0
            progress(count, 0)
        _write_group(writer, table, group)
    return count


def _write_group(writer: Any, table: str, group: list[Any]) -> None:
    if group:
        together = pa.Table.from_batches(group, schema(table))
        writer.write_table(together, row_group_size=together.num_rows)


# ------------------------------------------------------------------------------- reading

_KEYS = {
    "measurements": measurements.c.id,
    "candidates": candidates.c.key,
    "workloads": workloads.c.key,
    "devices": devices.c.name,
    "jobs": jobs.c.id,
}


def _by_key(connection: sa.Connection, table: str, condition: sa.ColumnElement[bool]) -> Rows:
    """Pages in the order of the primary key, each by a question of its own."""
    key = _KEYS[table]
    assert key.table is not None
    query = sa.select(key.table).where(condition).order_by(key).limit(PAGE_ROWS[table])
    page = query
    while rows := connection.execute(page).mappings().all():
        yield rows
        page = query.where(key > rows[-1][key.name])


def _by_id(connection: sa.Connection, ids: list[int], chosen: set[str]) -> Rows:
    """Measurements of these ids; their candidates are added to ``chosen``."""
    for some in id_pages(ids):
        query = sa.select(measurements).where(measurements.c.id.in_(some))
        rows = connection.execute(query.order_by(measurements.c.id)).mappings().all()
        chosen.update(row["candidate_key"] for row in rows)
        yield rows


def _candidates(connection: sa.Connection, selection: Selection, chosen: set[str] | None) -> Rows:
    if chosen is not None:
        keys = sorted(chosen)
        for start in range(0, len(keys), PAGE_ROWS["candidates"]):
            some = keys[start : start + PAGE_ROWS["candidates"]]
            query = sa.select(candidates).where(candidates.c.key.in_(some))
            yield connection.execute(query.order_by(candidates.c.key)).mappings().all()
        return
    condition = sa.true() if selection.everything else measured(selection)
    if selection.workload_keys is not None:
        condition = sa.and_(candidates.c.workload_key.in_(selection.workload_keys), condition)
    yield from _by_key(connection, "candidates", condition)


def _workloads(connection: sa.Connection, selection: Selection) -> Rows:
    condition: sa.ColumnElement[bool] = sa.true()
    if selection.workload_keys is not None:
        condition = workloads.c.key.in_(selection.workload_keys)
    elif not selection.everything:
        m = measurements.c
        record = sa.select(sa.literal(1)).where(
            m.device_kind.in_(selection.kinds),
            m.workload_key == workloads.c.key,
            selection.condition(),
        )
        condition = sa.exists(record.correlate(workloads))
    return _by_key(connection, "workloads", condition)


def _devices(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> Rows:
    labels: dict[str, list[tuple[str, str]]] = {}
    for name, key, value in connection.execute(sa.select(device_labels)):
        labels.setdefault(name, []).append((key, value))
    for rows in _by_key(connection, "devices", condition):
        yield [{**row, "labels": labels.get(row["name"], [])} for row in rows]


def _of_jobs(selection: Selection) -> sa.ColumnElement[bool]:
    """The jobs that have one of the workloads."""
    if selection.workload_keys is None:
        return sa.true()
    of = sa.select(job_tasks.c.job_id).where(job_tasks.c.workload_key.in_(selection.workload_keys))
    return jobs.c.job_id.in_(of)
