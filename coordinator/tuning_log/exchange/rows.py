"""Rows from a file, checked: what a log would not write itself is Damaged."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from protos.records import (
    Candidate,
    Circumstances,
    EvaluatorConfig,
    Measurement,
    MeasurementStatus,
    Telemetry,
    canonical_json,
    sha256_hex,
)

from ..circumstances import measurement_columns
from ..values import (
    MAX_ERROR_BYTES,
    MAX_NAME_BYTES,
    MAX_REPEATS,
    MAX_TOOLS,
    finite,
    from_json,
    numbers_to_json,
    or_nan,
)
from .columns import from_ns
from .report import Damaged
from .tvm_worker import SEED_KIND

MAX_WORKLOAD_BYTES = 16 << 20
MAX_TRACE_BYTES = 4 << 20
MAX_JSON_BYTES = 16 << 10
MAX_CPUS = 4096

IMPORTED = "import-"
"""How leases begin that an import made up, for records that have none."""

_OF_A_DEVICE = (
    *("device", "emulated", "num_threads", "cpus", "evaluator_json", "tool_versions_json"),
    *(f"{when}_{what}" for when in ("before", "after") for what in (
        "temperature_c", "frequency_mhz", "governor", "load_1m", "throttled")),
    *("lock_wait_s", "busy_s", "load_s", "check_s", "time_s", "canary_ratio"),
)  # fmt: skip


def loads(text: str | bytes) -> Any:
    """The value that a JSON text from outside is; raises Damaged."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"no JSON: {error}") from None


def bounded(row: Mapping[str, Any], name: str, max_bytes: int = MAX_NAME_BYTES) -> str:
    """A text of a row; raises Damaged if it is too long or a database would not take it."""
    text = row[name]
    if not isinstance(text, str):
        raise Damaged(f"{name} is missing")
    size = len(text.encode("utf-8", "replace"))
    if size > max_bytes:
        raise Damaged(f"{name} has {size} bytes, more than {max_bytes}")
    if "\0" in text:
        raise Damaged(f"{name} has a NUL in it")
    return text


def _optional(row: Mapping[str, Any], name: str, max_bytes: int = MAX_NAME_BYTES) -> str | None:
    return None if row[name] is None else bounded(row, name, max_bytes)


def _key(row: Mapping[str, Any], name: str, pattern: str = "[0-9a-f]{32}") -> str:
    text = bounded(row, name)
    if re.fullmatch(pattern, text) is None:
        raise Damaged(f"{name} {text[:80]!r} is none")
    return text


def workload_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of ``workloads``; that they say what the workload is, is for TVM to check."""
    columns = {
        "key": _key(row, "key"),
        "workload_json": bounded(row, "workload_json", MAX_WORKLOAD_BYTES),
        "args_json": bounded(row, "args_json", MAX_TRACE_BYTES),
        "num_outputs": row["num_outputs"],
        "flops": row["flops"],
    }
    args = loads(columns["args_json"])
    if not isinstance(args, list) or not 1 <= (row["num_outputs"] or 0) <= len(args):
        raise Damaged(f"{row['num_outputs']} outputs of its parameters are none")
    if row["flops"] is None or not 0 <= row["flops"] < math.inf:
        raise Damaged(f"flops are {row['flops']}")
    return columns


def candidate_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of ``candidates``."""
    key = _key(row, "key", "[0-9a-f]{64}")
    trace_json = bounded(row, "trace_json", MAX_TRACE_BYTES)
    if trace_json and not isinstance(loads(trace_json), list):
        raise Damaged("trace_json is no list")
    candidate = Candidate(_key(row, "workload_key"), trace_json)
    if candidate.key != key:
        raise Damaged(f"the candidate's key {key} is not that of its content, {candidate.key}")
    return {"key": key, "workload_key": candidate.workload_key, "trace_json": trace_json}


def measurement_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of ``measurements``, without the import's number."""
    if row["measured_at"] is None or row["measured_at"] < 0:
        raise Damaged("measured_at is missing or before 1970")
    kind = _key(row, "device_kind", "[A-Za-z0-9._-]{1,64}")
    measurement = _measurement(row)
    columns = measurement_columns(measurement)
    _check_latency(row["latency_us"], columns["latency_us"])
    if measurement.ok and measurement.circumstances is None and not kind.startswith(SEED_KIND):
        raise Damaged("a time without circumstances, under a kind that devices may have")
    cold_cache = columns.get("cold_cache", row["cold_cache"])
    if cold_cache is not row["cold_cache"]:
        raise Damaged("cold_cache is not what its evaluator says")
    columns |= {
        "measured_at": from_ns(row["measured_at"]),
        "device_kind": kind,
        "predicted_score": finite(row["predicted_score"]),
        "cold_cache": cold_cache,
    }
    for name in ("load_s", "check_s", "time_s"):  # NULL in old records, which is not 0
        columns[name] = finite(row[name])
    columns["lease_id"] = columns["lease_id"] or made_up_lease(columns)
    return columns


