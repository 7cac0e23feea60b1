"""Programs of oneDNN's primitives against ONNX Runtime, in the real library."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from coordinator.frontend.onednn.program import NotInOneDNN, onednn_program
from coordinator.frontend.onnx_model import load_model
from coordinator.package import onednn_part
from coordinator.package.onednn_part import load
from tests import models
from tests.models import make_model

Array = np.ndarray[Any, Any]

RTOL = 1e-5


def random(*shape: int, seed: int = 0) -> Array:
    return np.asarray(np.random.default_rng((seed, *shape)).standard_normal(shape), np.float32)


def model(
    lines: Sequence[str],
    inputs: Mapping[str, Sequence[int]],
    weights: Mapping[str, Any] | None = None,
    outputs: Sequence[str] = ("y",),
) -> bytes:
    """``lines`` are nodes in ONNX's textual syntax; a weight is an array, or a shape as a tuple."""
    arrays = {
        name: random(*one) if isinstance(one, tuple) else np.asarray(one)
        for name, one in (weights or {}).items()
    }
    nodes = [onnx.parser.parse_node(line) for line in lines]
    return make_model(nodes, dict(inputs), dict.fromkeys(outputs), arrays)


def steps(program: bytes) -> list[dict[str, Any]]:
    with np.load(io.BytesIO(program), allow_pickle=False) as archive:
        found: list[dict[str, Any]] = json.loads(archive["program"].tobytes())["steps"]
    return found


def described(program: bytes) -> list[str]:
    """The steps but views, each with what is done to its result."""
    return [
        "+".join([step["op"], *(one["algorithm"] for one in step["post"])])
        for step in steps(program)
        if step["op"] != "view"
    ]


def arguments(data: bytes) -> list[Array]:
    graph = onnx.load_model_from_string(data).graph
    return [
        random(*(dim.dim_value for dim in one.type.tensor_type.shape.dim), seed=index)
        for index, one in enumerate(graph.input)
    ]


