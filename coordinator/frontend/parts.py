"""A model cut into parts: those that are tuned, and those that only ONNX Runtime can run.

An operator that the importer lacks, an LSTM or a loop, should not cost the user the rest of the
model. Every node is of a kind, ours or the engine's. Nodes of one kind that no node of the other
kind comes between make a part, so parts can run one after the other; the tensors between them have
fixed shapes, or their readers are the engine's, too. A part of ours without heavy arithmetic would
cost more to go to and come back from than it could win, so it is the engine's as well.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

log = logging.getLogger(__name__)

HEAVY = frozenset(("Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"))
"""What is worth a part of its own."""


@dataclass(frozen=True)
class Part:
    """Some nodes of a model as a model of their own (a ModelProto); ``ours``: it can be tuned."""

    ours: bool
    model: Any


@dataclass(frozen=True)
class Value:
    """Which node computes a tensor, its ValueInfoProto, and whether that has a fixed shape."""

    producer: int | None
    info: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions, if they are fixed."""
        return tuple(dim.dim_value for dim in self.info.type.tensor_type.shape.dim)

    @property
    def is_fixed(self) -> bool:
        """Whether its element type and all dimensions are known."""
        tensor = self.info.type.tensor_type
        return bool(tensor.elem_type and tensor.HasField("shape")) and all(
            dim.HasField("dim_value") for dim in tensor.shape.dim
        )


def cut(model: Any, engines: Collection[int]) -> tuple[Part, ...]:
    """The parts of a folded ModelProto in the order in which they run.

    ``engines`` are the indices of the nodes that only the engine can run; without any, the model is
    one part of ours.
    """
    if not engines:
        return (Part(True, model),)
    nodes = list(model.graph.node)
    values = values_of(model)
    theirs = _with_open_shapes(nodes, values, set(engines))
    while True:
        steps = _steps(nodes, values, theirs)
        light = {
            index
            for step, members in _by_step(steps).items()
            if not step % 2 and not any(nodes[i].op_type in HEAVY for i in members)
            for index in members
        }
        if not light:
            break
        theirs |= light
    parts = [
        Part(not step % 2, submodel(model, members, values))
        for step, members in sorted(_by_step(steps).items())
    ]
    log.info("%d nodes in %d parts", len(nodes), len(parts))
    return tuple(parts)


def open_shapes(model: Any) -> set[int]:
    """The indices of the nodes that read or write a tensor whose shape depends on the inputs."""
    return _with_open_shapes(list(model.graph.node), values_of(model), set())


def reads(node: Any) -> Iterator[str]:
    """The tensors that a node reads, those that its control flow reads from outside included."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        graphs = [attribute.g] if attribute.HasField("g") else []
        for graph in (*graphs, *attribute.graphs):
            inside = {value.name for value in graph.input} | {t.name for t in graph.initializer}
            for inner in graph.node:
                yield from (name for name in reads(inner) if name not in inside)
                inside.update(inner.output)


def values_of(model: Any) -> dict[str, Value]:
    """Every tensor that is given or computed, by name."""
    import onnx

    known = _inferred(model)
    while found := _carried(model, known):
        helped = onnx.ModelProto()
        helped.CopyFrom(model)
        helped.graph.value_info.extend(found)
        model, known = helped, _inferred(helped)
    values = {value.name: Value(None, value) for value in model.graph.input}
    for index, node in enumerate(model.graph.node):
        for name in filter(None, node.output):
            info = known.get(name) or onnx.helper.make_empty_tensor_value_info(name)
            values[name] = Value(index, info)
    return values


def _inferred(model: Any) -> dict[str, Any]:
    """The ValueInfoProto of every tensor that something is known of."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {value.name: value for value in (*graph.value_info, *graph.output, *graph.input)}


def _carried(model: Any, known: Mapping[str, Any]) -> list[Any]:
    """What loops give with the shape that it had before: ONNX's inference takes it for open."""
    import onnx

    found = []
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "Loop":
            continue
        (body,) = (attribute.g for attribute in node.attribute if attribute.name == "body")
        for before, after, name in zip(
            node.input[2:], body.output[1:], node.output[: len(node.input) - 2], strict=False
        ):
            info = known.get(before)
            if before in weights:
                tensor = weights[before]
                info = onnx.helper.make_tensor_value_info(before, tensor.data_type, tensor.dims)
            if name and info is not None and not _fixed(known.get(name)) and _fixed(after):
                same = onnx.ValueInfoProto(name=name, type=after.type)
                if info.type == after.type:
                    found.append(same)
    return found


def _fixed(value: Any) -> bool:
    return value is not None and Value(None, value).is_fixed


def _with_open_shapes(
    nodes: Sequence[Any], values: Mapping[str, Value], engines: set[int]
) -> set[int]:
    """The engine's nodes and those that read or write a tensor whose shape is not fixed."""
    opened = {name for name, value in values.items() if not value.is_fixed}
    return engines | {
        index
        for index, node in enumerate(nodes)
        if opened.intersection(reads(node)) or opened.intersection(node.output)
    }


def _steps(nodes: Sequence[Any], values: Mapping[str, Value], theirs: Collection[int]) -> list[int]:
    """When each node runs: even steps are ours, odd ones the engine's, each as early as it can."""
    steps: list[int] = []
    for index, node in enumerate(nodes):
        producers = [values[name].producer for name in reads(node) if name in values]
        step = max((steps[producer] for producer in producers if producer is not None), default=0)
        steps.append(step + (step % 2 != (index in theirs)))
    return steps


def _by_step(steps: Sequence[int]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for index, step in enumerate(steps):
        found.setdefault(step, []).append(index)
    return found


def submodel(model: Any, members: Sequence[int], values: Mapping[str, Value]) -> Any:
    """These nodes with their weights; in and out goes what the rest of the model gives or reads."""
    import onnx

    inside = set(members)
    nodes = [model.graph.node[index] for index in members]
    made = {name for node in nodes for name in node.output}
    read = dict.fromkeys(name for node in nodes for name in reads(node))
    asked = {value.name for value in model.graph.output}
    for index, node in enumerate(model.graph.node):
        if index not in inside:
            asked.update(reads(node))
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    inputs = [name for name in read if name in values and name not in made and name not in weights]
    outputs = list(dict.fromkeys(n for node in nodes for n in node.output if n))
    graph = onnx.helper.make_graph(
        nodes,
        model.graph.name or "part",
        [values[name].info for name in inputs],
        [values[name].info for name in outputs if name in asked],
        [weights[name] for name in read if name in weights],
    )
    sparse = {tensor.values.name: tensor for tensor in model.graph.sparse_initializer}
    graph.sparse_initializer.extend(sparse[name] for name in read if name in sparse)
    return onnx.helper.make_model(
        graph,
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
        functions=model.functions,
    )
