"""What every benchmark prints: a table, and as its last line one JSON object."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

PACKAGES = ("apache-tvm", "ray", "lightgbm", "numpy", "onnx", "onnxruntime", "xgboost-cpu")
"""Whose versions a figure depends on, beside those that a build depends on."""


def last_line(benchmark: str, figures: Mapping[str, float], target: str = "") -> str:
    """``{"benchmark", "figures", "machine", "versions"}``; raises ValueError for a NaN."""
    result = {
        "benchmark": benchmark,
        "figures": dict(figures),
        "machine": machine(target),
        "versions": versions(),
    }
    return json.dumps(result, allow_nan=False)


def machine(target: str = "") -> dict[str, str | int]:
    """Where the figures were measured; ``target`` as JSON, if something was compiled."""
    known = {"target": target} if target else {}
    return {"machine": platform.machine(), "cpu": _cpu(), "cpus": os.cpu_count() or 1, **known}


def versions() -> dict[str, str]:
    """Of Python, TVM, LLVM and the packages that are installed."""
    from device_agent.build import tool_versions

    found = {"python": platform.python_version(), **tool_versions()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    names = [line for line in text.splitlines() if line.startswith("model name")]
    return names[0].partition(":")[2].strip() if names else platform.processor()


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Text in columns, the first flush left: floats with three digits, None as a dash."""
    cells = [list(headings), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headings))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    )


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
