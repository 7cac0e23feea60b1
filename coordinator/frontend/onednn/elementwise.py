"""Functions of every element, of one tensor or of two, as steps of a oneDNN program."""

from __future__ import annotations

import numpy as np

from .node import Node, Translate

_HUGE = float(np.finfo(np.float32).max)

_FUNCTIONS: dict[str, tuple[str, float, float]] = {
    "Abs": ("abs", 0.0, 0.0),
    "Exp": ("exp", 0.0, 0.0),
    "Log": ("log", 0.0, 0.0),
    "Mish": ("mish", 0.0, 0.0),
    "Neg": ("linear", -1.0, 0.0),
    "Reciprocal": ("pow", 1.0, -1.0),
    "Relu": ("relu", 0.0, 0.0),
    "Round": ("round", 0.0, 0.0),
    "Sigmoid": ("logistic", 0.0, 0.0),
    "Softplus": ("soft_relu", 1.0, 0.0),
    "Sqrt": ("sqrt", 0.0, 0.0),
    "Tanh": ("tanh", 0.0, 0.0),
    "HardSwish": ("hardswish", 1 / 6, 0.5),
}
_WITH_ALPHA = {"Elu": ("elu", 1.0), "LeakyRelu": ("relu", 0.01), "Swish": ("swish", 1.0)}
_BINARY = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Min": "min", "Max": "max"}


def _function(n: Node) -> str:
    algorithm, alpha, beta = _FUNCTIONS[n.op]
    return n.eltwise(n.read(0), algorithm, alpha, beta)


def _with_alpha(n: Node) -> str:
    algorithm, default = _WITH_ALPHA[n.op]
    return n.eltwise(n.read(0), algorithm, float(n.attributes.get("alpha", default)))


def _hard_sigmoid(n: Node) -> str:
    alpha, beta = (float(n.attributes.get(k, d)) for k, d in (("alpha", 0.2), ("beta", 0.5)))
    return n.eltwise(n.read(0), "hardsigmoid", alpha, beta)


def _gelu(n: Node) -> str:
    exact = n.attributes.get("approximate", b"none") == b"none"
    return n.eltwise(n.read(0), "gelu_erf" if exact else "gelu_tanh")


def _erf(n: Node) -> str:
    return n.step("erf", [n.read(0)], n.shape(0))


def _clip(n: Node) -> str:
    low, high = -_HUGE, _HUGE
    if n.opset < 11:
        low, high = (float(n.attributes.get(k, d)) for k, d in (("min", low), ("max", high)))
    else:
        low = float(n.needed(1).reshape(())) if n.has(1) else low
        high = float(n.needed(2).reshape(())) if n.has(2) else high
    if low == 0.0 and high == _HUGE:
        return n.eltwise(n.read(0), "relu")
    return n.eltwise(n.read(0), "clip", max(low, -_HUGE), min(high, _HUGE))


def _pow(n: Node) -> str:
    exponent = n.needed(1)
    if exponent.size != 1 or n.result != n.shape(0):
        raise n.refuse("the exponent is not one number")
    value = float(exponent.reshape(()))
    if value == 0.5:
        return n.eltwise(n.read(0), "sqrt")
    if value == 2.0:
        return n.step("binary", [n.read(0)] * 2, n.shape(0), algorithm="mul")
    return n.eltwise(n.read(0), "pow", 1.0, value)


def _binary(n: Node) -> str:
    name = n.read(0)
    for index in range(1, len(n.inputs)):
        name = _binary_of(n, _BINARY[n.op], name, n.read(index))
    return name


def _binary_of(n: Node, algorithm: str, first: str, second: str) -> str:
    shapes, constants = n.graph.shapes, n.graph.constants
    one, other = shapes[first], shapes[second]
    shape = tuple(int(size) for size in np.broadcast_shapes(one, other))
    if shape not in (one, other):
        raise n.refuse(f"shapes {list(one)} and {list(other)} are both broadcast")
    # It is the second operand that oneDNN broadcasts, and that our fusions want constant.
    if one != shape or (first in constants and other == shape):
        if algorithm == "sub":
            second, algorithm = n.eltwise(second, "linear", -1.0), "add"
        elif algorithm == "div":
            second, algorithm = n.eltwise(second, "pow", 1.0, -1.0), "mul"
        first, second = second, first
    if second in constants:
        value = constants[second]
        if algorithm == "sub":
            value, algorithm = -value, "add"
        elif algorithm == "div":
            with np.errstate(divide="ignore"):  # by zero is infinite, as in ONNX
                value, algorithm = 1 / value, "mul"
        if value.size == 1 and algorithm in ("add", "mul"):
            number = float(value.reshape(()))
            alpha, beta = (1.0, number) if algorithm == "add" else (number, 0.0)
            return n.eltwise(first, "linear", alpha, beta)
        second = n.graph.constant(value)
    second = n.view(second, (1,) * (len(shape) - len(shapes[second])) + shapes[second])
    return n.step("binary", [first, second], shape, algorithm=algorithm)


ELEMENTWISE: dict[str, Translate] = {
    **dict.fromkeys(_FUNCTIONS, _function),
    **dict.fromkeys(_WITH_ALPHA, _with_alpha),
    **dict.fromkeys(_BINARY, _binary),
    "Clip": _clip,
    "Erf": _erf,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "Pow": _pow,
}
