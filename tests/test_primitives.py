"""ONNX operators as primitives of oneDNN, in the real library, beside ONNX Runtime."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import coordinator.package
from coordinator.frontend.primitives import NotInOneDNN, onednn_program
from tests import models

Array = np.ndarray[Any, Any]

NEAR = 1e-5
"""Of the range of an output."""


@pytest.fixture(scope="module")
def packaged() -> ModuleType:
    """The runtime as a package has it: beside its C interface, in a module of another name."""
    folder = Path(coordinator.package.__file__).parent
    for name in ("packaged", "packaged.dnnl", "packaged.primitives_part"):
        path = folder / f"{name.rpartition('.')[2].replace('packaged', '__init__')}.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules["packaged.primitives_part"]


def model(text: str, **weights: Array) -> bytes:
    """One in ONNX's own text, with these initializers."""
    made = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]> {text}')
    made.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in weights.items()
    )
    onnx.checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString())


def weight(*shape: int, seed: int = 1) -> Array:
    """Seeded, so that sums of some hundred stay near one."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * 0.2


def floats(*values: float) -> Array:
    return np.array(values, np.float32)


def integers(*values: int) -> Array:
    return np.array(values, np.int64)


def inputs_of(data: bytes, positive: bool = False) -> dict[str, Array]:
    graph = onnx.load_from_string(data).graph
    weights = {tensor.name for tensor in graph.initializer}
    found = {}
    for number, value in enumerate(v for v in graph.input if v.name not in weights):
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        array = np.random.default_rng(number).standard_normal(shape).astype(np.float32) * 2
        found[value.name] = np.abs(array) + np.float32(0.1) if positive else array
    return found


def load(
    packaged: ModuleType, data: bytes, folder: Path, threads: int = 2
) -> Callable[[Sequence[Array]], list[Array]]:
    graph = onnx.load_from_string(data).graph
    (folder / "part.npz").write_bytes(onednn_program(data))
    names = list(inputs_of(data)), [value.name for value in graph.output]
    call: Callable[[Sequence[Array]], list[Array]] = packaged.load(
        folder / "part.npz", threads, *names
    )
    return call


def check(packaged: ModuleType, data: bytes, folder: Path, positive: bool = False) -> list[str]:
    """That it computes what ONNX Runtime does; returns the operations that are left of it."""
    call = load(packaged, data, folder)
    given = inputs_of(data, positive)
    expected = onnxruntime.InferenceSession(data).run(None, given)
    for _ in range(2):  # the second time in memory that was used
        for wanted, got in zip(expected, call(list(given.values())), strict=True):
            assert got.shape == wanted.shape
            assert got.dtype == np.float32
            assert np.abs(got - wanted).max() <= NEAR * np.abs(wanted).max()
    program = json.loads(np.load(folder / "part.npz")["program"].tobytes())
    return [step["op"] for step in program["steps"]]


CONVOLUTIONS = {
    "plain": ("pads = [1, 1, 1, 1]", (5, 12, 3, 3), "float[1, 5, 11, 7]"),
    "step and edges": (
        "pads = [0, 1, 2, 0], strides = [2, 3]",
        (19, 12, 3, 3),
        "float[1, 19, 6, 2]",
    ),
    "step that leaves some out": ("strides = [2, 2]", (8, 12, 2, 2), "float[1, 8, 5, 3]"),
    "same": ("auto_pad = 'SAME_UPPER', strides = [2, 2]", (8, 12, 3, 3), "float[1, 8, 6, 4]"),
    "same, lower": (
        "auto_pad = 'SAME_LOWER', strides = [2, 2]",
        (8, 12, 2, 2),
        "float[1, 8, 6, 4]",
    ),
    "depthwise": ("group = 12, pads = [1, 1, 1, 1]", (12, 1, 3, 3), "float[1, 12, 11, 7]"),
    "groups": ("group = 3, pads = [1, 1, 1, 1]", (9, 4, 3, 3), "float[1, 9, 11, 7]"),
    "apart": ("dilations = [2, 3], pads = [2, 3, 2, 3]", (8, 12, 3, 3), "float[1, 8, 11, 7]"),
    "pointwise": ("", (33, 12, 1, 1), "float[1, 33, 11, 7]"),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(packaged: ModuleType, name: str, tmp_path: Path) -> None:
    attributes, shape, output = CONVOLUTIONS[name]
    attributes = attributes.replace("'", '"')
    text = f"g (float[1, 12, 11, 7] x) => ({output} y) {{ y = Conv <{attributes}> (x, w, b) }}"
    text = text.replace(" <>", "")
    assert check(packaged, model(text, w=weight(*shape), b=weight(shape[0])), tmp_path) == [
        "convolution"
    ]


@pytest.mark.parametrize(
    ("attributes", "shape", "output"),
    [
        ("strides = [2, 2]", (12, 5, 2, 2), "float[1, 5, 22, 14]"),
        ("strides = [2, 1], pads = [1, 0, 0, 1]", (12, 5, 3, 2), "float[1, 5, 22, 7]"),
        ("strides = [2, 2], output_padding = [1, 1]", (12, 5, 3, 3), "float[1, 5, 24, 16]"),
        ("group = 3, strides = [2, 2]", (12, 5, 2, 2), "float[1, 15, 22, 14]"),
    ],
)
def test_transposed_convolutions(
    packaged: ModuleType, attributes: str, shape: tuple[int, ...], output: str, tmp_path: Path
) -> None:
    text = (
        f"g (float[1, 12, 11, 7] x) => ({output} y) {{ y = ConvTranspose <{attributes}> (x, w) }}"
    )
    assert check(packaged, model(text, w=weight(*shape)), tmp_path) == ["deconvolution"]


FUNCTIONS = {
    **{name: f"{name}(x)" for name in ("Relu", "Sigmoid", "Tanh", "Elu", "Exp", "Abs", "Neg")},
    **{name: f"{name}(x)" for name in ("HardSwish", "HardSigmoid", "Softplus", "Reciprocal")},
    "LeakyRelu": "LeakyRelu <alpha = 0.3> (x)",
    "HardSigmoid, other": "HardSigmoid <alpha = 0.16, beta = 0.4> (x)",
    "Clip": "Clip(x, low, high)",
    "Clip, one side": "Clip(x, low)",
    "Add": "Add(x, high)",
    "Sub": "Sub(x, high)",
    "Sub, the other way": "Sub(high, x)",
    "Mul": "Mul(high, x)",
    "Div": "Div(x, high)",
    "Div, the other way": "Div(high, x)",
    "Pow": "Pow(x, two)",
    "Max": "Max(x, low)",
    "Min": "Min(x, low)",
}
POSITIVE = {
    "Sqrt": "Sqrt(x)",
    "Log": "Log(x)",
    "Pow, a fraction": "Pow(x, high)",
    "Reciprocal": "Reciprocal(x)",
    "Div, the other way": "Div(high, x)",
}


@pytest.mark.parametrize("name", [*FUNCTIONS, *(f"{name}, positive" for name in POSITIVE)])
def test_functions_of_each_number(packaged: ModuleType, name: str, tmp_path: Path) -> None:
    positive = name.endswith(", positive")
    expression = POSITIVE[name.removesuffix(", positive")] if positive else FUNCTIONS[name]
    text = f"g (float[2, 5, 7] x) => (float[2, 5, 7] y) {{ y = {expression} }}"
    data = model(text, low=floats(-0.5), high=floats(1.5), two=floats(2.0))
    assert check(packaged, data, tmp_path, positive or "other way" in name) in (
        ["eltwise"],
        ["binary"],
    )


ACTIVATIONS = {
    "swish": "s = Sigmoid(h)  y = Mul(h, s)",
    "swish, the other way": "s = Sigmoid(h)  y = Mul(s, h)",
    "hard swish": "s = HardSigmoid <alpha = 0.1666667, beta = 0.5> (h)  y = Mul(h, s)",
    "hard swish of clips": "a = Add(h, three) c = Clip(a, zero, six) m = Mul(h, c) y = Div(m, six)",
    "gelu": "d = Div(h, root) e = Erf(d) p = Add(e, one) m = Mul(h, p) y = Mul(m, half)",
    "relu6": "y = Clip(h, zero, six)",
    "scaled and moved": "m = Mul(h, six) y = Add(m, three)",
}
NUMBERS = {
    "three": floats(3.0),
    "zero": np.array(0, np.float32),
    "six": np.array(6, np.float32),
    "one": floats(1.0),
    "half": np.array(0.5, np.float32),
    "root": np.array(np.sqrt(2), np.float32),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_part_of_the_convolution(
    packaged: ModuleType, name: str, tmp_path: Path
) -> None:
    text = (
        "g (float[1, 12, 11, 7] x) => (float[1, 20, 11, 7] y) "
        f"{{ h = Conv (x, w, b) {ACTIVATIONS[name]} }}"
    )
    data = model(text, w=weight(20, 12, 1, 1), b=weight(20), **NUMBERS)
    assert check(packaged, data, tmp_path) == ["convolution"]


def test_what_is_read_twice_is_not_fused(packaged: ModuleType, tmp_path: Path) -> None:
    text = """g (float[1, 12, 11, 7] x) => (float[1, 12, 11, 7] y, float[1, 12, 11, 7] z)
        { h = Conv (x, w)  y = Relu(h)  s = Sigmoid(h)  z = Mul(s, y) }"""
    found = check(packaged, model(text, w=weight(12, 12, 1, 1)), tmp_path)
    assert found == ["convolution", "eltwise", "eltwise", "binary"]


def test_a_residual_is_added_where_the_last_convolution_ends(
    packaged: ModuleType, tmp_path: Path
) -> None:
    text = """g (float[1, 12, 11, 7] x) => (float[1, 12, 11, 7] y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w)
        r = Relu(a)
        c = Conv <pads = [1, 1, 1, 1]> (r, v)
        s = Add(r, c)
        y = Relu(s)
    }"""
    data = model(text, w=weight(12, 12, 3, 3), v=weight(12, 12, 3, 3, seed=2))
    assert check(packaged, data, tmp_path) == ["convolution"] * 2


def test_two_branches_meet(packaged: ModuleType, tmp_path: Path) -> None:
    text = """g (float[1, 12, 11, 7] x) => (float[1, 24, 11, 7] y) {
        a = Conv (x, w)  b = Conv (x, v)  s = Sub(a, b)  y = Relu(s)
    }"""
    data = model(text, w=weight(24, 12, 1, 1), v=weight(24, 12, 1, 1, seed=2))
    assert check(packaged, data, tmp_path) == ["convolution", "convolution"]


POOLS = {
    "MaxPool <kernel_shape = [3, 3], strides = [2, 2]>": "float[1, 20, 5, 3]",
    "MaxPool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1>": "float[1, 20, 5, 3]",
    "MaxPool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1>": "float[1, 20, 6, 4]",
    "MaxPool <kernel_shape = [3, 2], pads = [1, 0, 1, 1]>": "float[1, 20, 11, 7]",
    "AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]>": "float[1, 20, 11, 7]",
    "AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>": (
        "float[1, 20, 11, 7]"
    ),
    "GlobalAveragePool": "float[1, 20, 1, 1]",
    "GlobalMaxPool": "float[1, 20, 1, 1]",
    "ReduceMean <keepdims = 0>": "float[1, 20]",
    "ReduceMax <keepdims = 1>": "float[1, 20, 1, 1]",
    "ReduceSum <keepdims = 0>": "float[1, 20]",
}


@pytest.mark.parametrize("pool", POOLS)
def test_pools_and_reductions_behind_a_convolution(
    packaged: ModuleType, pool: str, tmp_path: Path
) -> None:
    """Whose layout is the library's, with channels that fill no block."""
    axes = ", axes" if pool.startswith("Reduce") else ""
    text = (
        f"g (float[1, 12, 11, 7] x) => ({POOLS[pool]} y) {{ h = Conv (x, w) y = {pool} (h{axes}) }}"
    )
    data = model(text, w=weight(20, 12, 1, 1), axes=integers(2, 3))
    check(packaged, data, tmp_path)


