"""What a model needs of memory: its constants, and its intermediate results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from protos.records import Shape

from .workspace import WORKSPACE, pipeline, storage_sizes

if TYPE_CHECKING:
    from coordinator.frontend.importer import ImportedPart


def weights_bytes(model: bytes, shapes: Mapping[str, Shape]) -> int:
    """What the constants of an ONNX model hold, as they are in the file."""
    from onnx import TensorProto, helper

    from coordinator.frontend.onnx_model import load_model

    def held(tensor: TensorProto) -> int:
        size: int = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        return size * math.prod(int(dimension) for dimension in tensor.dims)

    graph = load_model(model, shapes).graph
    constants = [
        attribute.t
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.HasField("t")
    ]
    return sum(held(tensor) for tensor in (*graph.initializer, *constants))


def workspace_bytes(parts: Sequence[ImportedPart], target_json: str) -> int:
    """What the intermediate results of our own parts take: allocated once, shared in turn."""
    import tvm

    from device_agent.build import code_target

    target = code_target(target_json)
    total = 0
    for part in parts:
        if part.ours:
            with target:
                lowered = pipeline(target)(tvm.ir.load_json(part.module_json))
            total += sum(storage_sizes(lowered[WORKSPACE]))
    return total
