"""Concatenations of feature maps that need not be made.

A concatenation copies all of its inputs, and what reads it could read them where they are: a
convolution is the sum of the convolutions of the parts with the parts of its weights, and a pooling
of each part gives the part of the pooling. SqueezeNet copies a tenth of its time away like that.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .expressions import is_constant, is_operator, shape_of, tidied

_POOLS = ("relax.nn.max_pool2d", "relax.nn.avg_pool2d")

_CHANNELS = 1
"""The axis of channels; this comes before layouts are chosen."""


def dissolve_concats(module: Any) -> Any:
    """The module with poolings before concatenations, and sums of convolutions instead of
    convolutions of concatenations, where nothing else reads these and the sums are smaller."""
    pooled = tidied(_rewrite(module, _pool_of_parts))
    return tidied(_rewrite(pooled, _sum_of_parts))


def _rewrite(module: Any, rewritten: Any) -> Any:
    """Each call whose first argument is a concatenation of channels, by ``rewritten(mutator, call,
    parts, readers)`` if that returns one; ``readers`` is all that reads the concatenation."""
    from tvm import relax
    from tvm.relax.expr_functor import PyExprMutator, mutator

    readers: dict[Any, list[Any]] = {}

    @mutator
    class Mutator(PyExprMutator):  # type: ignore[misc]
        """Visits calls after their arguments."""

        def visit_call_(self, call: Any) -> Any:
            reading = readers.get(call.args[0], []) if call.args else []
            call = self.visit_expr_post_order(call)
            parts = _parts(self, call.args[0]) if reading else None
            made = rewritten(self, call, parts, reading) if parts is not None else None
            return call if made is None else made

    mutating = Mutator(module)
    for variable, function in module.functions_items():
        if isinstance(function, relax.Function):
            readers = _readers(function)
            mutating.builder_.update_func(variable, mutating.visit_expr(function))
    return mutating.builder_.get()


def _readers(function: Any) -> dict[Any, list[Any]]:
    """What reads each variable: calls, or whatever else the result of the function is in."""
    from tvm import relax

    found: dict[Any, list[Any]] = {}
    for block in function.body.blocks:
        for binding in block.bindings:
            for variable in relax.analysis.free_vars(binding.value):
                found.setdefault(variable, []).append(binding.value)
    for variable in relax.analysis.free_vars(function.body.body):
        found.setdefault(variable, []).append(function.body.body)
    return found


def _parts(mutator: Any, expression: Any) -> list[Any] | None:
    """What is concatenated along the channels; None if it is no such thing."""
    from tvm import relax

    bound = mutator.lookup_binding(expression) if isinstance(expression, relax.Var) else None
    if bound is None or not is_operator(bound, "relax.concat"):
        return None
    axis, fields = bound.attrs.axis, bound.args[0]
    if isinstance(fields, relax.Var):
        fields = mutator.lookup_binding(fields)
    if axis is None or int(axis) != _CHANNELS or not isinstance(fields, relax.Tuple):
        return None
    parts = list(fields)
    return parts if all(len(shape_of(part)) == 4 for part in parts) else None


def _pool_of_parts(mutator: Any, call: Any, parts: list[Any], readers: list[Any]) -> Any | None:
    from tvm import relax

    is_pool = any(is_operator(call, name) for name in _POOLS)
    if not is_pool or call.attrs.layout != "NCHW" or len(readers) != 1:
        return None
    pooled = [mutator.builder_.emit(relax.Call(call.op, [part], call.attrs)) for part in parts]
    return relax.op.concat(pooled, _CHANNELS)


def _sum_of_parts(mutator: Any, call: Any, parts: list[Any], readers: list[Any]) -> Any | None:
    from tvm import relax

    if not all(map(_sums_channels, readers)):
        return None
    summed = sum(math.prod(shape_of(reader)) for reader in readers) * (len(parts) - 1)
    if summed > sum(math.prod(shape_of(part)) for part in parts):
        return None
    ends = np.cumsum([shape_of(part)[_CHANNELS] for part in parts])
    weights = np.split(call.args[1].value.numpy(), ends[:-1], axis=_CHANNELS)
    total = None
    for part, own in zip(parts, weights, strict=True):
        weight = relax.const(np.ascontiguousarray(own))
        made = mutator.builder_.emit(relax.Call(call.op, [part, weight], call.attrs))
        total = made if total is None else relax.op.add(total, made)
        if total is not made:
            total = mutator.builder_.emit(total)
    return total


def _sums_channels(reader: Any) -> bool:
    """Whether it is a convolution that sums over all channels, with constant weights."""
    if not is_operator(reader, "relax.nn.conv2d"):
        return False
    attributes = reader.attrs
    layouts = (attributes.data_layout, attributes.kernel_layout)
    return (
        int(attributes.groups) == 1 and layouts == ("NCHW", "OIHW") and is_constant(reader.args[1])
    )
