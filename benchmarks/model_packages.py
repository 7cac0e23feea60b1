"""The ways to run a model that ``benchmarks.models`` times, each as a package for the device agent.

The engines' packages are those that the farm writes for its own comparison. The farm's own code is
compiled again from the tuning log, with each choice of records that a job has: a job that found an
engine faster kept that engine's package only.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx

from coordinator.frontend.importer import ImportedModel, import_model
from coordinator.frontend.onnx_model import load_model
from coordinator.frontend.target import cpu_flags
from coordinator.package.manifest import Manifest
from coordinator.package.wheel import write_wheel
from coordinator.results.compile import compile_parts
from coordinator.results.engine_parts import CannotRun, engine_part
from coordinator.results.engines import engine_manifest, engines_used
from coordinator.results.selection import (
    THREAD_HANDICAPS_US,
    USUAL_HANDICAPS_US,
    selections,
)
from coordinator.search.composition import Known, compose
from coordinator.tuning_log import Evidence, TuningLog
from protos.engines import REFERENCE_ENGINE
from protos.records import OWN, Device, Shape, TensorSpec


@dataclass(frozen=True)
class OwnShare:
    """How much of a package is the farm's own code: of the model's operators, and of its time."""

    operators: float
    time: float


def packaged_manifest(wheel: bytes) -> dict[str, Any]:
    """The ``manifest.json`` of a package."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        (path,) = [name for name in archive.namelist() if name.endswith("/manifest.json")]
        found: dict[str, Any] = json.loads(archive.read(path))
    return found


def own_share(wheel: bytes, model: bytes) -> OwnShare:
    """All or nothing for a package that is one part.

    Of a package of several parts, the operators are the ONNX file's that are not in an engine's
    part, and the time is what the tuning records of the farm's operators add up to, of the latency
    that the manifest says.
    """
    manifest = packaged_manifest(wheel)
    ours = [part["engine"] == OWN for part in manifest["parts"]]
    if all(ours) or not any(ours):
        return OwnShare(float(all(ours)), float(all(ours)))
    nodes = len(onnx.load_from_string(model).graph.node)
    theirs = sum(part["operators"] for part in manifest["parts"] if part["engine"] != OWN)
    records_us = [record["weight"] * (record["latency_us"] or 0) for record in manifest["records"]]
    own = sum(records_us) / 1e3 / manifest["latency"]["tuned_ms"]
    return OwnShare(max(0.0, 1 - theirs / nodes), min(1.0, own))


def engine_packages(
    manifest: Mapping[str, Any], model: bytes, shapes: Mapping[str, Shape], device: Device
) -> dict[str, bytes]:
    """The package for each engine of the device that can run the model, by its name; ``manifest``
    is of any package."""
    described = _described(manifest)
    inputs = tuple(name for name, _ in described.inputs)
    outputs = tuple(name for name, _ in described.outputs)
    fixed: bytes = load_model(model, shapes).SerializeToString()
    found = {}
    for name, used in engines_used(device).items():
        part = engine_part(name, fixed, inputs, outputs)
        if isinstance(part, CannotRun):
            continue
        found[name] = write_wheel([part], engine_manifest(described, used))[1]
    return found


def own_packages(
    manifest: Mapping[str, Any],
    model: bytes,
    shapes: Mapping[str, Shape],
    device: Device,
    log: str,
) -> list[bytes]:
    """The farm's own code with each choice of records that the log gives.

    Takes a minute. Raises what importing and compiling raise.
    """
    target = device.target_json
    imported = import_model(model, shapes, target)
    tuning_log = TuningLog.open(log)
    try:
        known = {
            task.workload_key: tuning_log.evidence(task.workload_key, device.kind)
            for task in imported.all_tasks
        }
    finally:
        tuning_log.close()
    used = [one for name, one in engines_used(device).items() if name == REFERENCE_ENGINE]
    described = replace(
        _described(manifest),
        cpu_features=tuple(cpu_flags(target)),
        engines=tuple(used) if imported.theirs else (),
    )
    found = []
    for algorithms in _compared(imported, known):
        made = import_model(model, shapes, target, algorithms) if algorithms else imported
        own = {task.workload_key: known[task.workload_key] for task in made.tasks}
        for choice in selections(own, USUAL_HANDICAPS_US if found else THREAD_HANDICAPS_US):
            traces = {key: chosen.candidate.trace_json for key, chosen in choice.items()}
            found.append(write_wheel(compile_parts(made.parts, target, traces), described)[1])
    return found


def _compared(
    imported: ImportedModel, known: Mapping[str, Sequence[Evidence]]
) -> tuple[Mapping[str, int], ...]:
    """The algorithms that a job compares, by the latencies of its search."""
    best_us = {
        key: min((one.latency_us for one in items if one.latency_us is not None), default=None)
        for key, items in known.items()
    }
    direct = {task.workload_key: task.weight for task in imported.all_tasks}
    found = {key: Known(us, 0) for key, us in best_us.items() if us is not None}
    return compose(direct, imported.variants, found).compared


def _described(manifest: Mapping[str, Any]) -> Manifest:
    return Manifest(
        model_file=manifest["model"]["file"],
        model_sha256=manifest["model"]["sha256"],
        target_json=manifest["target"],
        cpu_features=(),
        inputs=_tensors(manifest["inputs"]),
        outputs=_tensors(manifest["outputs"]),
    )


def _tensors(entries: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, TensorSpec], ...]:
    return tuple(
        (one["name"], TensorSpec(tuple(one["shape"]), str(one["dtype"]))) for one in entries
    )
