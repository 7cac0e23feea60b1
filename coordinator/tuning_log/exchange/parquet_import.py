"""Parquet files of another log, or of this one, into a log."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from protos.errors import BadRequest
from protos.records import canonical_json

from ..store import TuningLog
from .columns import TABLES, TIME
from .parquet_export import FILES
from .report import Damaged, ImportReport, Progress, no_progress
from .rows import candidate_row, measurement_row, workload_row
from .tvm_process import TvmProcess
from .writer import LogWriter, Row, batches

BATCH_ROWS = {"workloads": 16, "candidates": 200, "measurements": 1000}
"""Rows that are unpacked at a time: few where each may be large."""

MAX_ROW_GROUP_BYTES = 1 << 30

_TABLES = ("workloads", "candidates", "measurements")


def import_parquet(
    log: TuningLog,
    folder: Path,
    user: str,
    report: ImportReport,
    process: TvmProcess,
    progress: Progress = no_progress,
) -> None:
    """Bring in the workloads, candidates and measurements of an export.

    ``report`` is what came of it, at any time. Raises BadRequest if a file is missing.
    """
    missing = [FILES[table] for table in _TABLES if not (folder / FILES[table]).is_file()]
    if missing:
        raise BadRequest(f"{folder} is no export: it has no {', '.join(missing)}")
    writer = LogWriter(log, report, str(folder.absolute()), "parquet", user)
    rows = _checked(folder, "workloads", report, workload_row)
    for batch in batches(rows, BATCH_ROWS["workloads"]):
        writer.add_workloads(_verified(batch, writer, report, process))
    rows = _checked(folder, "candidates", report, candidate_row)
    for batch in batches(rows, BATCH_ROWS["candidates"]):
        writer.add_candidates(batch)
    done, total = 0, _rows_of(folder / FILES["measurements"])
    for batch in batches(_checked(folder, "measurements", report, measurement_row)):
        writer.add_measurements(batch)
        done += len(batch)
        progress(done, total)


def _rows_of(path: Path) -> int:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError):
        return 0


def _verified(
    rows: list[Row], writer: LogWriter, report: ImportReport, process: TvmProcess
) -> list[Row]:
    """Those workloads that are what they say, as TVM reads them, in their canonical text and with
    its estimate of their arithmetic."""
    known = writer.workload_texts([row.columns["key"] for row in rows])
    right = []
    for row in rows:
        columns = row.columns
        if known.get(columns["key"]) == columns["workload_json"]:
            right.append(row)
            continue
        try:
            described = process.ask("describe", workload_json=columns["workload_json"])
            if described["key"] != columns["key"]:
                raise Damaged(
                    f"the workload's key {columns['key']} is not that of its content,"
                    f" {described['key']}"
                )
            if args_json(described["args"]) != columns["args_json"]:
                raise Damaged("args_json are not the parameters of the workload")
            if described["num_outputs"] not in (None, columns["num_outputs"]):
                raise Damaged(
                    f"{columns['num_outputs']} outputs, where the workload writes"
                    f" {described['num_outputs']}"
                )
        except Damaged as error:
            report.damage(row.file, row.number, error)
            continue
        read = {name: described[name] for name in ("workload_json", "flops")}
        right.append(Row(row.file, row.number, {**columns, **read}))
    return right


def args_json(args: list[Any]) -> str:
    """Parameters as the log has them."""
    return canonical_json([{"dtype": dtype, "shape": shape} for shape, dtype in args])


# ------------------------------------------------------------------------------- reading


def _checked(
    folder: Path,
    table: str,
    report: ImportReport,
    check: Callable[[Mapping[str, Any]], dict[str, Any]],
) -> Iterator[Row]:
    """The rows of a file that pass; the others are damaged."""
    file = FILES[table]
    for number, row in _rows(folder / file, table, report):
        try:
            yield Row(file, number, check(row))
        except Damaged as error:
            report.damage(file, number, error)


def _rows(path: Path, table: str, report: ImportReport) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Rows with their numbers; what can't be read of a file is damaged, and the rest goes on."""
    number = 1
    try:
        with pq.ParquetFile(path) as file:
            wanted = _wanted(file.schema_arrow, table)
            for group in range(file.num_row_groups):
                start, number = number, number + file.metadata.row_group(group).num_rows
                try:
                    yield from _rows_of_group(file, group, start, table, wanted, report)
                except (Damaged, pa.ArrowException, OSError) as error:
                    report.damage(path.name, start, f"rows from here to {number - 1}: {error}")
    except (Damaged, pa.ArrowException, OSError) as error:
        report.damage(path.name, 0, error)


def _wanted(found: pa.Schema, table: str) -> list[str]:
    """The columns to read; raises Damaged if one that must be there is not."""
    names = [column.name for column in TABLES[table]]
    twice = [name for name in names if len(found.get_all_field_indices(name)) > 1]
    missing = [c.name for c in TABLES[table] if c.required and c.name not in found.names]
    if missing or twice:
        raise Damaged(f"the columns {', '.join(missing or twice)} are missing or there twice")
    return [name for name in names if name in found.names]


def _rows_of_group(
    file: pq.ParquetFile,
    group: int,
    start: int,
    table: str,
    wanted: list[str],
    report: ImportReport,
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    size = file.metadata.row_group(group).total_byte_size
    if size > MAX_ROW_GROUP_BYTES:
        raise Damaged(f"a row group of {size} bytes, more than {MAX_ROW_GROUP_BYTES}")
    for batch in file.iter_batches(BATCH_ROWS[table], row_groups=[group], columns=wanted):
        typed = {
            column.name: _typed(batch.column(column.name), column.type)
            if column.name in wanted
            else pa.nulls(batch.num_rows)
            for column in TABLES[table]
        }
        names = list(typed)
        try:
            for values in zip(*(column.to_pylist() for column in typed.values()), strict=True):
                yield start, dict(zip(names, values, strict=True))
                start += 1
        except UnicodeDecodeError:  # which is raised before the first row
            for index in range(batch.num_rows):
                try:
                    row = {name: column[index].as_py() for name, column in typed.items()}
                except UnicodeDecodeError as error:
                    report.damage(FILES[table], start, error)
                else:
                    yield start, row
                start += 1


def _typed(values: Any, wanted: pa.DataType) -> Any:
    """The column in its own type; whole nanoseconds for a time. Raises Damaged."""
    try:
        values = values.cast(wanted)
        return values.cast(pa.int64()) if wanted == TIME else values
    except pa.ArrowException as error:
        raise Damaged(f"a column of type {values.type} for {wanted}: {error}") from None