def reference(data: bytes, arrays: Sequence[Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return list(session.run(None, dict(zip(names, arrays, strict=True))))


def assert_close(found: Sequence[Array], expected: Sequence[Array], rtol: float = RTOL) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        assert np.abs(one - other).max() <= rtol * max(np.ptp(other), np.abs(other).max(), 1e-6)


def check(data: bytes, folder: Path, arrays: Sequence[Array] | None = None) -> list[str]:
    """Compare with ONNX Runtime; the steps."""
    program = onednn_program(data)
    path = folder / "part.npz"
    path.write_bytes(program)
    arrays = arguments(data) if arrays is None else arrays
    run = load(path, 2)
    for _ in range(2):  # nothing is left over from a run before
        assert_close(run(arrays), reference(data, arrays))
    return described(program)


X = {"x": (1, 5, 9, 14)}

CONVOLUTIONS = {
    "plain": ("Conv(x, w)", (7, 5, 3, 3)),
    "bias": ("Conv(x, w, b)", (7, 5, 1, 1)),
    "asymmetric": ("Conv<pads=[1, 0, 2, 1], strides=[2, 1]>(x, w, b)", (7, 5, 3, 2)),
    "dilated": ("Conv<dilations=[2, 3], pads=[2, 3, 2, 3]>(x, w, b)", (33, 5, 3, 3)),
    "depthwise": ("Conv<group=5, pads=[1, 1, 1, 1]>(x, w, b)", (5, 1, 3, 3)),
    "multiplied": ("Conv<group=5, pads=[1, 1, 1, 1]>(x, w, b)", (10, 1, 3, 3)),
    "same_upper": ('Conv<auto_pad="SAME_UPPER", strides=[2, 2]>(x, w)', (4, 5, 4, 4)),
    "same_lower": ('Conv<auto_pad="SAME_LOWER", strides=[2, 2]>(x, w)', (4, 5, 4, 4)),
    "valid": ('Conv<auto_pad="VALID">(x, w)', (4, 5, 4, 4)),
    "transposed": ("ConvTranspose<strides=[2, 2]>(x, w, b)", (5, 7, 2, 2)),
    "transposed_cut": (
        "ConvTranspose<strides=[2, 3], pads=[1, 0, 0, 1], output_padding=[1, 0], group=5>(x, w, b)",
        (5, 2, 3, 3),
    ),
    "transposed_dilated": ("ConvTranspose<dilations=[2, 1]>(x, w)", (5, 3, 3, 2)),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions(tmp_path: Path, case: str) -> None:
    line, shape = CONVOLUTIONS[case]
    transposed = "Transpose" in line
    group = 5 if "group=5" in line else 1
    bias = (shape[1] * group if transposed else shape[0],)
    weights = {"w": shape, "b": bias} if ", b)" in line else {"w": shape}
    found = check(model([f"y = {line}"], X, weights), tmp_path)
    assert found == ["deconvolution" if transposed else "convolution"]


def test_convolutions_of_grouped_and_of_other_dimensions(tmp_path: Path) -> None:
    grouped = "y = Conv<group=2, pads=[1, 1, 1, 1]>(x, w)"
    check(model([grouped], {"x": (2, 6, 9, 5)}, {"w": (10, 3, 3, 3)}), tmp_path)
    check(model(["y = Conv(x, w)"], {"x": (2, 5, 19)}, {"w": (7, 5, 3)}), tmp_path)
    check(model(["y = Conv(x, w)"], {"x": (1, 2, 5, 6, 7)}, {"w": (3, 2, 2, 3, 3)}), tmp_path)


POOLS = [
    "MaxPool<kernel_shape=[3, 2], strides=[2, 2]>(x)",
    "MaxPool<kernel_shape=[3, 3], strides=[2, 3], pads=[1, 0, 1, 1], ceil_mode=1>(x)",
    "MaxPool<kernel_shape=[2, 2], dilations=[2, 3]>(x)",
    'MaxPool<kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER">(x)',
    "AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 0]>(x)",
    "AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 0], count_include_pad=1>(x)",
    "GlobalAveragePool(x)",
    "GlobalMaxPool(x)",
    "ReduceMean<axes=[2, 3], keepdims=0>(x)",
    "ReduceMax<axes=[-1, -2]>(x)",
    "ReduceMean<axes=[1]>(x)",
    "ReduceMean<axes=[0, 3], keepdims=0>(x)",
    "ReduceMin<axes=[3]>(x)",
    "ReduceMean(x)",
]


@pytest.mark.parametrize("line", POOLS)
def test_pooling_and_reductions(tmp_path: Path, line: str) -> None:
    check(model([f"y = {line}"], X), tmp_path)


FUNCTIONS = [
    *("Relu(x)", "Sigmoid(x)", "Tanh(x)", "Abs(x)", "Neg(x)", "Exp(x)", "Round(x)", "HardSwish(x)"),
    *("Softplus(x)", "Elu<alpha = 0.7>(x)", "LeakyRelu<alpha = 0.3>(x)", "HardSigmoid(x)"),
    *("HardSigmoid<alpha = 0.3, beta = 0.4>(x)", "Clip(x, low, high)", "Clip(x, low)"),
    *("Clip(x, , high)", "Clip(x, zero)", "Mul(x, x)", "Pow(x, two)", "Pow(x, three)"),
    *("Softmax(x)", "Softmax<axis = 1>(x)", "LogSoftmax<axis = 2>(x)"),
]
NUMBERS = {"low": -0.4, "high": 0.7, "zero": 0.0, "two": 2.0, "three": 3.0}


@pytest.mark.parametrize("line", FUNCTIONS)
def test_functions_of_elements(tmp_path: Path, line: str) -> None:
    used = {n: np.float32(v) for n, v in NUMBERS.items() if n in line.replace("(", " (")}
    check(model([f"y = {line}"], X, used), tmp_path)


@pytest.mark.parametrize("line", ["Sqrt(x)", "Log(x)", "Reciprocal(x)", "Pow(x, e)", "Div(e, x)"])
def test_functions_of_positive_elements(tmp_path: Path, line: str) -> None:
    weights = {"e": np.float32(0.3)} if "e)" in line or "(e" in line else {}
    check(model([f"y = {line}"], X, weights), tmp_path, [np.abs(random(*X["x"])) + np.float32(0.1)])


BROADCASTS = [(1, 5, 9, 14), (5, 1, 1), (1, 5, 1, 1), (14,), (1,), (), (9, 1), (1, 1, 9, 14)]


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div", "Min", "Max"])
@pytest.mark.parametrize("shape", BROADCASTS, ids=str)
def test_functions_of_two_tensors(tmp_path: Path, operator: str, shape: tuple[int, ...]) -> None:
    other = np.asarray(np.abs(random(*shape)) + np.float32(0.5))
    positive = np.abs(random(*X["x"], seed=1)) + np.float32(0.5)
    lines = [f"y = {operator}(x, c)", f"z = {operator}(c, x)"]
    check(model(lines, X, {"c": other}, ("y", "z")), tmp_path, [positive])
    computed = {**X, "c": shape}
    check(model(lines, computed, {}, ("y", "z")), tmp_path, [positive, other])


def test_sums_of_several_tensors(tmp_path: Path) -> None:
    check(model(["y = Max(x, z, x2)"], {**X, "z": X["x"], "x2": (5, 1, 1)}), tmp_path)


PRODUCTS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], bool]] = {
    "weights": ("MatMul(x, w)", (3, 19), (19, 21), True),
    "row": ("MatMul(x, w)", (1, 19), (19, 21), True),
    "batch_of_weights": ("MatMul(x, w)", (2, 3, 19), (19, 21), True),
    "computed": ("MatMul(x, w)", (3, 19), (19, 21), False),
    "batches": ("MatMul(x, w)", (2, 3, 5, 19), (2, 3, 19, 7), False),
    "broadcast": ("MatMul(x, w)", (2, 3, 5, 19), (3, 19, 7), False),
    "constant_batches": ("MatMul(x, w)", (3, 5, 19), (3, 19, 7), True),
    "gemm": ("Gemm(x, w)", (3, 19), (19, 21), True),
    "gemm_turned": ("Gemm<transB = 1, alpha = 0.5>(x, w)", (3, 19), (21, 19), True),
    "gemm_both": ("Gemm<transA = 1, transB = 1>(x, w)", (19, 3), (21, 19), False),
}


