"""Regions of a model, or all of it, as parts for an engine."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.frontend.importer import Region
from coordinator.package.wheel import PartFiles


def engine_parts(engine: str, regions: Sequence[Region]) -> list[PartFiles | None]:
    """Each region as the engine runs it; None where it can't."""
    return [engine_part(engine, region) for region in regions]


def engine_part(engine: str, region: Region) -> PartFiles | None:
    inputs = tuple(tensor.name for tensor in region.inputs)
    outputs = tuple(tensor.name for tensor in region.outputs)
    return PartFiles(engine, inputs, outputs, region.onnx)