def made_up_lease(columns: Mapping[str, Any]) -> str:
    """The lease of a record that has none: the same for the same content."""
    names = ("measured_at", "device_kind", "candidate_key", "status", "repeats_s_json", "error")
    text = canonical_json([columns.get(name) for name in names])
    return IMPORTED + sha256_hex(text.encode())[:32]


def check_repeats(repeats: Any) -> tuple[float, ...]:
    """Repeats from outside; NULL stands for what was not finite. Raises Damaged."""
    if not isinstance(repeats, list) or len(repeats) > MAX_REPEATS:
        raise Damaged(f"its repeats are no list of at most {MAX_REPEATS}")
    return tuple(or_nan(repeat) for repeat in repeats)


def _measurement(row: Mapping[str, Any]) -> Measurement:
    status = row["status"]
    if status not in MeasurementStatus.__members__:
        raise Damaged(f"unknown status {str(status)[:80]!r}")
    artifact = row["artifact_sha256"]
    return Measurement(
        workload_key=_key(row, "workload_key"),
        candidate_key=_key(row, "candidate_key", "[0-9a-f]{64}"),
        status=MeasurementStatus[status],
        lease_id=_optional(row, "lease_id") or "",
        artifact_sha256="" if artifact is None else _key(row, "artifact_sha256", "[0-9a-f]{64}"),
        repeats_s=check_repeats(row["repeats_s"]),
        error=bounded(row, "error", MAX_ERROR_BYTES),
        max_abs_error=or_nan(row["max_abs_error"]),
        circumstances=_circumstances(row),
    )


def _check_latency(given: float | None, meant: float | None) -> None:
    if given is not None and not 0 < given < math.inf:
        raise Damaged(f"a latency of {given} µs")
    if (given is None) != (meant is None) or (
        given is not None and meant is not None and not math.isclose(given, meant, rel_tol=1e-9)
    ):
        raise Damaged(f"a latency of {given} µs, where its status and repeats say {meant}")


def _circumstances(row: Mapping[str, Any]) -> Circumstances | None:
    if row["device"] is None:
        if any(row[name] is not None for name in _OF_A_DEVICE):
            raise Damaged("circumstances without a device")
        return None
    cpus, threads = row["cpus"], row["num_threads"]
    if cpus is None or len(cpus) > MAX_CPUS or None in cpus or threads is None or threads < 0:
        raise Damaged("cpus or num_threads are missing or none")
    if row["emulated"] is None:
        raise Damaged("emulated is missing")
    return Circumstances(
        device=bounded(row, "device"),
        tool_versions=_tools(row),
        evaluator=_evaluator(row),
        num_threads=threads,
        cpus=tuple(cpus),
        emulated=row["emulated"],
        before=_telemetry(row, "before"),
        after=_telemetry(row, "after"),
        lock_wait_s=or_nan(row["lock_wait_s"]),
        busy_s=or_nan(row["busy_s"]),
        canary_ratio=row["canary_ratio"],
    )


def _tools(row: Mapping[str, Any]) -> dict[str, str]:
    tools = loads(bounded(row, "tool_versions_json", MAX_JSON_BYTES * 4))
    if not isinstance(tools, dict) or len(tools) > MAX_TOOLS:
        raise Damaged(f"tool_versions_json is no object of at most {MAX_TOOLS}")
    if not all(isinstance(version, str) for version in tools.values()):
        raise Damaged("tool_versions_json has a version that is no text")
    return tools


def _evaluator(row: Mapping[str, Any]) -> EvaluatorConfig:
    text = bounded(row, "evaluator_json", MAX_JSON_BYTES)
    value = loads(text)
    plain = EvaluatorConfig()
    if not isinstance(value, dict) or not all(
        type(item) is type(default) or (type(item) is int and type(default) is float)
        for name, item in value.items()
        if (default := getattr(plain, name, None)) is not None
    ):
        raise Damaged("evaluator_json is none")
    try:
        return from_json(EvaluatorConfig, text)
    except Exception as error:
        raise Damaged(f"evaluator_json is none: {error}") from None


def _telemetry(row: Mapping[str, Any], when: str) -> Telemetry:
    return Telemetry(
        temperature_c=row[f"{when}_temperature_c"],
        frequency_mhz=row[f"{when}_frequency_mhz"],
        governor=_optional(row, f"{when}_governor"),
        load_1m=row[f"{when}_load_1m"],
        throttled=_optional(row, f"{when}_throttled"),
    )


def seed_row(candidate: Candidate, kind: str, repeats_s: tuple[float, ...]) -> dict[str, Any]:
    """The columns of a record that is right, and of unknown circumstances."""
    measurement = Measurement(
        candidate.workload_key, candidate.key, MeasurementStatus.OK, repeats_s=repeats_s
    )
    columns = measurement_columns(measurement) | {"device_kind": kind, "cold_cache": False}
    if columns["latency_us"] is None:
        raise Damaged(f"run_secs {numbers_to_json(repeats_s)[:80]} are no times")
    columns["lease_id"] = made_up_lease(columns)
    return columns
