"""Operators that only move elements, as steps of a oneDNN program: most of them cost nothing."""

from __future__ import annotations

import numpy as np

from .graph import Shape
from .node import Node, Translate


def _same(n: Node) -> str:
    if n.op == "Dropout" and (any(n.outputs[1:]) or (n.has(2) and n.needed(2).any())):
        raise n.refuse("it is for training")
    return n.read(0)


def _view(n: Node) -> str:
    return n.view(n.read(0), n.result)


def _transpose(n: Node) -> str:
    shape = n.shape(0)
    order = n.ints("perm") or list(range(len(shape)))[::-1]
    return n.step("transpose", [n.read(0)], tuple(shape[axis] for axis in order), order=order)


def _slice(n: Node) -> str:
    shape = n.shape(0)
    starts, ends = n.ints("starts", 1) or [], n.ints("ends", 2) or []
    axes = n.ints("axes", 3) or list(range(len(starts)))
    steps = n.ints("steps", 4) or [1] * len(starts)
    if any(step != 1 for step in steps):
        raise n.refuse("its steps are not 1")
    begins, sizes = [0] * len(shape), list(shape)
    for start, end, axis in zip(starts, ends, axes, strict=True):
        first, last, _ = slice(start, end).indices(shape[axis])
        begins[axis], sizes[axis] = first, last - first
    return _cut(n, begins, tuple(sizes))


def _cut(n: Node, starts: list[int], shape: Shape) -> str:
    if shape == n.shape(0):
        return n.read(0)
    if min(shape) < 1:
        raise n.refuse("nothing is left")
    return n.step("slice", [n.read(0)], shape, starts=starts)


def _split(n: Node) -> list[str]:
    shape = n.shape(0)
    axis = n.attributes.get("axis", 0) % len(shape)
    found, start = [], 0
    for index in range(len(n.outputs)):
        part = n.result_of(index)
        starts = [start if number == axis else 0 for number in range(len(shape))]
        found.append(_cut(n, starts, part))
        start += part[axis]
    return found


def _gather(n: Node) -> str:
    """Of elements that follow each other."""
    shape, indices = n.shape(0), n.needed(1)
    axis = n.attributes.get("axis", 0) % len(shape)
    wanted = indices.reshape(-1) % shape[axis]
    if not wanted.size or not np.array_equal(wanted, wanted[0] + np.arange(wanted.size)):
        raise n.refuse("the elements don't follow each other")
    starts = [int(wanted[0]) if number == axis else 0 for number in range(len(shape))]
    sizes = (*shape[:axis], wanted.size, *shape[axis + 1 :])
    return n.view(_cut(n, starts, sizes), n.result)


def _concat(n: Node) -> str:
    axis = n.attributes["axis"] % len(n.result)
    if len(n.inputs) == 1:
        return n.read(0)
    reads = [n.read(index) for index in range(len(n.inputs))]
    return n.step("concat", reads, n.result, axis=axis)


def _expand(n: Node) -> str:
    if n.result != n.shape(0):
        raise n.refuse("it repeats elements")
    return n.read(0)


VIEWS: dict[str, Translate] = {
    "Concat": _concat,
    "Dropout": _same,
    "Expand": _expand,
    "Flatten": _view,
    "Gather": _gather,
    "Identity": _same,
    "Reshape": _view,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _view,
    "Transpose": _transpose,
    "Unsqueeze": _view,
}