@pytest.mark.parametrize("case", PRODUCTS)
def test_matrix_products(tmp_path: Path, case: str) -> None:
    line, shape, other, constant = PRODUCTS[case]
    inputs = {"x": shape} if constant else {"x": shape, "w": other}
    check(model([f"y = {line}"], inputs, {"w": other} if constant else {}), tmp_path)


@pytest.mark.parametrize("bias", [(21,), (1, 21), (1,), (3, 1), (3, 21)], ids=str)
def test_gemm_with_a_bias(tmp_path: Path, bias: tuple[int, ...]) -> None:
    line = "y = Gemm<beta = 0.5, transB = 1>(x, w, b)"
    check(model([line], {"x": (3, 19)}, {"w": (21, 19), "b": bias}), tmp_path)
    check(model([line], {"x": (3, 19), "b": bias}, {"w": (21, 19)}), tmp_path)


VIEWS: list[tuple[list[str], dict[str, Any]]] = [
    (["y = Reshape(x, s)"], {"s": np.array([5, -1])}),
    (["y = Flatten(x)"], {}),
    (["y = Squeeze(x, a)"], {"a": np.array([0])}),
    (["y = Unsqueeze(x, a)"], {"a": np.array([0, 3])}),
    (["y = Transpose<perm = [0, 2, 3, 1]>(x)"], {}),
    (["y = Transpose(x)"], {}),
    (["y = Identity(x)"], {}),
    (["y, z = Split<axis = 1>(x, n)"], {"n": np.array([2, 3])}),
    (["y = Slice(x, b, e, a)"], {"b": [-4, 1], "e": [99, -1], "a": [3, 1]}),
    (["y = Slice(x, b, e, a)"], {"b": [0], "e": [2], "a": [1]}),
    (["y = Gather<axis = 1>(x, i)"], {"i": np.array(3)}),
    (["y = Gather<axis = 2>(x, i)"], {"i": np.array([3, 4, 5])}),
    (["y = Concat<axis = 1>(x, c, x)"], {"c": (1, 2, 9, 14)}),
    (["y = Concat<axis = 3>(x, x)"], {}),
]


