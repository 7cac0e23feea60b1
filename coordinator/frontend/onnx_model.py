"""An ONNX file as a farm sees it: its inputs with fixed shapes, and whether it can be imported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from protos.errors import BadModel
from protos.records import MAX_MODEL_BYTES, Shape, TensorSpec

from .parts import cut
from .prepass import fold_constants

_LOOKS_LIKE = (
    (b"PK\x03\x04", "a zip archive (PyTorch's .pt, Keras' .keras and .npz are; export to ONNX)"),
    (b"\x89HDF", "an HDF5 file (Keras' .h5; export to ONNX)"),
    (b"\x80\x02", "a Python pickle (export the model to ONNX)"),
    (b"\x80\x04", "a Python pickle (export the model to ONNX)"),
    (b"GGUF", "a GGUF file"),
    (b"\x7fELF", "a program"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x1f\x8b", "gzip data (unpack it first)"),
    (b"version https://git-lfs", "a Git LFS pointer (run `git lfs pull`)"),
    (b"{", "JSON or text"),
    (b"<", "XML or HTML"),
)
_EXPORT = "give the file that the model was exported to as ONNX"

_STANDARD_DOMAINS = ("", "ai.onnx", "com.microsoft")
"""Domains whose operators the importer means by their names; it does not look at the domain."""

_DIRECT_OPERATORS = ("Constant", "If")
"""Operators that the importer handles outside of its table."""


@dataclass(frozen=True)
class ModelInfo:
    """What is in a model: inputs in the model's order with their fixed shapes."""

    inputs: Mapping[str, TensorSpec]
    outputs: tuple[str, ...]
    opset: int
    operators: Mapping[str, int]


def inspect_model(data: bytes, shapes: Mapping[str, Shape]) -> ModelInfo:
    """What is in the model.

    Raises BadModel if it is no ONNX model, if an input's shape is open or contradicted, or if
    operators that can't be imported (it names all of them) leave nothing to be tuned.
    """
    model = load_model(data, shapes)
    graph = model.graph
    if unsupported_operators(model):
        folded = fold(model)  # some of them may only compute shapes
        refused = unsupported_operators(folded)
        if not any(part.ours for part in cut(folded, refused)):
            raise cannot_import(list(refused.values()))
    return ModelInfo(
        inputs={value.name: _fixed_spec(value) for value in graph_inputs(graph)},
        outputs=tuple(value.name for value in graph.output),
        opset=next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1),
        operators=dict(sorted(Counter(node.op_type for node in graph.node).items())),
    )


def load_model(data: bytes, shapes: Mapping[str, Shape]) -> Any:
    """The ModelProto with every input's shape fixed; raises BadModel, see ``inspect_model``."""
    model = _parse(data)
    _refuse_external_data(model)
    inputs = graph_inputs(model.graph)
    if not inputs:
        raise BadModel("the model has no inputs: there is nothing to run")
    names = [value.name for value in inputs]
    unknown = [name for name in shapes if name not in names]
    if unknown:
        raise BadModel(f"--shape names {_list(unknown)}, but the model's inputs are {_list(names)}")
    for value in inputs:
        _fix_shape(value, shapes.get(value.name))
    # Shapes that were written down for the open dimensions contradict the fixed ones.
    del model.graph.value_info[:]
    return model


def graph_inputs(graph: Any) -> list[Any]:
    """The inputs that a caller gives (old files list the weights among the inputs, too)."""
    weights = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def inner_nodes(node: Any) -> Iterator[Any]:
    """All nodes of a node's control flow."""
    for attribute in node.attribute:
        graphs = [attribute.g] if attribute.HasField("g") else []
        for graph in (*graphs, *attribute.graphs):
            for inner in graph.node:
                yield inner
                yield from inner_nodes(inner)


def unsupported_operators(model: Any) -> dict[int, str]:
    """Each of the graph's nodes that the importer lacks, or that has such a node in its control
    flow, by its index: ``LSTM (node 'name')``."""
    from tvm.relax.frontend.onnx import onnx_frontend

    known = {*onnx_frontend._get_convert_map(), *_DIRECT_OPERATORS}
    refused = {}
    for index, node in enumerate(model.graph.node):
        lacking = [
            inner
            for inner in (node, *inner_nodes(node))
            if inner.domain not in _STANDARD_DOMAINS or inner.op_type not in known
        ]
        if lacking:
            refused[index] = ", ".join(operator(inner, index) for inner in lacking)
    return refused


def fold(model: Any) -> Any:
    """The ModelProto with its constants folded; raises BadModel, with the operators that can't be
    imported if ONNX Runtime doesn't know them either."""
    try:
        return fold_constants(model)
    except BadModel as error:
        if refused := unsupported_operators(model):
            raise cannot_import(list(refused.values())) from error
        raise


def cannot_import(refused: list[str]) -> BadModel:
    """The refusal that names these operators."""
    shown = ", ".join(refused[:20]) + (f" and {len(refused) - 20} more" if refused[20:] else "")
    return BadModel(
        f"the model has operators that can't be imported: {shown}. Beside them it has nothing that "
        "is worth tuning: export the model without them"
    )


