"""An ONNX model as the fused operators that the farm would tune, without compiling anything.

Batch norms and constants are folded as they are for tuning (``frontend.prepass``). Elementwise
operators belong to what computes their input, as the compiler fuses them, shape arithmetic costs
nothing, and what is left is one operator for each convolution, product, pool, reduction and so on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from coordinator.frontend.onnx_model import fold, graph_inputs, load_model, operator
from coordinator.prediction.node_kinds import (
    ELEMENTWISE_KINDS,
    FREE,
    UNKNOWN,
    Tensor,
    anchor_of,
    hard_steps,
    kind_of,
    steps_of,
)
from cost_model.latency import DENSE, DEPTHWISE, ELEMENTWISE, MOVE, REDUCE, Operator
from protos.errors import BadModel
from protos.records import Shape

_HEAVY = (DENSE, DEPTHWISE)
_FOLLOWED = (DENSE, DEPTHWISE, ELEMENTWISE, MOVE)
"""What elementwise operators are fused into."""

_LARGE_BYTES = 4096


@dataclass(frozen=True)
class GraphOperator:
    """A fused operator of a model: what messages call it, and its shape.

    ``stride`` is that of a convolution, 1 otherwise; ``out_hw`` height and width of what a
    convolution of two dimensions computes, None otherwise.
    """

    name: str
    operator: Operator
    stride: int = 1
    out_hw: tuple[int, int] | None = None


@dataclass
class _Group:
    """Nodes that become one kernel; the first heavy one of them is the anchor."""

    name: str
    kind: str
    anchor: Any = None
    steps: int = 0
    hard: int = 0
    reads: dict[str, None] = field(default_factory=dict)
    writes: list[str] = field(default_factory=list)


def read_operators(data: bytes, shapes: Mapping[str, Shape]) -> tuple[GraphOperator, ...]:
    """The fused operators of an ONNX file, in the order in which they run.

    Raises BadModel as submitting it would, and for a model whose shapes can't be told without
    running it.
    """
    import onnx

    folded = fold(load_model(data, shapes))
    for weight in folded.graph.initializer:
        if weight.ByteSize() > _LARGE_BYTES:  # no shape depends on its values
            weight.ClearField("raw_data")
            weight.ClearField("float_data")
    inferred = onnx.shape_inference.infer_shapes(folded, data_prop=True)
    return _Reader(inferred).operators()


class _Reader:
    """Groups the nodes of a folded model with inferred shapes."""

    def __init__(self, model: Any) -> None:
        self._graph = model.graph
        self._tensors = _tensors(model)
        self._same: dict[str, str] = {}
        self._group_of: dict[str, int] = {}
        self._groups: list[_Group] = []
        self._consumers: dict[str, list[Any]] = {}
        self._outputs = {value.name for value in self._graph.output}

    def operators(self) -> tuple[GraphOperator, ...]:
        """Every group as an operator."""
        for node in self._graph.node:
            if node.op_type in FREE:
                self._same[node.output[0]] = self._root(node.input[0])
        for node in self._graph.node:
            if node.op_type not in FREE:
                for name in node.input:
                    self._consumers.setdefault(self._root(name), []).append(node)
        self._outputs |= {self._root(name) for name in self._outputs}
        for index, node in enumerate(self._graph.node):
            if node.op_type != "Constant" and node.op_type not in FREE:
                self._add(node, index)
        return (*self._transposed_inputs(), *map(self._operator, self._groups))

    def _root(self, name: str) -> str:
        """The tensor that this one is another view of."""
        return self._same.get(name, name)

    def _add(self, node: Any, index: int) -> None:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise BadModel(_unknown(f"{operator(node, index)} decides what runs"))
        if node.op_type in UNKNOWN:
            raise BadModel(_unknown(f"{operator(node, index)} is an operator that is not known"))
        kind = kind_of(node.op_type)
        group = self._joined(node, kind)
        if group is None:
            group = _Group(operator(node, index), kind)
            self._groups.append(group)
        if kind in _HEAVY:
            group.anchor = node
        elif kind in ELEMENTWISE_KINDS:
            group.kind = MOVE if kind == MOVE and group.kind == ELEMENTWISE else group.kind
            group.steps += steps_of(node.op_type)
        else:
            group.kind, group.name = kind, operator(node, index)
        group.hard += hard_steps(node.op_type)
        number = self._groups.index(group)
        for name in filter(None, map(self._root, node.input)):
            if self._group_of.get(name) != number:
                group.reads[name] = None
        for name in filter(None, node.output):
            group.writes.append(name)
            self._group_of[name] = number

    def _joined(self, node: Any, kind: str) -> _Group | None:
        """The group that the node is fused into: the last that computes one of its inputs."""
        sources = [name for name in map(self._root, node.input) if name in self._group_of]
        if not sources:
            return None
        source = max(sources, key=lambda name: self._group_of[name])
        group = self._groups[self._group_of[source]]
        readers = self._consumers[source]
        if kind == ELEMENTWISE:
            alone = all(kind_of(reader.op_type) == ELEMENTWISE for reader in readers)
            return group if group.kind in _FOLLOWED and alone else None
        if kind in (MOVE, REDUCE):
            fits = group.kind in ELEMENTWISE_KINDS and len(readers) == 1
            return group if fits and source not in self._outputs else None
        return None

    def _transposed_inputs(self) -> Iterator[GraphOperator]:
        """Pictures come with their channels first, and convolutions have them last."""
        for value in graph_inputs(self._graph):
            shape = self._tensors[value.name].shape
            readers = self._consumers.get(value.name, [])
            if len(shape) == 4 and shape[1] > 1 and any(r.op_type == "Conv" for r in readers):
                size = float(self._tensors[value.name].size_bytes)
                name = f"layout of input {value.name!r}"
                yield GraphOperator(name, Operator(MOVE, in_bytes=size, out_bytes=size))

    def _operator(self, group: _Group) -> GraphOperator:
        written = [name for name in group.writes if self._is_kept(name, group)]
        out_bytes = float(sum(self._size(name) for name in written))
        if group.anchor is None:
            light = Operator(
                group.kind,
                in_bytes=float(sum(map(self._size, group.reads))),
                out_bytes=out_bytes,
                steps=max(0, group.steps - 1),
                hard=group.hard,
            )
            return GraphOperator(group.name, light)
        try:
            anchor = anchor_of(group.anchor, self._tensors)
        except KeyError as error:
            unknown = f"the shape of {error.args[0]!r} is not known before the model runs"
            raise BadModel(_unknown(unknown)) from error
        factors = {self._root(name) for name in group.anchor.input[:2]}
        found = Operator(
            anchor.kind,
            macs=float(anchor.rows) * anchor.depth * anchor.width,
            rows=anchor.rows,
            depth=anchor.depth,
            width=anchor.width,
            window=anchor.window,
            in_bytes=float(self._size(group.anchor.input[0])),
            second_bytes=float(sum(self._size(name) for name in group.anchor.input[1:2])),
            other_bytes=float(sum(self._size(n) for n in group.reads if n not in factors)),
            out_bytes=out_bytes,
            steps=group.steps + (len(group.anchor.input) > 2),
            hard=group.hard,
        )
        return GraphOperator(group.name, found, anchor.stride, anchor.out_hw)

    def _is_kept(self, name: str, group: _Group) -> bool:
        """Whether someone outside of the group reads it."""
        if name in self._outputs:
            return True
        number = self._groups.index(group)
        readers = self._consumers.get(name, [])
        return any(self._group_of.get(reader.output[0]) != number for reader in readers)

    def _size(self, name: str) -> int:
        found = self._tensors.get(name) or self._tensors.get(self._root(name))
        if found is None and name:  # an input that is left out has no name
            raise BadModel(_unknown(f"the shape of {name!r} is not known before the model runs"))
        return found.size_bytes if found else 0


def _tensors(model: Any) -> dict[str, Tensor]:
    """Every tensor whose shape is known."""
    import onnx

    found: dict[str, Tensor] = {}
    graph = model.graph
    for value in (*graph.value_info, *graph.input, *graph.output):
        tensor = value.type.tensor_type
        dims = tuple(dim.dim_value for dim in tensor.shape.dim if dim.HasField("dim_value"))
        if tensor.elem_type and tensor.HasField("shape") and len(dims) == len(tensor.shape.dim):
            found[value.name] = Tensor(dims, _item_bytes(onnx, tensor.elem_type))
    for weight in graph.initializer:
        found[weight.name] = Tensor(tuple(weight.dims), _item_bytes(onnx, weight.data_type))
    return found


def _item_bytes(onnx: Any, elem_type: int) -> int:
    try:
        return int(onnx.helper.tensor_dtype_to_np_dtype(elem_type).itemsize)
    except (KeyError, TypeError, ValueError):
        return 4


def _unknown(why: str) -> str:
    return f"the latency can't be predicted: {why}. Measure it: tunefarm measure"