@pytest.mark.parametrize(("lines", "weights"), VIEWS, ids=lambda one: str(one)[:40])
def test_views(tmp_path: Path, lines: list[str], weights: dict[str, Any]) -> None:
    weights = {
        name: one if isinstance(one, tuple) else np.asarray(one, np.int64)
        for name, one in weights.items()
    }
    outputs = ("y", "z") if "z =" in lines[0] else ("y",)
    check(model(lines, X, weights, outputs), tmp_path)
    # The same of a tensor in a layout of the library's.
    blocked = [
        "t = Conv<pads=[1, 1, 1, 1]>(x, w)",
        *(line.replace("(x", "(t").replace(", x)", ", t)") for line in lines),
        *(f"r{one} = Relu({one})" for one in outputs),
        "u = Conv(t, w)",
    ]
    weights = {**weights, "w": (5, 5, 3, 3)}
    wanted = ("u", *outputs, *(f"r{one}" for one in outputs))
    check(model(blocked, X, weights, wanted), tmp_path)


RESIZES = [
    (2, 2, 'mode = "nearest", nearest_mode = "floor", coordinate_transformation_mode="asymmetric"'),
    (3, 2, 'mode = "nearest"'),
    (2, 3, 'mode = "linear"'),
    (2, 4, 'mode = "linear", coordinate_transformation_mode = "pytorch_half_pixel"'),
]


@pytest.mark.parametrize(("high", "wide", "mode"), RESIZES)
def test_resizing(tmp_path: Path, high: int, wide: int, mode: str) -> None:
    lines = ["t = Conv(x, w)", f"y = Resize<{mode}>(t, , s)"]
    scales = np.array([1, 1, high, wide], np.float32)
    check(model(lines, X, {"w": (7, 5, 3, 3), "s": scales}), tmp_path)


NORMALISED = {
    "last": "y = LayerNormalization(x, s, b)",
    "without_shift": "y = LayerNormalization<epsilon = 0.001>(x, s)",
}


@pytest.mark.parametrize("case", NORMALISED)
def test_layer_normalization(tmp_path: Path, case: str) -> None:
    weights = {"s": (14,), "b": (14,)} if "b)" in NORMALISED[case] else {"s": (14,)}
    assert "layer_normalization" in check(model([NORMALISED[case]], X, weights), tmp_path)
    line = "y = LayerNormalization<axis = 2>(x, s)"
    check(model([line], X, {"s": (9, 14)}), tmp_path)


def test_batch_normalization_is_part_of_the_convolution_before(tmp_path: Path) -> None:
    line = "y = BatchNormalization(t, s, b, m, v)"
    statistics = {"s": (7,), "b": (7,), "m": (7,), "v": np.abs(random(7)) + np.float32(0.5)}
    for first, weights in (
        ("t = ConvTranspose<strides = [2, 2]>(x, w)", (5, 7, 2, 2)),
        ("t = Conv(x, w)", (7, 5, 2, 2)),
    ):
        data = model([first, line, "z = Relu(y)"], X, {"w": weights, **statistics}, ("z",))
        assert check(data, tmp_path) in (["deconvolution+relu"], ["convolution+relu"])
    alone = "y = BatchNormalization(x, s, b, m, v)"
    check(model([alone], {"x": (2, 7, 3, 4)}, statistics), tmp_path)


