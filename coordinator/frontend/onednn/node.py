"""An ONNX node while it becomes steps of a oneDNN program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .graph import MAX_RANK, Array, Graph, NotInOneDNN, Shape


class Node:
    """A node, and the graph that its steps go to."""

    def __init__(
        self,
        graph: Graph,
        node: Any,
        label: str,
        names: dict[str, str],
        arrays: Mapping[str, Array],
        shapes: Mapping[str, Shape],
        opset: int,
    ) -> None:
        """``names`` are the graph's, by ONNX name; ``arrays`` the model's constants; ``shapes``
        what the node's outputs have."""
        import onnx

        self.graph, self.label, self.opset = graph, label, opset
        self.op, self.inputs = node.op_type, list(node.input)
        self.outputs = list(node.output)
        self.attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        self._names, self._arrays, self._shapes = names, arrays, shapes

    def refuse(self, why: str) -> NotInOneDNN:
        """What to raise."""
        return NotInOneDNN(f"oneDNN can't run {self.label}: {why}")

    def has(self, index: int) -> bool:
        """Whether the optional input is given."""
        return index < len(self.inputs) and bool(self.inputs[index])

    def array(self, index: int) -> Array | None:
        """The input's value, if it is constant."""
        return self._arrays.get(self.inputs[index]) if self.has(index) else None

    def needed(self, index: int) -> Array:
        """The input's value, which must be constant."""
        array = self.array(index)
        if array is None:
            raise self.refuse(f"its input {self.inputs[index]!r} is not constant")
        return array

    def ints(self, name: str, index: int | None = None) -> list[int] | None:
        """Integers from an attribute, or in newer versions of the operator from an input."""
        if name in self.attributes:
            value = self.attributes[name]
            return [int(value)] if isinstance(value, int) else [int(one) for one in value]
        if index is None or not self.has(index):
            return None
        return [int(one) for one in self.needed(index).reshape(-1)]

    def read(self, index: int) -> str:
        """The input's name in the graph."""
        name = self.inputs[index]
        if name not in self._names:
            array = self._arrays[name]
            if array.dtype != np.float32:
                raise self.refuse(f"{name!r} is {array.dtype}; there is float32 only")
            self._names[name] = self.graph.constant(array)
        return self._names[name]

    def shape(self, index: int) -> Shape:
        """The input's shape."""
        return self.graph.shapes[self.read(index)]

    @property
    def result(self) -> Shape:
        """The first output's shape."""
        return self._shapes[self.outputs[0]]

    def result_of(self, index: int) -> Shape:
        """Any output's shape."""
        return self._shapes[self.outputs[index]]

    def step(self, op: str, reads: Sequence[str], shape: Shape, **settings: Any) -> str:
        """Add a step; the name of what it writes."""
        return self.graph.step(op, reads, shape, self.label, **settings)

    def eltwise(self, name: str, algorithm: str, alpha: float = 0.0, beta: float = 0.0) -> str:
        """A function of every element."""
        shape = self.graph.shapes[name]
        return self.step("eltwise", [name], shape, algorithm=algorithm, alpha=alpha, beta=beta)

    def view(self, name: str, shape: Shape) -> str:
        """The same elements in the same order in another shape."""
        shape = shape or (1,)
        old = self.graph.shapes[name]
        if len(shape) > MAX_RANK:
            raise self.refuse(f"a tensor has {len(shape)} dimensions; {MAX_RANK} are the most")
        if old == shape:
            return name
        if name in self.graph.constants:
            return self.graph.constant(self.graph.constants[name].reshape(shape))
        return self.step("view", [name], shape)


Translate = Callable[[Node], "str | Sequence[str]"]
"""Adds a node's steps; what its outputs, as many as are used, are called in the graph."""
