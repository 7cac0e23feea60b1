"""Steps of a oneDNN program as primitives: which, of what layouts.

This file is copied into packages, beside ``onednn_part.py``, and imports nothing of tunefarm's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from ctypes import c_int, c_void_p
from typing import Any

from . import onednn_api as dnnl
from .onednn_api import Dims, Refused
from .onednn_builder import Builder, Tensor

Step = Mapping[str, Any]
Reads = Sequence[Tensor]
Shape = tuple[int, ...]


def _convolution(b: Builder, step: Step, reads: Reads, shape: Shape) -> Tensor:
    api, values = b.api, step["reads"]
    source, weights = b.shapes[values[0]], b.shapes[values[1]]
    bias = api.plain(b.shapes[values[2]]) if step["bias"] else None
    transposed = step["op"] == "deconvolution"
    found = api.make(
        f"{step['op']}_forward_primitive_desc_create",
        *(api.engine, dnnl.INFERENCE),
        dnnl.DECONVOLUTION_DIRECT if transposed else dnnl.CONVOLUTION_DIRECT,
        *(api.any(source), api.any(weights), bias, api.any(shape)),
        *(Dims(step[name]) for name in ("strides", "dilations", "begins", "ends")),
        b.attributes(step, reads, shape),
    )
    return _weighted(b, step, reads, found)


def _weighted(b: Builder, step: Step, reads: Reads, primitive_desc: int) -> Tensor:
    """The call of a primitive with weights, and maybe a bias."""
    arguments = [
        (argument, b.laid_out(tensor, b.api.chosen(primitive_desc, what)))
        for argument, what, tensor in (
            (dnnl.SRC, dnnl.QUERY_SRC, reads[0]),
            (dnnl.WEIGHTS, dnnl.QUERY_WEIGHTS, reads[1]),
        )
    ]
    if step["bias"]:
        arguments.append((dnnl.BIAS, reads[2]))
    return b.result(primitive_desc, [*arguments, *b.operands(step, reads, primitive_desc)])


def _matmul(b: Builder, step: Step, reads: Reads, shape: Shape) -> Tensor:
    api, values = b.api, step["reads"]
    left, right = b.shapes[values[0]], b.shapes[values[1]]
    bias = api.plain(b.shapes[values[2]]) if step["bias"] else None
    attributes = b.attributes(step, reads, shape)

    def make(descs: Sequence[int]) -> int:
        return api.make(
            "matmul_primitive_desc_create",
            *(api.engine, *descs, bias, api.any(shape), attributes),
        )

    whole = [api.any(left), api.any(right)]
    as_is = [reads[0].desc, whole[1] if reads[1].buffer.array is not None else reads[1].desc]
    return _weighted(b, step, reads, b.fastest([as_is, whole], make))


def _from_one(
    b: Builder, step: Step, reads: Reads, shape: Shape, primitive: str, *rest: Any, before: Any = ()
) -> Tensor:
    """A primitive of one source, which it takes as it is or in C order. Its algorithm, what comes
    ``before`` the source, source, result and the ``rest`` describe it."""
    api = b.api
    direction = (dnnl.INFERENCE,) if primitive.endswith("_forward") else ()

    def make(descs: Sequence[int]) -> int:
        return api.make(
            f"{primitive}_primitive_desc_create",
            *(api.engine, *direction, dnnl.ALGORITHMS[step["algorithm"]], *before),
            *(descs[0], api.any(shape), *rest, api.attributes()),
        )

    found = b.fastest([[reads[0].desc], [api.plain(b.shapes[step["reads"][0]])]], make)
    source = b.laid_out(reads[0], api.chosen(found, dnnl.QUERY_SRC))
    return b.result(found, [(dnnl.SRC, source)])


def _pooling(b: Builder, step: Step, reads: Reads, shape: Shape) -> Tensor:
    keys = ("strides", "kernel", "dilations", "begins", "ends")
    return _from_one(b, step, reads, shape, "pooling_forward", *(Dims(step[key]) for key in keys))


def _eltwise(b: Builder, step: Step, reads: Reads, shape: Shape) -> Tensor:
    return _from_one(b, step, reads, shape, "eltwise_forward", step["alpha"], step["beta"])


def _softmax(b: Builder, step: Step, reads: Reads, shape: Shape) -> Tensor:
    return _from_one(b, step, reads, shape, "softmax_forward", step["axis"])


def _reduction(b: Builder, step: Step, reads: Reads, shape: Shape) -> Tensor:
    return _from_one(b, step, reads, shape, "reduction", 0.0, 0.0)


def _resampling(b: Builder, step: Step, reads: Reads, shape: Shape) -> Tensor:
    return _from_one(b, step, reads, shape, "resampling_forward", before=(None,))


def _layer_normalization(b: Builder, step: Step, reads: Reads, shape: Shape) -> Tensor:
    api = b.api
    source = b.plain(reads[0], shape)
    found = api.make(
        "layer_normalization_forward_primitive_desc_create",
        *(api.engine, dnnl.INFERENCE, source.desc, source.desc, None),
        *(step["epsilon"], dnnl.SCALE_AND_SHIFT, api.attributes()),
    )
    scale, shift = (b.plain(tensor, shape[-1:]) for tensor in reads[1:])
    return b.result(found, [(dnnl.SRC, source), (dnnl.SCALE, scale), (dnnl.SHIFT, shift)])


def _binary(b: Builder, step: Step, reads: Reads, shape: Shape) -> Tensor:
    api = b.api
    attributes = b.attributes(step, reads, shape)

    def make(descs: Sequence[int]) -> int:
        return api.make(
            "binary_primitive_desc_create",
            *(api.engine, dnnl.ALGORITHMS[step["algorithm"]]),
            *(*descs, api.any(shape), attributes),
        )

    first, second = (b.shapes[value] for value in step["reads"][:2])
    one, other = reads[0].desc, reads[1].desc
    candidates = [[one, other], [one, api.any(second)]]
    if first == second:
        candidates += [[other, other]]
    found = b.fastest([*candidates, [api.plain(first), api.plain(second)]], make)
    arguments = [
        (argument, b.laid_out(reads[index], api.chosen(found, dnnl.QUERY_SRC, index)))
        for index, argument in enumerate((dnnl.SRC, dnnl.SRC_1))
    ]
    return b.result(found, [*arguments, *b.operands(step, reads, found)])


def _concat(b: Builder, step: Step, reads: Reads, shape: Shape) -> Tensor:
    api = b.api

    def make(descs: Sequence[int]) -> int:
        return api.make(
            "concat_primitive_desc_create",
            *(api.engine, api.any(shape), len(descs), step["axis"]),
            *((c_void_p * len(descs))(*descs), api.attributes()),
        )

    plain = [api.plain(b.shapes[value]) for value in step["reads"]]
    found = b.fastest([[tensor.desc for tensor in reads], plain], make)
    return b.result(
        found,
        [
            (
                dnnl.MULTIPLE_SRC + index,
                b.laid_out(tensor, api.chosen(found, dnnl.QUERY_SRC, index)),
            )
            for index, tensor in enumerate(reads)
        ],
    )


def _view(b: Builder, step: Step, reads: Reads, shape: Shape) -> Tensor:
    return _look(b, step, reads[0], "memory_desc_reshape", len(shape), Dims(shape))


def _transpose(b: Builder, step: Step, reads: Reads, shape: Shape) -> Tensor:
    # oneDNN is told where each axis goes to, ONNX where each comes from.
    order = step["order"]
    target = (c_int * len(order))(*(order.index(axis) for axis in range(len(order))))
    return _look(b, step, reads[0], "memory_desc_permute_axes", target)


def _slice(b: Builder, step: Step, reads: Reads, shape: Shape) -> Tensor:
    starts = Dims(step["starts"])
    return _look(b, step, reads[0], "memory_desc_create_submemory", Dims(shape), starts)


def _look(b: Builder, step: Step, tensor: Tensor, name: str, *arguments: Any) -> Tensor:
    """The same memory, seen otherwise; if the layout doesn't let itself, then in C order."""
    try:
        return Tensor(b.api.make(name, tensor.desc, *arguments), tensor.buffer)
    except Refused:
        plain = b.plain(tensor, b.shapes[step["reads"][0]])
        return Tensor(b.api.make(name, plain.desc, *arguments), plain.buffer)


_STEPS: dict[str, Callable[[Builder, Step, Reads, Shape], Tensor]] = {
    "convolution": _convolution,
    "deconvolution": _convolution,
    "matmul": _matmul,
    "pooling": _pooling,
    "eltwise": _eltwise,
    "softmax": _softmax,
    "reduction": _reduction,
    "resampling": _resampling,
    "layer_normalization": _layer_normalization,
    "binary": _binary,
    "concat": _concat,
    "view": _view,
    "transpose": _transpose,
    "slice": _slice,
}


def add_step(builder: Builder, step: Step) -> None:
    """Raises RuntimeError if oneDNN refuses the step, ValueError if there is no such step."""
    make = _STEPS.get(step["op"])
    if make is None or any(value not in builder.tensors for value in step["reads"]):
        raise ValueError(f"the program has a step that can't be run: {step}")
    reads = [builder.tensors[value] for value in step["reads"]]
    try:
        made = make(builder, step, reads, builder.shapes[step["write"]])
    except Refused as error:
        raise RuntimeError(f"oneDNN refuses a {step['op']}: {error} ({step})") from None
    builder.tensors[step["write"]] = made