W = {"w": (7, 5, 3, 3), "half": np.float32(0.5), "root": np.float32(np.sqrt(2)), "v": (7, 7, 1, 1)}
FUSIONS: dict[str, tuple[list[str], list[str]]] = {
    "relu": (["t = Conv(x, w)", "y = Relu(t)"], ["convolution+relu"]),
    "swish": (["t = Conv(x, w)", "s = Sigmoid(t)", "y = Mul(t, s)"], ["convolution+swish"]),
    "hardswish": (
        [
            "t = Conv(x, w)",
            "a = Add(t, three)",
            "c = Clip(a, zero, six)",
            "m = Mul(c, t)",
            "y = Div(m, six)",
        ],
        ["convolution+hardswish"],
    ),
    "hardsigmoid": (
        ["t = Conv(x, w)", "h = HardSigmoid(t)", "y = Mul(h, t)"],
        ["convolution+hardswish"],
    ),
    "gelu": (
        [
            "t = Conv(x, w)",
            "d = Div(t, root)",
            "e = Erf(d)",
            "p = Add(e, one)",
            "m = Mul(t, p)",
            "y = Mul(m, half)",
        ],
        ["convolution+gelu_erf"],
    ),
    "gelu_halved_first": (
        [
            "t = Conv(x, w)",
            "d = Div(t, root)",
            "e = Erf(d)",
            "p = Add(e, one)",
            "h = Mul(t, half)",
            "y = Mul(h, p)",
        ],
        ["convolution+gelu_erf"],
    ),
    "scaled": (
        ["t = Conv(x, w)", "m = Mul(t, half)", "y = Add(m, six)"],
        ["convolution"],
    ),
    "residual": (
        ["t = Conv(x, w)", "r = Relu(t)", "u = Conv(r, v)", "a = Add(u, r)", "y = Relu(a)"],
        ["convolution+relu", "convolution+add+relu"],
    ),
    "padded": (["p = Pad(x, pads)", "y = Conv(p, w)"], ["convolution"]),
    "read_twice": (
        ["t = Conv(x, w)", "y = Relu(t)", "z = Tanh(t)"],
        ["convolution", "eltwise", "eltwise"],
    ),
    "is_an_output": (["y = Conv(x, w)", "z = Relu(y)"], ["convolution", "eltwise"]),
    "weighed": (
        [
            "t = Conv(x, w)",
            "g = GlobalAveragePool(t)",
            "s = Sigmoid(g)",
            "m = Mul(t, s)",
            "y = Add(t, m)",
        ],
        ["convolution", "pooling", "eltwise", "eltwise", "binary"],
    ),
    "added_later": (
        ["t = Conv(x, w)", "u = Conv(x, w2)", "r = Tanh(u)", "q = Conv(r, v)", "y = Sub(t, q)"],
        ["convolution+tanh", "convolution", "convolution+sub"],
    ),
}


@pytest.mark.parametrize("case", FUSIONS)
def test_what_is_joined(tmp_path: Path, case: str) -> None:
    lines, expected = FUSIONS[case]
    numbers = {"three": 3.0, "zero": 0.0, "six": 6.0, "one": 1.0}
    known = {**W, **{name: np.float32(value) for name, value in numbers.items()}}
    known["w2"] = random(7, 5, 3, 3, seed=1)
    known["pads"] = np.array([0, 0, 1, 2, 0, 0, 3, 0])
    used = {name: one for name, one in known.items() if any(_reads(line, name) for line in lines)}
    outputs = ("y", "z") if any(line.startswith("z") for line in lines) else ("y",)
    found = check(model(lines, X, used, outputs), tmp_path)
    assert found == expected


def _reads(line: str, name: str) -> bool:
    return name in line.partition("(")[2].rstrip(")").split(", ")


def test_products_are_joined_through_views(tmp_path: Path) -> None:
    lines = [
        "p = MatMul(x, w)",
        "b = Add(p, c)",
        "e = Add(b, x)",
        "q = MatMul(e, w)",
        "d = Div(q, root)",
        "f = Erf(d)",
        "o = Add(f, one)",
        "m = Mul(q, o)",
        "y = Mul(m, half)",
    ]
    weights = {"w": (24, 24), "c": (24,), "one": np.float32(1.0), **W}
    del weights["v"]
    weights["w"] = random(24, 24) * np.float32(0.2)
    found = check(model(lines, {"x": (2, 7, 24)}, weights), tmp_path)
    assert found == ["matmul+add", "matmul+gelu_erf"]


