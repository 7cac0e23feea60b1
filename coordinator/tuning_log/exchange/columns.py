"""The columns of the Parquet files, and how a value of the log becomes one of theirs and back.

docs/tuning-log.md has them as tables; a test compares the two.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

_NS = 10**9

TIME = pa.timestamp("ns", "UTC")
SIZES = pa.list_(pa.int32())
SAMPLES = pa.list_(pa.float64())
LABELS = pa.map_(pa.string(), pa.string())


@dataclass(frozen=True)
class Column:
    """One column: its name here, its type, and the log's column that it is made from by
    ``encode``. Without ``required`` it may be NULL."""

    name: str
    type: pa.DataType
    required: bool = False
    source: str = ""
    encode: Callable[[Any], Any] | None = None

    @property
    def of(self) -> str:
        """The log's name for it."""
        return self.source or self.name


def to_ns(seconds: float) -> int:
    """Exactly: a second since 1970 as a double has a finer unit than it can say."""
    whole = math.floor(seconds)
    return whole * _NS + round((seconds - whole) * _NS)


def from_ns(nanoseconds: int) -> float:
    """The way back, to the same double."""
    return nanoseconds / _NS


def _texts(*names: str) -> list[Column]:
    return [Column(name, pa.string()) for name in names]


def _doubles(*names: str) -> list[Column]:
    return [Column(name, pa.float64()) for name in names]


def _time(name: str) -> Column:
    return Column(name, TIME, True, encode=to_ns)


def _text(name: str) -> Column:
    return Column(name, pa.string(), True)


def _telemetry(when: str) -> list[Column]:
    return [
        *_doubles(f"{when}_temperature_c", f"{when}_frequency_mhz"),
        *_texts(f"{when}_governor"),
        *_doubles(f"{when}_load_1m"),
        *_texts(f"{when}_throttled"),
    ]


WORKLOADS = (
    *(_text(name) for name in ("key", "workload_json", "args_json")),
    Column("num_outputs", pa.int32(), True),
    Column("flops", pa.float64(), True),
)

CANDIDATES = tuple(_text(name) for name in ("key", "workload_key", "trace_json"))

MEASUREMENTS = (
    Column("id", pa.int64(), True),
    _time("measured_at"),
    *_texts("job_id", "lease_id"),
    _text("workload_key"),
    _text("candidate_key"),
    *_texts("artifact_sha256"),
    _text("device_kind"),
    _text("status"),
    Column("latency_us", pa.float64()),
    Column("repeats_s", SAMPLES, True, "repeats_s_json", json.loads),
    _text("error"),
    *_doubles("max_abs_error", "predicted_score"),
    Column("cold_cache", pa.bool_(), True),
    *_texts("device"),
    Column("emulated", pa.bool_()),
    Column("num_threads", pa.int32()),
    Column("cpus", SIZES, False, "cpus_json", json.loads),
    *_texts("evaluator_json", "tool_versions_json", "tool_versions_key"),
    *_telemetry("before"),
    *_telemetry("after"),
    *_doubles("lock_wait_s", "busy_s", "load_s", "check_s", "time_s", "canary_ratio"),
)

DEVICES = (
    *(_text(name) for name in ("name", "kind", "target_json", "cpu_model")),
    Column("emulated", pa.bool_(), True),
    _text("host"),
    Column("labels", LABELS, True),
    _text("record_json"),
    _time("first_seen_at"),
    _time("last_seen_at"),
)

JOBS = (
    *(_text(name) for name in ("job_id", "identity", "project", "submitted_by")),
    _time("submitted_at"),
    _time("heartbeat_at"),
    *(_text(name) for name in ("model_name", "model_sha256", "target_json", "shapes_json")),
    Column("requested_trials", pa.int64(), True),
    *_doubles("time_limit_s", "target_latency_ms", "flat_share"),
    Column("seed", pa.int64(), True),
    Column("cold_cache", pa.bool_(), True),
    Column("direct_convolutions", pa.bool_(), True),
    _text("priority"),
    *_doubles("canary_drift"),
    *(_text(name) for name in ("devices_json", "targets_json", "where_json")),
    Column("exclusive", pa.bool_(), True),
    *_texts("parent_id"),
    *(_text(name) for name in ("state", "tuning_ended", "error")),
    Column("elapsed_s", pa.float64(), True),
    *(
        Column(name, pa.int64(), True)
        for name in ("trials_total", "trials_ok", "trials_failed", "trials_from_log")
    ),
    _text("tasks_json"),
    *_doubles("ranking_pairwise", "ranking_peak_at_1", "ranking_peak_at_5"),
    *_texts("package_sha256", "result_json"),
)

TABLES: Mapping[str, Sequence[Column]] = {
    "workloads": WORKLOADS,
    "candidates": CANDIDATES,
    "measurements": MEASUREMENTS,
    "devices": DEVICES,
    "jobs": JOBS,
}


def schema(table: str) -> pa.Schema:
    """The schema of one file."""
    fields = [pa.field(c.name, c.type, nullable=not c.required) for c in TABLES[table]]
    return pa.schema(fields)


def batch(table: str, rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
    """Rows of the log, by the log's own names, as rows of the file."""
    arrays = []
    for column in TABLES[table]:
        values: list[Any] = [row[column.of] for row in rows]
        if column.encode is not None:
            values = [None if value is None else column.encode(value) for value in values]
        arrays.append(pa.array(values, column.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema(table))
