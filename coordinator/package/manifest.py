"""What a package says about itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from protos.records import TensorSpec

MANIFEST_VERSION = 5
"""Raised when a package is put together in another way; one of an older version is made anew."""


@dataclass(frozen=True)
class Record:
    """The tuning record that a fused operator of the package was built from.

    ``candidate_key`` names it in the tuning log; the untuned program has one, too. ``latency_us``
    is None if it was never measured.
    """

    name: str
    workload_key: str
    candidate_key: str
    weight: int
    latency_us: float | None = None


@dataclass(frozen=True)
class EngineUsed:
    """An engine that runs parts of the model, or all of it; ``licence`` in SPDX."""

    name: str
    version: str
    licence: str


@dataclass(frozen=True)
class Latency:
    """The whole model's latency in milliseconds, all measured in one run; None where it failed."""

    untuned_ms: float | None
    tuned_ms: float
    engines: Mapping[str, float | None] = field(default_factory=dict)
    device: str = ""
    max_abs_error: float | None = None


@dataclass(frozen=True)
class Manifest:
    """All that a package's ``manifest.json`` holds beside what the wheel's writer adds.

    ``inputs`` and ``outputs`` are in the order of the compiled function, by their ONNX names.
    ``latency`` is None in the package that is still to be measured; ``engines`` are those that the
    parts need, none for a package of the farm's own code.
    """

    model_file: str
    model_sha256: str
    target_json: str
    cpu_features: tuple[str, ...]
    inputs: tuple[tuple[str, TensorSpec], ...]
    outputs: tuple[tuple[str, TensorSpec], ...]
    records: tuple[Record, ...] = ()
    tool_versions: Mapping[str, str] = field(default_factory=dict)
    latency: Latency | None = None
    cold_cache: bool = False
    engines: tuple[EngineUsed, ...] = ()


def manifest_json(
    manifest: Manifest,
    parts: Sequence[Mapping[str, Any]],
    *,
    name: str,
    architecture: str,
    num_threads: int,
    created_by: str,
) -> dict[str, Any]:
    """The JSON object of ``manifest.json``; ``parts`` are in the order in which they run."""
    return {
        "manifest_version": MANIFEST_VERSION,
        "model": {"name": name, "file": manifest.model_file, "sha256": manifest.model_sha256},
        "target": manifest.target_json,
        "architecture": architecture,
        "cpu_features": sorted(manifest.cpu_features),
        "num_threads": num_threads,
        "inputs": [_tensor(name, spec) for name, spec in manifest.inputs],
        "outputs": [_tensor(name, spec) for name, spec in manifest.outputs],
        "engines": [asdict(used) for used in manifest.engines],
        "parts": [dict(part) for part in parts],
        "records": [asdict(record) for record in manifest.records],
        "tool_versions": dict(manifest.tool_versions),
        "latency": None if manifest.latency is None else asdict(manifest.latency),
        "cache_policy": "cold" if manifest.cold_cache else "warm",
        "created_by": created_by,
    }


def _tensor(name: str, spec: TensorSpec) -> dict[str, Any]:
    return {"name": name, "shape": list(spec.shape), "dtype": spec.dtype}