def operator(node: Any, index: int | None = None) -> str:
    """How a message names a node with its operator."""
    domain = f"{node.domain}." if node.domain not in _STANDARD_DOMAINS else ""
    return f"{domain}{node.op_type} ({node_name(node, index)})"


def node_name(node: Any, index: int | None = None) -> str:
    """How a message names a node; many exporters leave the name empty."""
    if node.name:
        return f"node {node.name!r}"
    if node.output:
        return f"the node that computes {node.output[0]!r}"
    return f"node number {index}"


def _list(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _parse(data: bytes) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    if len(data) > MAX_MODEL_BYTES:
        raise BadModel(
            f"the model has {len(data)} bytes; an ONNX file may have {MAX_MODEL_BYTES} at most"
        )
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, ValueError):
        raise BadModel(f"this is not an ONNX model; it {_appearance(data)}") from None
    if not model.ir_version or not model.graph.node:
        raise BadModel(f"this is not an ONNX model; it {_appearance(data)}")
    return model


def _appearance(data: bytes) -> str:
    if not data:
        return "is empty"
    if data[4:8] == b"TFL3":
        return "looks like a TensorFlow Lite model, which can't be imported yet"
    for start, meaning in _LOOKS_LIKE:
        if data.startswith(start):
            return f"looks like {meaning}"
    if data[:256].isascii() and "".join(data[:256].decode().split()).isprintable():
        return f"looks like text; {_EXPORT}"
    return f"is {len(data)} bytes without an ONNX graph; {_EXPORT}"


def _refuse_external_data(model: Any) -> None:
    """Whatever reads the model would read the files that it names, on this machine."""
    import onnx

    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise BadModel(
                f"the model keeps weights outside of its file ({tensor.name!r} and maybe others). "
                "Save it in one file: onnx.save_model(onnx.load(PATH), NEW_PATH)"
            )


def _tensors(message: Any) -> Iterator[Any]:
    """Every tensor in a message of ONNX, wherever it is: weights, attributes, inner graphs."""
    import onnx

    waiting = [message]
    while waiting:
        for field, value in waiting.pop().ListFields():
            if field.message_type is None:
                continue
            for item in value if field.is_repeated else (value,):
                if isinstance(item, onnx.TensorProto):
                    yield item
                else:
                    waiting.append(item)


def _dims(value: Any) -> list[int | str] | None:
    """Numbers for the fixed dimensions, names for the open ones; None if the rank is open."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [
        d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else d.dim_param or "?"
        for d in tensor.shape.dim
    ]


def _fix_shape(value: Any, given: Shape | None) -> None:
    if not value.type.HasField("tensor_type"):
        kind = value.type.WhichOneof("value") or "unknown"
        raise BadModel(f"input {value.name!r} is of type {kind}; only tensors can be given")
    dims = _dims(value)
    if given is None:
        if dims is None or any(isinstance(dim, str) for dim in dims):
            raise BadModel(_open_shape(value.name, dims))
        return
    if any(dim < 1 for dim in given.dims):
        raise BadModel(f"--shape {value.name}: every dimension must be 1 or more")
    if dims is not None:
        _check_given(value.name, dims, given.dims)
    shape = value.type.tensor_type.shape
    shape.Clear()
    shape.SetInParent()
    for dim in given.dims:
        shape.dim.add().dim_value = dim


def _open_shape(name: str, dims: list[int | str] | None) -> str:
    if dims is None:
        return f"input {name!r} has an open shape: give it, for example --shape {name}=1,3,224,224"
    shown = ",".join(str(dim) for dim in dims)
    open_dims = [index for index, dim in enumerate(dims) if isinstance(dim, str)]
    # The first dimension of a network is nearly always the batch, and one at a time the use.
    guess = [(1 if i == 0 else 224) if isinstance(d, str) else d for i, d in enumerate(dims)]
    suggestion = f"--shape {name}={','.join(str(dim) for dim in guess)}"
    how = "give" if open_dims == [0] else "give all of them, for example"
    return f"input {name!r} has open dimensions ({shown}): {how} {suggestion}"


def _check_given(name: str, dims: list[int | str], given: tuple[int, ...]) -> None:
    shown = ",".join(str(dim) for dim in dims)
    gave = ",".join(str(dim) for dim in given)
    if len(dims) != len(given):
        raise BadModel(
            f"--shape {name}={gave} has {len(given)} dimensions, but the input has {len(dims)} "
            f"({shown})"
        )
    if any(isinstance(dim, int) and dim != new for dim, new in zip(dims, given, strict=True)):
        raise BadModel(f"--shape {name}={gave} contradicts the model, where it is ({shown})")


def _fixed_spec(value: Any) -> TensorSpec:
    import onnx

    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    if dtype.kind not in "biuf":
        raise BadModel(f"input {value.name!r} has elements of type {dtype}, which can't be given")
    shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    return TensorSpec(shape, dtype.name)
