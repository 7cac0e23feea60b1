"""This machine as a device that runs packages, without a farm around; builders that are here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from coordinator.frontend.importer import ImportedModel
from coordinator.package.manifest import Manifest
from coordinator.results.packaged import Packaged
from device_agent.devices.cpu import describe_cpu
from device_agent.model_runner import ModelRunner
from protos.records import (
    Artifact,
    Circumstances,
    EvaluatorConfig,
    ModelMeasurement,
    ModelVariant,
    ModelWork,
    Telemetry,
)

ONCE = EvaluatorConfig(number=1, repeat=1, min_repeat_ms=1)


async def measure(
    ways: Mapping[str, Packaged],
    examples: bytes,
    evaluator: EvaluatorConfig | None = None,
    *,
    time_parts: bool = False,
) -> ModelMeasurement:
    """Verify and time ways to run a model, on one CPU."""
    variants = tuple(
        [ModelVariant(name, Artifact.of((await way.wheel())[1])) for name, way in ways.items()]
    )
    runner = ModelRunner(describe_cpu("test", None, sorted(os.sched_getaffinity(0))[:1], False))
    try:
        work = ModelWork(variants, Artifact.of(examples), evaluator or ONCE, 1, time_parts)
        run = runner.run(work, lambda artifact: artifact.data)
    finally:
        runner.close()
    circumstances = Circumstances(
        "test", {}, evaluator or ONCE, 1, (0,), False, Telemetry(), Telemetry()
    )
    return ModelMeasurement("lease", run.variants, circumstances)


async def run_here(function: Any, *arguments: Any) -> Any:
    """In place of a builder."""
    return function(*arguments)


def manifest(imported: ImportedModel, target: str) -> Manifest:
    """Of a package of this model; it needs no CPU features."""
    return Manifest(
        model_file="model.onnx",
        model_sha256="ab" * 32,
        target_json=target,
        cpu_features=(),
        inputs=tuple((tensor.name, tensor.spec) for tensor in imported.inputs),
        outputs=tuple((tensor.name, tensor.spec) for tensor in imported.outputs),
    )
