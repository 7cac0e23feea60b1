"""What each ONNX operator is in oneDNN: a few steps, each a call of one primitive.

A step is an object of JSON: ``op``, its operands ``in`` and its result ``out`` by the names of
tensors, and what the primitive wants to know (``coordinator/package/primitives_part.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .onnx_model import operator

Step = dict[str, Any]
Array = np.ndarray[Any, Any]

LOWEST = float(np.finfo(np.float32).min)


class NotInOneDNN(Exception):
    """A model has something that oneDNN has no primitive for; the message says what."""


class Steps:
    """The steps of a graph, made node by node.

    ``shapes`` has the shape of every float32 tensor, ``constants`` the value of every tensor that
    has one; names of tensors that are made on the way begin with ``*``.
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], constants: Mapping[str, Array]
    ) -> None:
        self.steps: list[Step] = []
        self.shapes = dict(shapes)
        self.constants = dict(constants)

    def add_node(self, node: Any) -> None:
        """Raises NotInOneDNN, naming the node."""
        import onnx

        make = _NODES.get(node.op_type)
        if make is None or node.domain not in ("", "ai.onnx"):
            raise NotInOneDNN(f"oneDNN has no primitive for {operator(node)}")
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        for name in node.output:
            if name and name not in self.shapes:
                raise NotInOneDNN(f"{operator(node)} is not of float32 with a fixed shape")
        try:
            make(self, node, attributes)
        except _Refused as error:
            raise NotInOneDNN(f"{operator(node)} in oneDNN: {error}") from error

    # ------------------------------------------------------------------------------------- helpers

    def step(self, op: str, sources: Sequence[str], result: str, **details: Any) -> str:
        """Add one; its operands must be known. Returns ``result``."""
        for name in sources:
            self.shape(name)
        self.steps.append({"op": op, "in": list(sources), "out": result, **details})
        return result

    def new(self, shape: Sequence[int]) -> str:
        """The name of one more tensor."""
        name = f"*{len(self.shapes)}"
        self.shapes[name] = tuple(int(extent) for extent in shape)
        return name

    def constant(self, value: Array) -> str:
        """The name of one more constant."""
        name = self.new(value.shape)
        self.constants[name] = np.ascontiguousarray(value, np.float32)
        return name

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a float32 tensor; raises _Refused if it is none."""
        if name not in self.shapes:
            raise _Refused(f"{name!r} is not of float32")
        return self.shapes[name]

    def value(self, name: str, what: str) -> Array:
        """Of a constant; raises _Refused if it is none."""
        if name not in self.constants:
            raise _Refused(f"{what} is computed")
        return self.constants[name]

    def numbers(self, node: Any, index: int, what: str) -> list[int] | None:
        """Of a constant operand of integers; None if it is not given."""
        if index >= len(node.input) or not node.input[index]:
            return None
        return [int(number) for number in self.value(node.input[index], what).reshape(-1)]

    def eltwise(
        self, alg: str, source: str, result: str, alpha: float = 0.0, beta: float = 0.0
    ) -> str:
        """A function of each number."""
        return self.step("eltwise", [source], result, alg=alg, alpha=alpha, beta=beta)

    def reshaped(self, name: str, shape: Sequence[int], result: str = "") -> str:
        """The same numbers in another shape; nothing is done where they have it."""
        if not result and self.shape(name) == tuple(shape):
            return name
        if name in self.constants:
            value = self.constants[name].reshape(shape)
            if not result:
                return self.constant(value)
        return self.step("reshape", [name], result or self.new(shape))

    def binary(self, alg: str, left: str, right: str, result: str) -> str:
        """Two tensors number by number, one of which may have fewer and is repeated."""
        shape = self.shape(result)
        sides = []
        for name in (left, right):
            own = self.shape(name)
            sides.append(self.reshaped(name, (1,) * (len(shape) - len(own)) + own))
        left, right = sides
        if self.shape(left) != shape:
            if self.shape(right) != shape:
                raise _Refused("both of its operands are repeated")
            if alg == "sub":
                right = self.eltwise("linear", right, self.new(shape), -1.0, 0.0)
                alg = "add"
            elif alg == "div":
                right = self.eltwise("pow", right, self.new(shape), 1.0, -1.0)
                alg = "mul"
            left, right = right, left
        return self.step("binary", [left, right], result, alg=alg)


class _Refused(Exception):
    """Why a node can't be expressed."""


_Make = Callable[[Steps, Any, Mapping[str, Any]], None]


# ------------------------------------------------------------------------------------ elementwise


