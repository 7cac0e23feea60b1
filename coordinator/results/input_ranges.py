"""What an integer input may hold, read off the operators that consume it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

Range = tuple[int, int]
"""From the first number to before the second."""

_FORWARDING = frozenset(
    [
        *("Cast", "Concat", "Expand", "Flatten", "Identity", "Reshape"),
        *("Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
    ]
)
"""Operators whose result holds the numbers of their first input."""

_LOOKUPS = frozenset(("Gather", "GatherElements"))

_MOST = 1 << 16
"""Bounds what a comparison with a huge sentinel would suggest."""


def integer_ranges(model: Any) -> Mapping[str, Range]:
    """For each graph input that indexes a constant table, is one-hot encoded or is compared with
    constants, the numbers that make sense; inputs that say nothing are absent."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    constants[node.output[0]] = attribute.t
    found = {}
    for value in graph.input:
        ranges = list(_uses(graph, value.name, constants))
        if ranges:
            # Every use must be valid at once.
            found[value.name] = (max(low for low, _ in ranges), min(high for _, high in ranges))
    return {name: (low, high) for name, (low, high) in found.items() if low < high}


def _uses(graph: Any, name: str, constants: Mapping[str, Any]) -> Iterator[Range]:
    todo, seen = [name], {name}
    while todo:
        current = todo.pop()
        for node in graph.node:
            if current not in node.input:
                continue
            if node.op_type in _FORWARDING and node.input[0] == current:
                new = [output for output in node.output if output not in seen]
                seen.update(new)
                todo.extend(new)
            yield from _meaning(node, current, constants)


def _meaning(node: Any, name: str, constants: Mapping[str, Any]) -> Iterator[Range]:
    from onnx import numpy_helper

    others = [constants[other] for other in node.input if other in constants]
    if node.op_type in _LOOKUPS and node.input[1] == name and node.input[0] in constants:
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        yield 0, constants[node.input[0]].dims[axis]
    elif node.op_type == "OneHot" and node.input[0] == name and node.input[1] in constants:
        yield 0, int(numpy_helper.to_array(constants[node.input[1]]).reshape(-1)[0])
    elif node.op_type == "Equal" and others:
        values = np.asarray(numpy_helper.to_array(others[0]))
        if values.dtype.kind in "iu" and values.size:
            yield max(0, int(values.min())), min(_MOST, int(values.max()) + 1)
