"""The layout of a model's feature maps: channels first, as ONNX has it, or channels last.

With channels last, neighbours in memory are channels, of which there are many and whose number is
mostly a multiple of a vector's length; a feature map of 7 × 7 or 14 × 14 has rows that fill no
vector.
"""

from __future__ import annotations

import logging
from typing import Any

from .expressions import is_constant, is_operator, mutate, shape_of, tidied
from .transposes import TO_FIRST, TO_LAST, has_no_layout, sink_transposes

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
    such convolutions stays as it is. TVM's pass takes the neighbours along; where it meets what it
    can't convert, each convolution is converted by itself.
    """
    import tvm
    from tvm import relax

    if not _has_convolutions(module):
        return module
    convert = tvm.transform.Sequential(
        [relax.transform.ConvertLayout(CHANNELS_LAST), relax.transform.Normalize()]
    )
    module = tidied(mutate(_clips_as_operators(module), _without_empty_slice))
    try:
        converted = convert(module)
    except tvm.error.InternalError as error:
        log.info("TVM's pass fails: %s", str(error).strip().splitlines()[-1])
        converted = mutate(module, _last_by_itself)
    return sink_transposes(converted)


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
        if name not in _CLIPS or len(operands) != 2 or not has_no_layout(operands[1]):
            return call
        return getattr(relax.op, name)(*operands)

    return mutate(module, visit)


def _without_empty_slice(_mutator: Any, call: Any) -> Any:
    """TensorFlow's exporter writes slices of everything around one-dimensional convolutions."""
    if not is_operator(call, "relax.strided_slice"):
        return call
    steps = call.args[4] if len(call.args) > 4 else ()
    everything = shape_of(call) == shape_of(call.args[0])
    return call.args[0] if everything and all(_is_one(step) for step in steps) else call


def _is_one(step: Any) -> bool:
    return int(getattr(step, "value", 0)) == 1


def _last_by_itself(mutator: Any, call: Any) -> Any:
    """A convolution channels first as one channels last between two transposes."""
    import numpy as np
    from tvm import relax

    if not is_operator(call, "relax.nn.conv2d"):
        return call
    attributes, (data, weights) = call.attrs, call.args
    layouts = (attributes.data_layout, attributes.kernel_layout, attributes.out_layout)
    if layouts != ("NCHW", "OIHW", "NCHW") or not is_constant(weights):
        return call
    laid_out = np.ascontiguousarray(weights.value.numpy().transpose(2, 3, 1, 0))
    made = relax.op.nn.conv2d(
        mutator.builder_.emit(relax.op.permute_dims(data, TO_LAST)),
        relax.const(laid_out),
        strides=attributes.strides,
        padding=attributes.padding,
        dilation=attributes.dilation,
        groups=attributes.groups,
        data_layout="NHWC",
        kernel_layout="HWIO",
        out_layout="NHWC",
        out_dtype=attributes.out_dtype,
    )
    return relax.op.permute_dims(mutator.builder_.emit(made), TO_FIRST)
