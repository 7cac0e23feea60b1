"""A model, or a part of one, as a program (``coordinator/package/onednn_part.py`` runs it).

The program is an ``.npz``: ``program`` is JSON, with the shape of every tensor, which of them are
inputs, outputs and constants, and the steps in their order; ``constantN`` is the tensor N. Inputs
and outputs have their names in the model.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..onnx_model import fold, graph_inputs, operator
from ..parts import values_of
from .elementwise import ELEMENTWISE
from .fusion import join
from .graph import Array, Graph, NotInOneDNN, Shape, described
from .layers import LAYERS
from .node import Node, Translate
from .views import VIEWS
from .windows import WINDOWS

__all__ = ["VERSION", "NotInOneDNN", "onednn_program"]

VERSION = 1
"""Of the program's format; the runtime refuses others."""

_OPERATORS: Mapping[str, Translate] = {**ELEMENTWISE, **LAYERS, **VIEWS, **WINDOWS}
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def onednn_program(model: bytes) -> bytes:
    """The program's file for an ONNX model with fixed shapes: the same bytes for the same model.

    Raises NotInOneDNN, which names the node, if there are no primitives for it; BadModel if ONNX
    Runtime can't load the model.
    """
    import onnx

    folded = fold(onnx.load_model_from_string(model))
    graph, shapes = _graph(folded)
    join(graph)
    for step in graph.steps:
        if step.op in ("erf", "pad"):
            raise NotInOneDNN(f"oneDNN has no primitive for {step.node} where it stands")
    program, constants = described(graph)
    for key, tensors in (
        ("inputs", graph_inputs(folded.graph)),
        ("outputs", folded.graph.output),
    ):
        program[key] = [
            {"name": one.name, "value": value, "shape": list(shapes[one.name])}
            for value, one in zip(program[key], tensors, strict=True)
        ]
    return _packed({"version": VERSION, **program}, constants)


def _graph(model: Any) -> tuple[Graph, Mapping[str, Shape]]:
    """The steps, node by node, and the shapes of the model's tensors."""
    import onnx

    graph, names = Graph(), dict[str, str]()
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
    values = values_of(model)
    shapes: dict[str, Shape] = {}
    for value in graph_inputs(model.graph):
        shapes[value.name] = _float_shape(value.name, values, "it is an input")
        names[value.name] = graph.name(shapes[value.name] or (1,))
        graph.inputs.append(names[value.name])
    for index, node in enumerate(model.graph.node):
        label = operator(node, index)
        translate = _OPERATORS.get(node.op_type)
        if translate is None or node.domain not in ("", "ai.onnx"):
            raise NotInOneDNN(f"oneDNN has no primitive for {label}")
        used = [name for name in node.output if name]
        shapes |= {name: _float_shape(name, values, f"of {label}") for name in used}
        made = translate(Node(graph, node, label, names, arrays, shapes, opset))
        names |= zip(used, [made] if isinstance(made, str) else made, strict=True)
    for value in model.graph.output:
        if value.name not in names:
            raise NotInOneDNN(f"output {value.name!r} is constant; oneDNN has nothing to compute")
        shapes.setdefault(value.name, _float_shape(value.name, values, "it is an output"))
        graph.outputs.append(names[value.name])
    return graph, shapes


def _float_shape(name: str, values: Mapping[str, Any], where: str) -> Shape:
    import onnx

    value = values[name]
    kind = value.info.type.tensor_type.elem_type
    if not value.is_fixed:
        raise NotInOneDNN(f"tensor {name!r} has no fixed shape ({where})")
    if kind != onnx.TensorProto.FLOAT:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
        raise NotInOneDNN(f"tensor {name!r} is {dtype}, and here is float32 only ({where})")
    shape: Shape = value.shape
    if 0 in shape:
        raise NotInOneDNN(f"tensor {name!r} has no elements ({where})")
    return shape


def _packed(program: Mapping[str, Any], constants: Mapping[str, Array]) -> bytes:
    """Like ``numpy.savez``, but without the time of day in it."""
    text = np.frombuffer(json.dumps(program, separators=(",", ":")).encode(), np.uint8)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in {"program": text, **constants}.items():
            content = io.BytesIO()
            np.save(content, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _ZIP_TIME), content.getvalue())
    return buffer.getvalue()
