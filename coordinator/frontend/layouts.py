"""The layout of a model's feature maps: channels first, as ONNX has it, or channels last.

With channels last, neighbours in memory are channels, of which there are many and whose number is
mostly a multiple of a vector's length; a feature map of 7 × 7 or 14 × 14 has rows that fill no
vector. Weights are laid out ahead of time for what reads them.
"""

from __future__ import annotations

import logging
from typing import Any

from .expressions import is_constant, is_elementwise, is_operator, mutate, tidied

log = logging.getLogger(__name__)

CHANNELS_LAST = {
    "relax.nn.conv2d": ["NHWC", "HWIO"],
    "relax.nn.conv2d_transpose": ["NCHW", "IOHW"],  # TVM can lower it in no other layout
}
"""What TVM's pass is asked for: feature maps, then weights."""

_CLIPS = ("maximum", "minimum")
"""What the importer writes for a Clip is a kernel of this name already, not an operator."""


def channels_last(module: Any) -> Any:
    """The module with all two-dimensional convolutions in channels-last layout.

    Transposes are left where a convolution's neighbours need the other layout. A module without
    such convolutions stays as it is, and so does one in which TVM's pass meets what it can't
    convert.
    """
    import tvm
    from tvm import relax

    if not _has_convolutions(module):
        return module
    convert = tvm.transform.Sequential(
        [relax.transform.ConvertLayout(CHANNELS_LAST), relax.transform.Normalize()]
    )
    module = _clips_as_operators(module)
    try:
        converted = convert(module)
    except tvm.error.InternalError as error:
        log.warning("channels stay first: %s", str(error).strip().splitlines()[-1])
        return module
    return tidied(_sink_transposes(converted))


def _has_convolutions(module: Any) -> bool:
    from tvm import relax

    found = []

    def look(expression: Any) -> None:
        if is_operator(expression, "relax.nn.conv2d"):
            found.append(expression)

    for function in module.functions.values():
        if isinstance(function, relax.Function):
            relax.analysis.post_order_visit(function, look)
    return bool(found)


def _clips_as_operators(module: Any) -> Any:
    from tvm import relax

    def visit(_mutator: Any, call: Any) -> Any:
        if not is_operator(call, "relax.call_tir"):
            return call
        name = str(call.args[0].name_hint).rstrip("0123456789_")
        operands = list(call.args[1])
        if name not in _CLIPS or len(operands) != 2 or not _has_no_layout(operands[1]):
            return call
        return getattr(relax.op, name)(*operands)

    return mutate(module, visit)


def _sink_transposes(module: Any) -> Any:
    """Behind what works element by element, where one meets its opposite and both go."""
    from tvm import relax

    def transposed(mutator: Any, expression: Any) -> Any | None:
        """The transpose that a variable is bound to."""
        bound = mutator.lookup_binding(expression) if isinstance(expression, relax.Var) else None
        return bound if bound is not None and is_operator(bound, "relax.permute_dims") else None

    def visit(mutator: Any, call: Any) -> Any:
        laid_out = _laid_out(mutator, call)
        if laid_out is not None:
            return laid_out
        if is_operator(call, "relax.permute_dims"):
            before = transposed(mutator, call.args[0])
            return call if before is None else _joined(before, call)
        if not is_elementwise(call):
            return call
        moved = [transposed(mutator, argument) for argument in call.args]
        axes = {tuple(int(axis) for axis in one.attrs.axes) for one in moved if one is not None}
        others = [a for a, one in zip(call.args, moved, strict=True) if one is None]
        if len(axes) != 1 or not all(map(_has_no_layout, others)):
            return call
        args = [a if one is None else one.args[0] for a, one in zip(call.args, moved, strict=True)]
        inner = mutator.builder_.emit(relax.Call(call.op, args, call.attrs))
        return relax.op.permute_dims(inner, list(axes.pop()))

    return mutate(module, visit)


def lay_out_constants(module: Any) -> Any:
    """Reshapes and transposes of constants as constants; TVM would compile a kernel for each."""

    def visit(mutator: Any, call: Any) -> Any:
        laid_out = _laid_out(mutator, call)
        return call if laid_out is None else laid_out

    return mutate(module, visit)


def _laid_out(mutator: Any, call: Any) -> Any | None:
    import numpy as np
    from tvm import relax

    transposes = is_operator(call, "relax.permute_dims")
    if not transposes and not is_operator(call, "relax.reshape"):
        return None
    source = call.args[0]
    if isinstance(source, relax.Var):
        source = mutator.lookup_binding(source)
    if not is_constant(source):
        return None
    value = source.value.numpy()
    if transposes:
        value = value.transpose([int(axis) for axis in call.attrs.axes])
    else:
        value = value.reshape([int(extent) for extent in call.args[1].values])
    return relax.const(np.ascontiguousarray(value))


def _joined(first: Any, second: Any) -> Any:
    """Two transposes as one, or as none."""
    from tvm import relax

    inner = [int(axis) for axis in first.attrs.axes]
    axes = [inner[int(axis)] for axis in second.attrs.axes]
    if axes == sorted(axes):
        return first.args[0]
    return relax.op.permute_dims(first.args[0], axes)


def _has_no_layout(expression: Any) -> bool:
    """Whether it is a number, or a tensor of one element."""
    from tvm import relax

    kind = getattr(expression, "ty", None)
    if not isinstance(kind, relax.TensorType):
        return not isinstance(kind, relax.TupleType)
    return kind.shape is not None and all(int(extent) == 1 for extent in kind.shape)