def test_attention(tmp_path: Path) -> None:
    lines = [
        "a = MatMul(x, w)",
        "r = Reshape(a, heads)",
        "q0, k0, v0 = Split<axis = 2>(r, each)",
        "q1 = Squeeze(q0, two)",
        "k1 = Squeeze(k0, two)",
        "v1 = Squeeze(v0, two)",
        "q2 = Transpose<perm = [0, 2, 1, 3]>(q1)",
        "k2 = Transpose<perm = [0, 2, 3, 1]>(k1)",
        "v2 = Transpose<perm = [0, 2, 1, 3]>(v1)",
        "q3 = Mul(q2, half)",
        "m = MatMul(q3, k2)",
        "s = Softmax<axis = -1>(m)",
        "n = MatMul(s, v2)",
        "t = Transpose<perm = [0, 2, 1, 3]>(n)",
        "y = Reshape(t, back)",
    ]
    weights = {
        "w": (24, 72),
        "heads": np.array([1, 13, 3, 3, 8]),
        "each": np.array([1, 1, 1]),
        "two": np.array([2]),
        "half": np.float32(0.35),
        "back": np.array([1, 13, 24]),
    }
    found = check(model(lines, {"x": (1, 13, 24)}, weights), tmp_path)
    assert "matmul+linear" in found
    assert "eltwise" not in found


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "unknown": ("y = Sin(x)", {}, "oneDNN has no primitive for Sin (the node that computes 'y')"),
    "erf": ("y = Erf(x)", {}, "has no primitive for Erf"),
    "step": ("y = Slice(x, b, e, a, s)", {"b": 0, "e": 9, "a": 2, "s": 2}, "steps are not 1"),
    "gather": ("y = Gather<axis = 1>(x, i)", {"i": [3, 1]}, "don't follow each other"),
    "coordinates": (
        'y = Resize<mode = "linear", coordinate_transformation_mode = "align_corners">(x, , f)',
        {"f": np.array([1, 1, 2, 2], np.float32)},
        "no linear resizing with align_corners coordinates from 9 to 18",
    ),
    "cubic": (
        'y = Resize<mode = "cubic">(x, , f)',
        {"f": np.array([1, 1, 2, 2], np.float32)},
        "no cubic resizing",
    ),
    "nearest": (
        "y = Resize(x, , f)",
        {"f": np.array([1, 1, 0.5, 0.5], np.float32)},
        "no nearest resizing with half_pixel coordinates",
    ),
    "pad": ("y = Pad(x, p)", {"p": [0, 0, 1, 1, 0, 0, 1, 1]}, "no primitive for Pad"),
    "indices": ("y, z = MaxPool<kernel_shape = [2, 2]>(x)", {}, "'z' is int64"),
    "compare": ("b = IsNaN(x); y = Where(b, x, x)", {}, "no primitive for IsNaN"),
    "ceil": (
        "y = AveragePool<kernel_shape=[2,2], strides=[2,3], ceil_mode=1, count_include_pad=1>(x)",
        {},
        "reaches beyond the padding",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_expressed_is_refused(case: str) -> None:
    line, weights, message = REFUSED[case]
    arrays = {
        name: one if isinstance(one, np.ndarray) else np.atleast_1d(np.array(one, np.int64))
        for name, one in weights.items()
    }
    with pytest.raises(NotInOneDNN) as refused:
        onednn_program(model(line.split("; "), X, arrays))
    assert message in str(refused.value)


def test_other_types_are_refused() -> None:
    data = make_model(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        {"x": (2, 3)},
        {"y": (2, 3)},
        dtypes={"x": onnx.TensorProto.INT32, "y": onnx.TensorProto.INT32},
    )
    with pytest.raises(NotInOneDNN, match="tensor 'x' is int32, and here is float32 only"):
        onednn_program(data)


def test_a_real_model_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    real = models.cls_model()
    data = load_model(real.data, real.shapes).SerializeToString()
    arrays = [np.random.default_rng(0).random(real.shapes["x"].dims, np.float32)]
    found = check(data, tmp_path, arrays)
    assert "convolution+hardswish" in found
    assert onednn_program(data) == onednn_program(data)


def two_convolutions() -> bytes:
    lines = ["t = Conv(x, w)", "r = Relu(t)", "y = Conv(r, v)"]
    return model(lines, X, {"w": (7, 5, 3, 3), "v": (7, 7, 1, 1)})


def test_inputs_that_are_not_contiguous(tmp_path: Path) -> None:
    data = two_convolutions()
    turned = np.asfortranarray(random(*X["x"]))
    check(data, tmp_path, [turned])
    check(data, tmp_path, [random(1, 5, 9, 28)[..., ::2]])


def test_two_programs_beside_each_other(tmp_path: Path) -> None:
    first, second = two_convolutions(), model(["y = Softmax(x)"], X)
    runs = []
    for name, data, threads in (("first", first, 1), ("second", second, 2)):
        path = tmp_path / f"{name}.npz"
        path.write_bytes(onednn_program(data))
        runs.append((data, load(path, threads)))
    for seed in range(3):
        arrays = [random(*X["x"], seed=seed)]
        kept = [(run(arrays), reference(data, arrays)) for data, run in runs]
        for found, expected in kept:
            assert_close(found, expected)


def test_equal_results_in_every_run_and_thread(tmp_path: Path) -> None:
    data = two_convolutions()
    path = tmp_path / "part.npz"
    path.write_bytes(onednn_program(data))
    run = load(path, 2)
    arrays = arguments(data)
    results = [np.array(run(arrays)[0])]
    thread = threading.Thread(target=lambda: results.append(np.array(run(arrays)[0])))
    thread.start()
    thread.join()
    results += [np.array(run(arrays)[0]) for _ in range(3)]
    for one in results:
        np.testing.assert_array_equal(one, results[0])


RUN_IN_A_PACKAGE = """
import pathlib, sys, threading
import numpy
from package.onednn_part import load
assert not any(name.split(".")[0] in ("coordinator", "protos", "onnx") for name in sys.modules)
inputs = numpy.load("inputs.npz")
run = load(pathlib.Path("part.npz"), 2)
def use():
    numpy.savez("outputs.npz", *run([inputs[name] for name in inputs.files]))
thread = threading.Thread(target=use)
thread.start()
thread.join()
"""


@pytest.mark.parametrize("instructions", ["SSE41", "AVX2", "DEFAULT"])
def test_a_package_runs_in_another_thread_on_older_cpus(tmp_path: Path, instructions: str) -> None:
    # Where kernels have a scratchpad of the library's, the thread that loaded has it alone.
    lines = ["t = Conv(x, w)", "r = Relu(t)", "u = Conv(r, v)", "y = MatMul(u, m)"]
    data = model(lines, X, {"w": (7, 5, 3, 3), "v": (7, 7, 1, 1), "m": (1, 1, 12, 11)})
    (tmp_path / "package").mkdir()
    package = Path(onednn_part.__file__).parent
    for name in ("onednn_api", "onednn_builder", "onednn_part", "onednn_steps"):
        shutil.copy(package / f"{name}.py", tmp_path / "package")
    (tmp_path / "part.npz").write_bytes(onednn_program(data))
    arrays = arguments(data)
    np.savez(tmp_path / "inputs.npz", *arrays)
    subprocess.run(
        [sys.executable, "-c", RUN_IN_A_PACKAGE],
        cwd=tmp_path,
        env={**os.environ, "DNNL_MAX_CPU_ISA": instructions},
        check=True,
        timeout=60,
    )
    with np.load(tmp_path / "outputs.npz") as outputs:
        assert_close([outputs[name] for name in outputs.files], reference(data, arrays))


def test_an_input_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "part.npz"
    path.write_bytes(onednn_program(two_convolutions()))
    run = load(path, 1)
    with pytest.raises(ValueError, match="shape"):
        run([random(1, 5, 9, 13)])


def test_an_output_that_is_an_input_is_a_copy(tmp_path: Path) -> None:
    data = model(["y = Flatten(x)", "z = Relu(x)"], X, {}, ("y", "z"))
    path = tmp_path / "part.npz"
    path.write_bytes(onednn_program(data))
    (array,) = arguments(data)
    found = load(path, 1)([array])[0]
    assert not np.shares_memory(found, array)
    np.testing.assert_array_equal(found, array.reshape(1, -1))


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "part.npz"
    path.write_bytes(onednn_program(two_convolutions()))
    with pytest.raises(ImportError, match=r"can't be loaded: .*nowhere\.so"):
        load(path, 1, library=tmp_path / "nowhere.so")

    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    with pytest.raises(ImportError, match="onednn-cpu-gomp is not installed"):
        load(path, 1)


def test_nonsense_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "part.npz"
    good = onednn_program(two_convolutions())
    with np.load(io.BytesIO(good)) as archive:
        arrays = {name: archive[name] for name in archive.files}
    program = json.loads(arrays["program"].tobytes())

    def write(**changed: Any) -> None:
        text = np.frombuffer(json.dumps({**program, **changed}).encode(), np.uint8)
        np.savez(path, **{**arrays, "program": text})

    first = program["steps"][0]
    write(version=99)
    with pytest.raises(ValueError, match="version 99"):
        load(path, 1)
    write(steps=[{**first, "reads": [77, 78]}])
    with pytest.raises(ValueError, match="can't be run"):
        load(path, 1)
    write(steps=[{**first, "op": "incantation"}])
    with pytest.raises(ValueError, match="can't be run"):
        load(path, 1)
    write(steps=[{**first, "strides": [3, 3]}])
    with pytest.raises(RuntimeError, match="oneDNN refuses a convolution"):
        load(path, 1)


def test_names_say_in_which_order_arrays_come(tmp_path: Path) -> None:
    text = """g (float[2, 3] a, float[2, 3] b) => (float[2, 3] y, float[2, 3] z)
        { y = Sub(a, b)  z = Exp(a) }"""
    made = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]> {text}')
    path = tmp_path / "part.npz"
    path.write_bytes(onednn_program(made.SerializeToString()))
    a, b = np.full((2, 3), 0.5, np.float32), np.full((2, 3), 2.0, np.float32)
    z, y = load(path, 1, ["b", "a"], ["z", "y"])([b, a])
    np.testing.assert_allclose(y, a - b)
    np.testing.assert_allclose(z, np.exp(a), rtol=1e-6)
    with pytest.raises(ValueError, match=r"inputs are \['a', 'b'\], not \['a', 'c'\]"):
        load(path, 1, ["a", "c"])


@pytest.mark.parametrize("computed", [True, False])
def test_an_output_that_is_constant_is_refused(computed: bool) -> None:
    node = onnx.helper.make_node("Add", ["w", "w"], ["y"])
    data = make_model(
        [node] if computed else [onnx.helper.make_node("Relu", ["x"], ["z"])],
        {"x": (2, 3)},
        {"y": (2, 3)} if computed else {"z": (2, 3), "w": (2, 3)},
        {"w": random(2, 3)},
    )
    with pytest.raises(NotInOneDNN, match=f"output '{'y' if computed else 'w'}' is constant"):
        onednn_program(data)


def test_a_division_by_a_zero_is_infinite(tmp_path: Path) -> None:
    data = model(["y = Div(x, w)"], {"x": (2, 3)}, {"w": np.float32([1.0, 0.0, -2.0])})
    path = tmp_path / "part.npz"
    path.write_bytes(onednn_program(data))
    (found,) = load(path, 1)([np.ones((2, 3), np.float32)])
    np.testing.assert_array_equal(found, np.float32([[1.0, np.inf, -0.5]] * 2))
