"""The records of ``benchmarks.cost_model`` with the features of both cost models.

Features are extracted anew from the traces, so that what is compared is this version's. A row's
latency is what all records of the candidate say together, the median of its finals left out: both
models are to learn from what a search knew.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import multiprocessing
import os
import sqlite3
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from coordinator.tuning_log import TuningLog
from cost_model.features import Features, candidate_features
from protos.records import UNTUNED_TRACE

RECORDS = Path(__file__).with_name("records")
DEFECT_RECORDS = Path(__file__).with_name("defect_records")
"""Of programs that were broken on purpose, from which nothing is learnt."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """A measured candidate. ``stores``, of shape (n, 172), are MetaSchedule's features; latency in
    microseconds, infinite if it failed; ``order`` is that of the measurements."""

    workload_key: str
    candidate_key: str
    order: int
    latency_us: float
    status: str
    features: Features
    stores: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Work:
    """One workload with its candidates, for one process."""

    workload_key: str
    workload_json: str
    target_json: str
    traces: tuple[tuple[str, str, int, float, str], ...]


def load(source: Path, least: int, most_tasks: int | None = None) -> list[Row]:
    """Rows of an exported folder or of a log, of tasks with at least ``least`` candidates."""
    if source.is_dir():
        with tempfile.TemporaryDirectory(prefix="tunefarm-records-") as folder:
            url = str(Path(folder) / "log.db")
            _import(source, url)
            return _extract(_works(url, least, _exported_target(source))[:most_tasks])
    return _extract(_works(str(source), least, _target(source))[:most_tasks])


def _import(source: Path, url: str) -> None:
    from coordinator.tuning_log.exchange.parquet_import import import_parquet
    from coordinator.tuning_log.exchange.report import ImportReport
    from coordinator.tuning_log.exchange.tvm_process import TvmProcess

    log = TuningLog.open(url)
    try:
        with TvmProcess() as process:
            import_parquet(log, source, "benchmarks", ImportReport(), process)
    finally:
        log.close()


def _works(url: str, least: int, target: str) -> list[Work]:
    log = TuningLog.open(url)
    database = sqlite3.connect(url)
    try:
        kinds = database.execute(
            "SELECT device_kind, COUNT(*) FROM measurements GROUP BY 1 ORDER BY 2 DESC"
        ).fetchall()
        workloads = database.execute("SELECT key, workload_json FROM workloads ORDER BY key")
        found = []
        for key, workload_json in workloads.fetchall():
            traces = _candidates(log, database, key, kinds[0][0])
            if len(traces) >= least:
                found.append(Work(key, workload_json, target, tuple(traces)))
        return found
    finally:
        database.close()
        log.close()


def _exported_target(folder: Path) -> str:
    import pyarrow.parquet as pq

    return str(pq.read_table(folder / "devices.parquet")["target_json"][0])


def _target(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return str(database.execute("SELECT target_json FROM devices LIMIT 1").fetchone()[0])


def _candidates(
    log: TuningLog, database: sqlite3.Connection, key: str, kind: str
) -> list[tuple[str, str, int, float, str]]:
    statuses = {
        row[0]: (row[1], row[2])
        for row in database.execute(
            "SELECT candidate_key, MIN(id), status FROM measurements "
            "WHERE workload_key = ? AND device_kind = ? GROUP BY 1",
            (key, kind),
        )
    }
    return [
        (
            known.candidate.key,
            known.candidate.trace_json,
            statuses[known.candidate.key][0],
            float("inf") if known.latency_us is None else known.latency_us,
            statuses[known.candidate.key][1],
        )
        for known in log.evidence(key, kind)
        if known.candidate.trace_json != UNTUNED_TRACE
    ]


def _extract(works: Sequence[Work]) -> list[Row]:
    if len(works) < 2:
        return sorted((row for work in works for row in _rows(work)), key=lambda row: row.order)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count(), context) as pool:
        found = [row for rows in pool.map(_rows, works) for row in rows]
    return sorted(found, key=lambda row: row.order)


def _rows(work: Work) -> list[Row]:
    import tvm
    from tvm.s_tir import Schedule
    from tvm.s_tir import meta_schedule as ms
    from tvm.s_tir.schedule import Trace

    from device_agent.build import register_intrinsics

    register_intrinsics(work.target_json)
    module = tvm.ir.load_json(work.workload_json)
    context = ms.TuneContext(
        mod=module,
        target=tvm.target.Target(json.loads(work.target_json)),
        space_generator="post-order-apply",
        task_name="records",
        num_threads=1,
        rand_state=1,
    )
    extractor = ms.feature_extractor.PerStoreFeature(extract_workload=True)
    candidates: list[Any] = []
    for _, trace_json, *_ in work.traces:
        schedule = Schedule(module)
        Trace.apply_json_to_schedule(json.loads(trace_json), schedule)
        candidates.append(ms.MeasureCandidate(schedule, []))
    rows = []
    for (key, trace_json, order, latency_us, status), matrix in zip(
        work.traces, extractor.extract_from(context, candidates), strict=True
    ):
        stores = np.asarray(matrix.numpy())
        rows.append(
            Row(
                work.workload_key,
                key,
                order,
                latency_us,
                status,
                candidate_features(stores, trace_json),
                stores.astype(np.float32),
            )
        )
    return rows
