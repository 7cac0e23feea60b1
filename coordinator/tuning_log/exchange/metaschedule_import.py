"""Records of stock MetaSchedule into a log, as seeds.

They don't say on which device or how they were timed. So they are kept under a kind that no device
has, made of their target: they never answer for a device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protos.records import Candidate

from ..store import TuningLog
from .metaschedule_files import files_of
from .parquet_import import args_json
from .report import Damaged, ImportReport, Progress, no_progress
from .rows import (
    MAX_TRACE_BYTES,
    MAX_WORKLOAD_BYTES,
    check_repeats,
    loads,
    seed_row,
)
from .tvm_process import TvmProcess
from .writer import LogWriter, Row, batches

FAILED_S = 1e10
"""What MetaSchedule writes for a time if there is none."""

_MAX_WORKLOADS = 1 << 31

_SLACK_BYTES = 1 << 20
"""What else there is on a line."""


@dataclass(frozen=True)
class StockWorkload:
    """A line of the file of workloads, and what it is here."""

    structural: str
    encoded: str
    row: Row

    @property
    def key(self) -> str:
        """Its key in the log."""
        return str(self.row.columns["key"])


def import_metaschedule(
    log: TuningLog,
    path: Path,
    user: str,
    report: ImportReport,
    process: TvmProcess,
    progress: Progress = no_progress,
) -> None:
    """Bring in MetaSchedule's files of workloads and records.

    ``report`` is what came of it, at any time. Raises BadRequest if a file is missing.
    """
    texts, records = files_of(path)
    writer = LogWriter(log, report, str(records.absolute()), "metaschedule", user)
    workloads = _workloads(texts, report, process)
    writer.add_workloads([workload.row for workload in workloads.values()])
    total = records.stat().st_size
    for batch in batches(_records(records, workloads, report, process)):
        writer.add_candidates(_candidates(batch))
        writer.add_measurements([_without_trace(row) for row in batch])
        progress(batch[-1].columns["end"], total)
    progress(total, total)


def _workloads(path: Path, report: ImportReport, process: TvmProcess) -> dict[int, StockWorkload]:
    """By their numbers in the file, which count from 0."""
    found = {}
    for number, _end, line in _lines(path, MAX_WORKLOAD_BYTES * 4 // 3 + _SLACK_BYTES, report):
        try:
            value = loads(line)
            match value:
                case [str() as structural, str() as encoded]:
                    found[number - 1] = _described(path.name, number, structural, encoded, process)
                case _:
                    raise Damaged("no pair of a structural hash and a module")
        except Damaged as error:
            report.damage(path.name, number, error)
    return found


def _described(
    file: str, number: int, structural: str, encoded: str, process: TvmProcess
) -> StockWorkload:
    answer = process.ask("from_stock_workload", structural=structural, encoded=encoded)
    columns = {
        "key": answer["key"],
        "workload_json": answer["workload_json"],
        "args_json": args_json(answer["args"]),
        "num_outputs": answer["num_outputs"],
        "flops": answer["flops"],
    }
    if len(columns["workload_json"]) > MAX_WORKLOAD_BYTES:
        raise Damaged(f"a workload of more than {MAX_WORKLOAD_BYTES} bytes")
    return StockWorkload(structural, encoded, Row(file, number, columns))


def _records(
    path: Path, workloads: dict[int, StockWorkload], report: ImportReport, process: TvmProcess
) -> Iterator[Row]:
    """The records that are right and whose traces apply, with the trace beside their columns."""
    for number, end, line in _lines(path, MAX_TRACE_BYTES + _SLACK_BYTES, report):
        try:
            match loads(line):
                case [int() as index, [[list(), list()] as trace, run_s, target, *_]] if (
                    0 <= index < _MAX_WORKLOADS
                ):
                    if _failed(run_s):
                        report.left_out += 1
                        report.readable += 1
                        continue
                    workload = workloads.get(index)
                    if workload is None:
                        raise Damaged(f"its workload, line {index + 1}, is not there or damaged")
                    columns = _seed(workload, trace, run_s, target, process)
                    yield Row(path.name, number, {**columns, "end": end})
                case _:
                    raise Damaged("no record: a workload's number and [trace, run_secs, target, …]")
        except Damaged as error:
            report.damage(path.name, number, error)


def _failed(run_s: Any) -> bool:
    """True if MetaSchedule got no time; it does not write down why."""
    if run_s is None or run_s == []:
        return True
    return isinstance(run_s, list) and any(
        isinstance(each, int | float) and each >= FAILED_S for each in run_s
    )


def _seed(
    workload: StockWorkload, trace: Any, run_s: Any, target: Any, process: TvmProcess
) -> dict[str, Any]:
    try:
        if not all(type(each) in (int, float) for each in check_repeats(run_s)):
            raise Damaged("run_secs are no numbers")
        repeats_s = tuple(float(each) for each in run_s)
    except OverflowError:
        raise Damaged("run_secs are too large") from None
    answer = process.ask(
        "from_stock_record",
        structural=workload.structural,
        encoded=workload.encoded,
        trace=trace,
        target=target,
    )
    trace_json = answer["trace_json"]
    if len(trace_json.encode()) > MAX_TRACE_BYTES:
        raise Damaged(f"a trace of more than {MAX_TRACE_BYTES} bytes")
    columns = seed_row(Candidate(workload.key, trace_json), answer["kind"], repeats_s)
    return {**columns, "trace_json": trace_json}


def _candidates(batch: list[Row]) -> list[Row]:
    """Each once."""
    found: dict[str, Row] = {}
    for row in batch:
        key = row.columns["candidate_key"]
        columns = {
            "key": key,
            "workload_key": row.columns["workload_key"],
            "trace_json": row.columns["trace_json"],
        }
        found.setdefault(key, Row(row.file, row.number, columns))
    return list(found.values())


def _without_trace(row: Row) -> Row:
    columns = {name: v for name, v in row.columns.items() if name not in ("trace_json", "end")}
    return Row(row.file, row.number, columns)


def _lines(path: Path, max_bytes: int, report: ImportReport) -> Iterator[tuple[int, int, bytes]]:
    """Each line with its number and where it ends; one that is too long is damaged."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(max_bytes + 1):
            number += 1
            if len(line) <= max_bytes:
                if line.strip():
                    yield number, file.tell(), line
                continue
            while not line.endswith(b"\n") and (line := file.readline(1 << 20)):
                pass
            report.damage(path.name, number, f"longer than {max_bytes} bytes")
