"""A measurement and its circumstances as columns, and back."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from protos.records import (
    Circumstances,
    EvaluatorConfig,
    Measurement,
    MeasurementStatus,
    Telemetry,
    canonical_json,
)

from .values import (
    MAX_ERROR_BYTES,
    clean,
    clean_optional,
    clean_tools,
    finite,
    from_json,
    numbers_from_json,
    numbers_to_json,
    or_nan,
    to_json,
    tool_versions_key,
)

_SEEN = 64
"""Of evaluators and of sets of tools, how many are remembered as text."""


def measurement_columns(measurement: Measurement) -> dict[str, Any]:
    """All columns of ``measurements`` that the record alone decides."""
    return {
        "lease_id": measurement.lease_id or None,
        "workload_key": measurement.workload_key,
        "candidate_key": measurement.candidate_key,
        "artifact_sha256": measurement.artifact_sha256 or None,
        "status": measurement.status.name,
        "latency_us": usable_latency_us(measurement),
        "repeats_s_json": numbers_to_json(measurement.repeats_s),
        "error": clean(measurement.error, MAX_ERROR_BYTES),
        "max_abs_error": finite(measurement.max_abs_error),
        **_circumstance_columns(measurement.circumstances),
    }


def usable_latency_us(measurement: Measurement) -> float | None:
    """The latency if it can be one: a device that counts backwards must not win."""
    latency_us = measurement.latency_us
    if latency_us is None or any(not math.isfinite(r) or r <= 0 for r in measurement.repeats_s):
        return None
    return latency_us


def measurement_of(row: sa.Row[Any]) -> Measurement:
    """The record in a row of ``measurements``."""
    return Measurement(
        workload_key=row.workload_key,
        candidate_key=row.candidate_key,
        status=MeasurementStatus[row.status],
        lease_id=row.lease_id or "",
        artifact_sha256=row.artifact_sha256 or "",
        repeats_s=numbers_from_json(row.repeats_s_json),
        error=row.error,
        max_abs_error=or_nan(row.max_abs_error),
        circumstances=_circumstances(row),
    )


def _circumstance_columns(circumstances: Circumstances | None) -> dict[str, Any]:
    if circumstances is None:
        return {}
    return {
        "device": clean(circumstances.device),
        "emulated": circumstances.emulated,
        "num_threads": circumstances.num_threads,
        "cpus_json": canonical_json(list(circumstances.cpus)),
        "evaluator_json": _evaluator_json(circumstances.evaluator),
        **_tool_columns(tuple(clean_tools(circumstances.tool_versions).items())),
        **_telemetry_columns("before", circumstances.before),
        **_telemetry_columns("after", circumstances.after),
        "lock_wait_s": finite(circumstances.lock_wait_s),
        "busy_s": finite(circumstances.busy_s),
        "load_s": finite(circumstances.load_s),
        "check_s": finite(circumstances.check_s),
        "time_s": finite(circumstances.time_s),
        "canary_ratio": finite(circumstances.canary_ratio),
        "cold_cache": circumstances.evaluator.cold_cache,
    }


# A device says these with every measurement, and they are the same nearly always.


@functools.lru_cache(maxsize=_SEEN)
def _evaluator_json(evaluator: EvaluatorConfig) -> str:
    return to_json(evaluator)


@functools.lru_cache(maxsize=_SEEN)
def _tool_columns(cleaned: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    tools = dict(cleaned)
    return {
        "tool_versions_json": canonical_json(tools),
        "tool_versions_key": tool_versions_key(tools),
    }


def _telemetry_columns(when: str, telemetry: Telemetry) -> dict[str, Any]:
    return {
        f"{when}_temperature_c": finite(telemetry.temperature_c),
        f"{when}_frequency_mhz": finite(telemetry.frequency_mhz),
        f"{when}_governor": clean_optional(telemetry.governor),
        f"{when}_load_1m": finite(telemetry.load_1m),
        f"{when}_throttled": clean_optional(telemetry.throttled),
    }


def _circumstances(row: sa.Row[Any]) -> Circumstances | None:
    if row.device is None:
        return None
    return Circumstances(
        device=row.device,
        tool_versions=from_json(Mapping[str, str], row.tool_versions_json),  # type: ignore[type-abstract]
        evaluator=from_json(EvaluatorConfig, row.evaluator_json),
        num_threads=row.num_threads,
        cpus=from_json(tuple[int, ...], row.cpus_json),
        emulated=row.emulated,
        before=_telemetry(row, "before"),
        after=_telemetry(row, "after"),
        lock_wait_s=or_nan(row.lock_wait_s),
        busy_s=or_nan(row.busy_s),
        load_s=row.load_s or 0.0,  # records from before these columns have none
        check_s=row.check_s or 0.0,
        time_s=row.time_s or 0.0,
        canary_ratio=row.canary_ratio,
    )


def _telemetry(row: sa.Row[Any], when: str) -> Telemetry:
    columns = row._mapping
    return Telemetry(
        temperature_c=columns[f"{when}_temperature_c"],
        frequency_mhz=columns[f"{when}_frequency_mhz"],
        governor=columns[f"{when}_governor"],
        load_1m=columns[f"{when}_load_1m"],
        throttled=columns[f"{when}_throttled"],
    )