def _function(
    alg: str, alpha: tuple[str, float] = ("", 0.0), beta: tuple[str, float] = ("", 0.0)
) -> _Make:
    """A function whose parameters are these attributes, or what they are by default."""

    def make(steps: Steps, node: Any, attributes: Mapping[str, Any]) -> None:
        numbers = (attributes.get(name, default) for name, default in (alpha, beta))
        steps.eltwise(alg, node.input[0], node.output[0], *map(float, numbers))

    return make


def _clip(steps: Steps, node: Any, attributes: Mapping[str, Any]) -> None:
    ends = [attributes.get("min", LOWEST), attributes.get("max", -LOWEST)]
    for index in (1, 2):
        if index < len(node.input) and node.input[index]:
            ends[index - 1] = float(steps.value(node.input[index], "a limit").reshape(()))
    steps.eltwise("clip", node.input[0], node.output[0], *map(float, ends))


def _gelu(steps: Steps, node: Any, attributes: Mapping[str, Any]) -> None:
    approximate = attributes.get("approximate", b"none")
    alg = "gelu_tanh" if approximate == b"tanh" else "gelu_erf"
    steps.eltwise(alg, node.input[0], node.output[0])


def _power(steps: Steps, node: Any, attributes: Mapping[str, Any]) -> None:
    exponent = steps.value(node.input[1], "the exponent")
    if exponent.size != 1:
        raise _Refused("it has several exponents")
    steps.eltwise("pow", node.input[0], node.output[0], 1.0, float(exponent.reshape(())))


def _arithmetic(alg: str) -> _Make:
    def make(steps: Steps, node: Any, attributes: Mapping[str, Any]) -> None:
        if len(node.input) != 2:
            raise _Refused(f"it has {len(node.input)} operands")
        (left, right), result = node.input, node.output[0]
        shape = steps.shape(result)
        number = _scalar(steps, right)
        if number is not None and steps.shape(left) == shape and (alg != "div" or number):
            scales = {"add": (1.0, number), "sub": (1.0, -number), "mul": (number, 0.0)}
            if alg == "div":
                scales["div"] = (1.0 / number, 0.0)
            if alg in scales:
                steps.eltwise("linear", left, result, *scales[alg])
                return
        number = _scalar(steps, left)
        if number is not None and steps.shape(right) == shape:
            scales = {"add": (1.0, number), "sub": (-1.0, number), "mul": (number, 0.0)}
            if alg in scales:
                steps.eltwise("linear", right, result, *scales[alg])
                return
            if alg == "div":
                steps.eltwise("pow", right, result, number, -1.0)
                return
        steps.binary(alg, left, right, result)

    return make


def _scalar(steps: Steps, name: str) -> float | None:
    value = steps.constants.get(name)
    return float(value.reshape(())) if value is not None and value.size == 1 else None


# -------------------------------------------------------------------- convolutions, products, pools


