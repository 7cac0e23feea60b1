"""A model, or a region of it, as a part that an engine runs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from coordinator.frontend.importer import Region
from coordinator.frontend.onednn.program import NotInOneDNN, onednn_program
from coordinator.package.wheel import PartFiles
from protos.engines import ONEDNN

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CannotRun:
    """Why an engine can't run it."""

    reason: str


def engine_part(
    engine: str, model: bytes, inputs: Sequence[str], outputs: Sequence[str]
) -> PartFiles | CannotRun:
    """An ONNX file with fixed shapes as the engine's package keeps it: engines read the file
    itself, of a library it becomes a program."""
    import onnx

    data = model
    if engine == ONEDNN.name:
        try:
            data = onednn_program(model)
        except NotInOneDNN as error:
            return CannotRun(str(error))
        except Exception as error:  # other engines run the model; this one's report says why not
            log.exception("no program for oneDNN")
            what = f"{type(error).__name__}: {error}"
            return CannotRun(f"the farm failed to translate it for oneDNN, please report: {what}")
    operators = len(onnx.load_from_string(model).graph.node)
    return PartFiles(engine, tuple(inputs), tuple(outputs), data, operators=operators)


def region_parts(engine: str, regions: Sequence[Region]) -> list[PartFiles | CannotRun]:
    """Each region as a part of the engine's."""
    return [
        engine_part(
            engine,
            region.onnx,
            [tensor.name for tensor in region.inputs],
            [tensor.name for tensor in region.outputs],
        )
        for region in regions
    ]
