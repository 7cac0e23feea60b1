"""Traces as text: what MetaSchedule records of a schedule, in JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_PARALLEL = "Parallel"
"""The instruction that divides a loop among threads."""


def trace_to_json(trace: Any) -> str:
    """The text of a schedule's trace, postprocessing included."""
    from tvm.tirx import FloatImm, IntImm

    def plain(value: Any) -> Any:
        if isinstance(value, IntImm):
            return int(value.value)
        if isinstance(value, FloatImm):
            return float(value.value)
        if isinstance(value, Mapping):
            return dict(value.items())
        if isinstance(value, Sequence):
            return list(value)
        raise TypeError(f"a trace with a {type(value).__name__}, which JSON can't express")

    return json.dumps(trace.as_json(False), default=plain, separators=(",", ":"))


def uses_threads(trace_json: str) -> bool:
    """True if the schedule has a parallel loop; the untuned program has none."""
    return f'"{_PARALLEL}"' in trace_json
