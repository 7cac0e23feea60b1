"""A model sliced into regions, so that each can be tried in another engine.

A region begins where few tensors go from what was computed to what is still to do, at a convolution
or a matrix product: what the compiler fuses into the operator before is complete there, so the
kernels of a region are mostly those of the whole model.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from .parts import HEAVY, Value, reads, submodel, values_of

log = logging.getLogger(__name__)

ENOUGH = 0.75
"""Of the regions that are asked for."""

MOST_CROSSING = 4
"""Tensors from one region to the next: each may have to be copied and laid out anew."""


def region_starts(model: Any, most: int) -> tuple[int, ...]:
    """The indices of the nodes at which the regions of a folded ModelProto begin, the first one 0.

    ``most`` regions at most, of about the same arithmetic each, where a single tensor goes from one
    to the next if there are enough such places.
    """
    values = values_of(model)
    work = [_operations(node, values, model) for node in model.graph.node]
    for crossing in (1, MOST_CROSSING):
        starts = _even(work, _waists(model, values, crossing), most)
        if len(starts) >= ENOUGH * most:
            break
    log.info("%d nodes in %d regions", len(work), len(starts))
    return starts


def _even(work: Sequence[float], allowed: Collection[int], most: int) -> tuple[int, ...]:
    """Where to begin a new region: everywhere, or so that each has its share of the work."""
    if len(allowed) < most:
        return (0, *sorted(allowed))
    total, done, starts = sum(work), 0.0, [0]
    for index, amount in enumerate(work):
        due = done >= len(starts) / most * total
        if index in allowed and due and len(starts) < most:
            starts.append(index)
        done += amount
    return tuple(starts)


def slices(model: Any, starts: Sequence[int]) -> list[Any]:
    """The model as one ModelProto for each start, in order."""
    values = values_of(model)
    ends = [*starts[1:], len(model.graph.node)]
    return [
        submodel(model, range(start, end), values) for start, end in zip(starts, ends, strict=True)
    ]


def _waists(model: Any, values: Mapping[str, Value], most: int) -> set[int]:
    """The nodes of heavy arithmetic before which ``most`` tensors live, all of fixed shape."""
    nodes = list(model.graph.node)
    last_read = {name: index for index, node in enumerate(nodes) for name in reads(node)}
    weights = {tensor.name for tensor in model.graph.initializer}
    made = {value.name: -1 for value in model.graph.input if value.name not in weights}
    for index, node in enumerate(nodes):
        made.update({name: index for name in node.output if name})
    # A tensor lives between the node that makes it and the last one that reads it; one whose shape
    # is open counts as too many.
    living = [0] * (len(nodes) + 1)
    for name, maker in made.items():
        weight = 1 if values[name].is_fixed else most + 1
        living[maker + 1] += weight
        living[max(last_read.get(name, maker), maker) + 1] -= weight
    crossing = itertools.accumulate(living[: len(nodes)])
    return {
        index
        for index, (count, node) in enumerate(zip(crossing, nodes, strict=True))
        if index and count <= most and node.op_type in HEAVY
    }


def _operations(node: Any, values: Mapping[str, Value], model: Any) -> float:
    """A measure of a node's arithmetic: what it computes times what one element of that takes."""
    known = values.get(node.output[0]) if node.output else None
    if known is None or not known.is_fixed:
        return 0.0
    elements = math.prod(known.shape)
    if node.op_type not in HEAVY or len(node.input) < 2:
        return float(elements)
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    shape = weights.get(node.input[1])
    if shape is None:
        second = values.get(node.input[1])
        shape = second.shape if second is not None and second.is_fixed else (1,)
    outputs = shape[0] if node.op_type.startswith("Conv") else shape[-1]
    return 2.0 * elements * math.prod(shape) / max(outputs, 1)