def _convolution(steps: Steps, node: Any, attributes: Mapping[str, Any]) -> None:
    weights = steps.value(node.input[1], "its weight")
    groups = int(attributes.get("group", 1))
    inputs, outputs = steps.shape(node.input[0]), steps.shape(node.output[0])
    if groups > 1:
        weights = weights.reshape(groups, weights.shape[0] // groups, *weights.shape[1:])
    windows = _windows(attributes, weights.shape[-(len(inputs) - 2) :], inputs, outputs)
    _weighted(steps, "convolution", node, weights, windows)


def _transposed(steps: Steps, node: Any, attributes: Mapping[str, Any]) -> None:
    weights = steps.value(node.input[1], "its weight")
    groups = int(attributes.get("group", 1))
    inputs, outputs = steps.shape(node.input[0]), steps.shape(node.output[0])
    kernel = weights.shape[2:]
    by_group = weights.reshape(groups, -1, *weights.shape[1:]).swapaxes(1, 2)
    # The other way round: what it writes is padded, and read by a convolution.
    windows = _windows({**attributes, "output_padding": None}, kernel, outputs, inputs)
    _weighted(steps, "deconvolution", node, by_group if groups > 1 else by_group[0], windows)


def _weighted(
    steps: Steps, op: str, node: Any, weights: Array, windows: Mapping[str, list[int]]
) -> None:
    bias = None
    if len(node.input) > 2 and node.input[2]:
        bias = steps.constant(steps.value(node.input[2], "its bias"))
    del windows["kernel"]  # type: ignore[attr-defined]
    details = {"weights": steps.constant(weights), "bias": bias, "post": [], **windows}
    steps.step(op, [node.input[0]], node.output[0], **details)


def _windows(
    attributes: Mapping[str, Any],
    kernel: Sequence[int],
    inputs: Sequence[int],
    outputs: Sequence[int],
) -> dict[str, list[int]]:
    """Strides, dilations (0: none) and paddings of what slides over ``inputs`` to ``outputs``."""
    rank = len(kernel)
    if len(inputs) != rank + 2:
        raise _Refused(f"its kernel has {rank} dimensions")
    strides = [int(number) for number in attributes.get("strides", (1,) * rank)]
    apart = [int(number) for number in attributes.get("dilations", (1,) * rank)]
    pads = [int(number) for number in attributes.get("pads", (0,) * 2 * rank)]
    auto = attributes.get("auto_pad", b"NOTSET")
    if min(pads) < 0:
        raise _Refused("its padding is negative")
    before, after = [], []
    for axis in range(rank):
        needed = (outputs[axis + 2] - 1) * strides[axis] + (kernel[axis] - 1) * apart[axis] + 1
        total = needed - inputs[axis + 2]
        if auto in (b"SAME_UPPER", b"SAME_LOWER"):
            total = max(total, 0)
            before.append(total // 2 if auto == b"SAME_UPPER" else total - total // 2)
        else:
            before.append(pads[axis])
        after.append(max(total - before[-1], 0))  # less than nothing: a stride that does not fit
    return {
        "kernel": [int(extent) for extent in kernel],
        "strides": strides,
        "dilations": [number - 1 for number in apart],
        "before": before,
        "after": after,
    }


def _pool(alg: str) -> _Make:
    def make(steps: Steps, node: Any, attributes: Mapping[str, Any]) -> None:
        if len(node.output) > 1 and node.output[1]:
            raise _Refused("it gives indices")
        inputs, outputs = steps.shape(node.input[0]), steps.shape(node.output[0])
        windows = _windows(attributes, attributes["kernel_shape"], inputs, outputs)
        padded = alg
        if alg == "pooling_avg":
            included = bool(attributes.get("count_include_pad", 0))
            if included and attributes.get("ceil_mode", 0):
                raise _Refused("it counts what is padded, and rounds up")
            padded = f"pooling_avg_{'include' if included else 'exclude'}_padding"
        sides = zip(windows["kernel"], windows["before"], windows["after"], strict=True)
        if any(max(one, other) >= extent for extent, one, other in sides):
            raise _Refused("a window of it is all padding")
        steps.step("pooling", node.input[:1], node.output[0], alg=padded, **windows)

    return make


def _global_pool(alg: str) -> _Make:
    def make(steps: Steps, node: Any, attributes: Mapping[str, Any]) -> None:
        kernel = steps.shape(node.input[0])[2:]
        shapes = steps.shape(node.input[0]), steps.shape(node.output[0])
        windows = _windows({}, kernel, *shapes)
        steps.step("pooling", node.input[:1], node.output[0], alg=alg, **windows)

    return make


def _gemm(steps: Steps, node: Any, attributes: Mapping[str, Any]) -> None:
    alpha, beta = float(attributes.get("alpha", 1.0)), float(attributes.get("beta", 1.0))
    if attributes.get("transA", 0):
        raise _Refused("its left side is transposed")
    right = steps.value(node.input[1], "its right side")
    right = alpha * (right.T if attributes.get("transB", 0) else right)
    bias = None
    outputs = right.shape[1]
    if len(node.input) > 2 and node.input[2]:
        value = beta * steps.value(node.input[2], "its bias")
        if value.size not in (1, outputs) or (value.ndim > 1 and value.shape[-1] != value.size):
            raise _Refused("its bias is a matrix")
        bias = steps.constant(np.broadcast_to(value.reshape(1, -1), (1, outputs)))
    sources = [node.input[0], steps.constant(right)]
    steps.step("matmul", sources, node.output[0], bias=bias, post=[])


def _matmul(steps: Steps, node: Any, attributes: Mapping[str, Any]) -> None:
    (left, right), result = node.input, node.output[0]
    shapes = [steps.shape(left), steps.shape(right)]
    rank = len(steps.shape(result))
    if min(map(len, shapes)) < 2:
        raise _Refused("an operand is a vector")
    if len(shapes[1]) == 2 and right in steps.constants and rank > 2:
        rows = math.prod(shapes[0][:-1])
        flat = steps.reshaped(left, (rows, shapes[0][-1]))
        made = steps.new((rows, shapes[1][-1]))
        steps.step("matmul", [flat, right], made, bias=None, post=[])
        steps.reshaped(made, steps.shape(result), result)
        return
    sides = [
        steps.reshaped(name, (1,) * (rank - len(shape)) + shape)
        for name, shape in zip((left, right), shapes, strict=True)
    ]
    steps.step("matmul", sides, result, bias=None, post=[])


# ---------------------------------------------------------------------------- rows and reductions


def _softmax(steps: Steps, node: Any, attributes: Mapping[str, Any]) -> None:
    rank = len(steps.shape(node.input[0]))
    axis = int(attributes.get("axis", -1)) % rank
    steps.step("softmax", node.input[:1], node.output[0], axis=axis)


def _layer_norm(steps: Steps, node: Any, attributes: Mapping[str, Any]) -> None:
    shape = steps.shape(node.input[0])
    if int(attributes.get("axis", -1)) % len(shape) != len(shape) - 1:
        raise _Refused("it is over more than the last axis")
    if any(node.output[1:]):
        raise _Refused("it gives the mean")
    scale = steps.value(node.input[1], "its scale").reshape(-1)
    shift = np.zeros_like(scale)
    if len(node.input) > 2 and node.input[2]:
        shift = steps.value(node.input[2], "its bias").reshape(-1)
    if scale.size != shape[-1] or shift.size != shape[-1]:
        raise _Refused("its scale is of another size")
    steps.step(
        *("layer_norm", node.input[:1], node.output[0]),
        scale=steps.constant(scale),
        shift=steps.constant(shift),
        epsilon=float(attributes.get("epsilon", 1e-5)),
    )


def _batch_norm(steps: Steps, node: Any, attributes: Mapping[str, Any]) -> None:
    if attributes.get("training_mode", 0) or any(node.output[1:]):
        raise _Refused("it is in training")
    scale, shift, mean, variance = (
        steps.value(name, "a parameter").astype(np.float64) for name in node.input[1:]
    )
    scale = scale / np.sqrt(variance + float(attributes.get("epsilon", 1e-5)))
    shape = steps.shape(node.input[0])
    by_channel = (1, -1, *(1,) * (len(shape) - 2))
    scaled = steps.new(shape)
    steps.binary("mul", node.input[0], steps.constant(scale.reshape(by_channel)), scaled)
    moved = (shift - mean * scale).reshape(by_channel)
    steps.binary("add", scaled, steps.constant(moved), node.output[0])


def _reduce(alg: str) -> _Make:
    def make(steps: Steps, node: Any, attributes: Mapping[str, Any]) -> None:
        shape = steps.shape(node.input[0])
        axes = attributes.get("axes") or steps.numbers(node, 1, "which axes it reduces")
        if not axes and attributes.get("noop_with_empty_axes", 0):
            raise _Refused("it reduces nothing")
        reduced = {int(axis) % len(shape) for axis in axes or range(len(shape))}
        kept = [1 if axis in reduced else extent for axis, extent in enumerate(shape)]
        made = steps.new(kept)
        steps.step("reduction", node.input[:1], made, alg=alg)
        steps.reshaped(made, steps.shape(node.output[0]), node.output[0])

    return make


# ------------------------------------------------------------------------- what only moves numbers


def _reshape(steps: Steps, node: Any, attributes: Mapping[str, Any]) -> None:
    if any(node.output[1:]):
        raise _Refused("it gives more than one tensor")
    steps.reshaped(node.input[0], steps.shape(node.output[0]), node.output[0])


def _transpose(steps: Steps, node: Any, attributes: Mapping[str, Any]) -> None:
    rank = len(steps.shape(node.input[0]))
    order = [int(axis) for axis in attributes.get("perm", range(rank)[::-1])]
    steps.step("transpose", node.input[:1], node.output[0], order=order)


def _concat(steps: Steps, node: Any, attributes: Mapping[str, Any]) -> None:
    axis = int(attributes["axis"]) % len(steps.shape(node.output[0]))
    steps.step("concat", list(node.input), node.output[0], axis=axis)


def _split(steps: Steps, node: Any, attributes: Mapping[str, Any]) -> None:
    axis = int(attributes.get("axis", 0)) % len(steps.shape(node.input[0]))
    offset = 0
    for name in node.output:
        offsets = [0] * len(steps.shape(node.input[0]))
        offsets[axis] = offset
        steps.step("slice", node.input[:1], name, offsets=offsets)
        offset += steps.shape(name)[axis]


def _slice(steps: Steps, node: Any, attributes: Mapping[str, Any]) -> None:
    shape = steps.shape(node.input[0])
    starts = steps.numbers(node, 1, "where it starts") or []
    axes = steps.numbers(node, 3, "its axes") or list(range(len(starts)))
    by = steps.numbers(node, 4, "its step") or [1] * len(starts)
    if any(number != 1 for number in by):
        raise _Refused("it leaves numbers out")
    offsets = [0] * len(shape)
    for axis, start in zip(axes, starts, strict=True):
        start = start + shape[axis] if start < 0 else start
        offsets[axis] = min(max(start, 0), shape[axis])
    steps.step("slice", node.input[:1], node.output[0], offsets=offsets)


def _gather(steps: Steps, node: Any, attributes: Mapping[str, Any]) -> None:
    shape, index = steps.shape(node.input[0]), steps.value(node.input[1], "its index")
    if index.size != 1:
        raise _Refused("it gathers more than one")
    axis = int(attributes.get("axis", 0)) % len(shape)
    offsets = [0] * len(shape)
    offsets[axis] = int(index.reshape(())) % shape[axis]
    kept = [1 if number == axis else extent for number, extent in enumerate(shape)]
    made = steps.step("slice", node.input[:1], steps.new(kept), offsets=offsets)
    steps.reshaped(made, steps.shape(node.output[0]), node.output[0])


def _resize(steps: Steps, node: Any, attributes: Mapping[str, Any]) -> None:
    mode = attributes.get("mode", b"nearest").decode()
    where = attributes.get("coordinate_transformation_mode", b"half_pixel").decode()
    rounded = attributes.get("nearest_mode", b"round_prefer_floor").decode()
    inputs, outputs = steps.shape(node.input[0]), steps.shape(node.output[0])
    if inputs[:2] != outputs[:2] or len(inputs) < 3:
        raise _Refused("it resizes channels")
    if len(node.input) > 1 and node.input[1] and where == "tf_crop_and_resize":
        raise _Refused("it crops")
    whole = all(after % before == 0 for before, after in zip(inputs, outputs, strict=True))
    repeated = (where, rounded) in (
        ("asymmetric", "floor"),
        ("half_pixel", "round_prefer_floor"),
    )
    if mode == "nearest" and not (whole and repeated):
        raise _Refused(f"{where} with {rounded} is nearest to other numbers")
    if mode not in ("nearest", "linear") or (mode == "linear" and where != "half_pixel"):
        raise _Refused(f"there is no {mode} resampling with {where}")
    steps.step("resampling", node.input[:1], node.output[0], alg=f"resampling_{mode}")


_NODES: dict[str, _Make] = {
    "Abs": _function("abs"),
    "Add": _arithmetic("add"),
    "AveragePool": _pool("pooling_avg"),
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "Div": _arithmetic("div"),
    "Dropout": _reshape,
    "Elu": _function("elu", ("alpha", 1.0)),
    "Erf": _function("erf"),  # no primitive, but a part of GELU
    "Exp": _function("exp"),
    "Flatten": _reshape,
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool("pooling_avg_exclude_padding"),
    "GlobalMaxPool": _global_pool("pooling_max"),
    "HardSigmoid": _function("hardsigmoid", ("alpha", 0.2), ("beta", 0.5)),
    "HardSwish": _function("hardswish", ("", 1 / 6), ("", 0.5)),
    "Identity": _reshape,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _function("relu", ("alpha", 0.01)),
    "Log": _function("log"),
    "MatMul": _matmul,
    "Max": _arithmetic("max"),
    "MaxPool": _pool("pooling_max"),
    "Min": _arithmetic("min"),
    "Mul": _arithmetic("mul"),
    "Neg": _function("linear", ("", -1.0)),
    "Pow": _power,
    "Reciprocal": _function("pow", ("", 1.0), ("", -1.0)),
    "ReduceMax": _reduce("reduction_max"),
    "ReduceMean": _reduce("reduction_mean"),
    "ReduceMin": _reduce("reduction_min"),
    "ReduceSum": _reduce("reduction_sum"),
    "Relu": _function("relu"),
    "Reshape": _reshape,
    "Resize": _resize,
    "Sigmoid": _function("logistic"),
    "Slice": _slice,
    "Softmax": _softmax,
    "Softplus": _function("soft_relu", ("", 1.0)),
    "Split": _split,
    "Sqrt": _function("sqrt"),
    "Squeeze": _reshape,
    "Sub": _arithmetic("sub"),
    "Tanh": _function("tanh"),
    "Transpose": _transpose,
    "Unsqueeze": _reshape,
}