PRODUCTS = {
    "Gemm": ("x: 5 9", "5 7", "y = Gemm (x, w, b)", {"w": weight(9, 7), "b": weight(7)}),
    "Gemm, scaled": (
        "x: 5 9",
        "5 7",
        "y = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (x, w, b)",
        {"w": weight(7, 9), "b": weight(1, 7)},
    ),
    "constant": ("x: 2 5 9", "2 5 7", "y = MatMul (x, w)", {"w": weight(9, 7)}),
    "with a bias": (
        "x: 5 9",
        "5 7",
        "m = MatMul (x, w) y = Add (m, b)",
        {"w": weight(9, 7), "b": weight(7)},
    ),
    "batched": ("x: 2 3 5 9, z: 2 3 9 7", "2 3 5 7", "y = MatMul (x, z)", {}),
    "repeated": ("x: 2 3 5 9, z: 1 9 7", "2 3 5 7", "y = MatMul (x, z)", {}),
    "transposed": (
        "x: 2 5 9, z: 2 7 9",
        "2 5 7",
        "t = Transpose <perm = [0, 2, 1]> (z) y = MatMul (x, t)",
        {},
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(packaged: ModuleType, name: str, tmp_path: Path) -> None:
    given, output, body, weights = PRODUCTS[name]
    inputs = ", ".join(
        f"float[{', '.join(shape.split())}] {tensor}"
        for tensor, shape in (one.strip().split(": ") for one in given.split(", "))
    )
    text = f"g ({inputs}) => (float[{', '.join(output.split())}] y) {{ {body} }}"
    check(packaged, model(text, **weights), tmp_path)


OTHERS = {
    "softmax": ("2 5 7", "y = Softmax <axis = 1> (x)"),
    "layer norm": ("2 5 16", "y = LayerNormalization <axis = -1> (x, sixteen, sixteen)"),
    "batch norm": ("2 5 4 7", "y = BatchNormalization (x, five, five, five, positive)"),
    "transpose": ("5 2 7", "y = Transpose <perm = [1, 0, 2]> (x)"),
    "reshape": ("5 14", "y = Reshape (x, wanted)"),
    "concat": ("2 15 7", "a = Relu(x) b = Sigmoid(x) y = Concat <axis = 1> (a, x, b)"),
    "concat with a constant": ("2 5 8", "y = Concat <axis = -1> (column, x)"),
    "slice": ("2 3 6", "y = Slice (x, starts, ends, axes)"),
    "gather": ("2 7", "y = Gather <axis = 1> (x, last)"),
    "scale by channel": ("2 5 7", "y = Mul (x, by_row)"),
    "from a smaller one": ("2 5 7", "y = Sub (by_row, x)"),
    "over a smaller one": ("2 5 7", "y = Div (by_row, x)"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_left(packaged: ModuleType, name: str, tmp_path: Path) -> None:
    output, body = OTHERS[name]
    shape = {"layer norm": "2 5 16", "batch norm": "2 5 4 7"}.get(name, "2 5 7")
    text = (
        f"g (float[{', '.join(shape.split())}] x) => (float[{', '.join(output.split())}] y) "
        f"{{ {body} }}"
    )
    data = model(
        text,
        sixteen=weight(16),
        five=weight(5),
        positive=np.abs(weight(5)) + np.float32(0.1),
        wanted=integers(5, 14),
        column=weight(2, 5, 1),
        starts=integers(1, -6),
        ends=integers(4, 9),
        axes=integers(1, 2),
        last=np.array(-1, np.int64),
        by_row=weight(5, 1),
    )
    check(packaged, data, tmp_path, positive="over" in name)


def test_a_split_is_pieces(packaged: ModuleType, tmp_path: Path) -> None:
    text = """g (float[2, 9, 5] x) => (float[2, 9, 5] y, float[2, 2, 5] z) {
        a, b = Split <axis = 1> (x, sizes)  c = Relu(a)  y = Concat <axis = 1> (b, c)  z = Exp(a)
    }"""
    check(packaged, model(text, sizes=integers(2, 7)), tmp_path)


RESIZED = {
    'mode = "nearest"': 2,
    'coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"': 3,
    'mode = "linear"': 2,
}


@pytest.mark.parametrize("attributes", RESIZED)
def test_resizing(packaged: ModuleType, attributes: str, tmp_path: Path) -> None:
    factor = RESIZED[attributes]
    text = (
        f"g (float[1, 5, 4, 7] x) => (float[1, 5, {4 * factor}, {7 * factor}] y) "
        f'{{ y = Resize <{attributes}> (x, "", scales) }}'
    ).replace('""', "")
    data = model(text, scales=floats(1, 1, factor, factor))
    assert check(packaged, data, tmp_path) == ["resampling"]


def test_whole_models(packaged: ModuleType, tmp_path: Path) -> None:
    check(packaged, models.mobilenet_v2(32), tmp_path)
    check(packaged, models.several_steps(4), tmp_path)


REFUSED = {
    "y = Round(x)": r"oneDNN has no primitive for Round \(",
    "y = Erf(x)": r"no primitive for Erf \('y'\)",
    "y = CumSum(x, axis)": "no primitive for CumSum",
    "i = Cast <to = 7> (x) j = Cast <to = 1> (i) y = Relu(j)": "no primitive for Cast",
    "y = Slice(x, axis, two, axis, two)": "in oneDNN: it leaves numbers out",
    "y = Gather(x, several)": "in oneDNN: it gathers more than one",
    "y = Add(row, column)": "in oneDNN: both of its operands are repeated",
    "y = Conv(x, x)": "in oneDNN: its weight is computed",
}


@pytest.mark.parametrize("body", REFUSED)
def test_what_can_not_be_expressed_is_named(body: str) -> None:
    shape = {"y = Add(row, column)": "4, 4", "y = Conv(x, x)": "4, 4, 1"}.get(body, "")
    given = {"y = Conv(x, x)": "4, 4, 1"}.get(body, "4, 4")
    output = shape or {"Slice": "1, 4", "Gather": "3, 4"}.get(body[4:].partition("(")[0], "4, 4")
    text = (
        f"g (float[{given}] x, float[1, 4] row, float[4, 1] column) => (float[{output}] y) "
        f"{{ {body} }}"
    )
    data = model(text, axis=integers(0), two=integers(2), several=integers(0, 2, 1))
    with pytest.raises(NotInOneDNN, match=REFUSED[body]):
        onednn_program(data)


def test_equal_models_are_equal_bytes() -> None:
    assert onednn_program(models.mobilenet_v2(32)) == onednn_program(models.mobilenet_v2(32))


def test_inputs_of_any_layout_and_threads_of_any_number(
    packaged: ModuleType, tmp_path: Path
) -> None:
    data = models.mobilenet_v2(32)
    (given,) = inputs_of(data).values()
    (expected,) = (out.copy() for out in load(packaged, data, tmp_path)([given]))
    call = load(packaged, data, tmp_path, threads=1)
    turned = np.asfortranarray(given)
    assert not turned.flags.c_contiguous
    results: list[Array] = []
    other = threading.Thread(target=lambda: results.extend(out.copy() for out in call([turned])))
    other.start()
    other.join()
    np.testing.assert_allclose(results[0], expected, rtol=1e-4, atol=1e-6)
    (again,) = call([given])
    np.testing.assert_array_equal(again, results[0])


def test_two_programs_in_one_process_keep_their_memory(
    packaged: ModuleType, tmp_path: Path
) -> None:
    calls = []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        calls.append(load(packaged, models.several_steps(number + 2), folder))
    given = [inputs_of(models.several_steps(number + 2))["x"] for number in range(2)]
    first = [call([x])[0].copy() for call, x in zip(calls, given, strict=True)]
    again = [call([x])[0] for call, x in zip(calls, given, strict=True)]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_output_is_not_overwritten_by_what_comes_later(
    packaged: ModuleType, tmp_path: Path
) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["t0"])]
    for step in range(6):
        kind = "Exp" if step % 2 else "Sigmoid"
        nodes.append(helper.make_node(kind, [f"t{step}"], [f"t{step + 1}"]))
    data = models.make_model(nodes, {"x": (3, 5)}, {"t1": (3, 5), "t6": (3, 5)})
    check(packaged, data, tmp_path)


def test_integers_are_refused_where_they_go_in_or_out() -> None:
    made = onnx.load_from_string(models.small_model())
    made.graph.output.append(helper.make_tensor_value_info("s", TensorProto.INT64, [2]))
    made.graph.node.append(helper.make_node("Shape", ["y"], ["s"]))
    with pytest.raises(NotInOneDNN):
        onednn_program(made.SerializeToString())
