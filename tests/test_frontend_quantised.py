"""Quantised models compute what the ONNX standard says, up to what rounding makes of a sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tvm
from onnx import TensorProto, helper
from onnxruntime.quantization import QuantType
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

from coordinator.frontend.dequantised import dequantise_constants
from coordinator.frontend.importer import import_model
from coordinator.package.engine_part import load_engine
from coordinator.results.quantised import nudged, output_steps
from coordinator.results.verify import make_examples
from device_agent.examples import compare_model, read_examples
from tests import models
from tests.kernels import target_json
from tests.quantised import cnn, quantise, run_plainly

TARGET = target_json(1)
KINDS = [
    (QuantType.QUInt8, False),
    (QuantType.QInt8, False),
    (QuantType.QInt8, True),
]

Arrays = Mapping[str, Any]

NODE = helper.make_node


def _compiled(data: bytes) -> Callable[[Arrays], dict[str, Any]]:
    """The untuned model, compiled."""
    (part,) = import_model(data, {}, TARGET).parts
    module = tvm.ir.load_json(part.module_json)
    executable = relax.build(module, tvm.target.Target({"kind": "llvm"}))
    main = relax.VirtualMachine(executable, tvm.cpu())["main"]

    def run(inputs: Arrays) -> dict[str, Any]:
        found = main(*[tvm.runtime.tensor(inputs[name]) for name in part.inputs])
        outputs = [found] if len(part.outputs) == 1 else list(found)
        return {n: out.numpy() for n, out in zip(part.outputs, outputs, strict=True)}

    return run


def _with_quantised_tensors(data: bytes) -> bytes:
    """The model with what each QuantizeLinear gives as an output."""
    model = models.parse(data)
    known = onnx.shape_inference.infer_shapes(model).graph.value_info
    made = {node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    model.graph.output.extend(value for value in known if value.name in made)
    return model.SerializeToString()


def test_quantising_costs_no_transposes(tmp_path: Path) -> None:
    imported = import_model(quantise(cnn(), tmp_path, per_channel=True), {}, TARGET)
    turned = [task for task in imported.tasks if "transpose" in task.name]
    assert sum(task.weight for task in turned) <= 2, "at both ends"
    assert sum(task.weight for task in imported.tasks) <= 10


def test_quantised_constants_become_the_floats_that_they_stand_for() -> None:
    generator = np.random.default_rng(0)
    weights = {
        "whole": generator.integers(-128, 128, (2, 3, 4)).astype(np.int8),
        "sliced": generator.integers(0, 256, (2, 3, 4)).astype(np.uint8),
        "s0": np.float32(0.3),
        "z0": np.int8(-5),
        "s1": np.float32([0.1, 0.2, 0.7]),
        "z1": np.uint8([0, 128, 255]),
    }
    data = models.make_model(
        [
            NODE("DequantizeLinear", ["whole", "s0", "z0"], ["a"]),
            NODE("DequantizeLinear", ["sliced", "s1", "z1"], ["b"], axis=1),
            NODE("Mul", ["x", "a"], ["y"]),
            NODE("Mul", ["x", "b"], ["z"]),
        ],
        {"x": (2, 3, 4)},
        {"y": (2, 3, 4), "z": (2, 3, 4)},
        weights,
    )
    module = from_onnx(models.parse(data), keep_params_in_input=False)
    assert "R.dequantize" in module.script()
    assert "R.dequantize" not in dequantise_constants(module).script()
    inputs = {"x": generator.standard_normal((2, 3, 4)).astype(np.float32)}
    got = _compiled(data)(inputs)
    for name, expected in run_plainly(data, inputs).items():
        np.testing.assert_array_equal(got[name], expected)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(("activations", "symmetric"), KINDS)
def test_every_quantised_tensor_is_the_standards(
    tmp_path: Path, per_channel: bool, activations: Any, symmetric: bool
) -> None:
    options = {"per_channel": per_channel, "activations": activations, "symmetric": symmetric}
    data = _with_quantised_tensors(quantise(cnn(), tmp_path, **options))
    run = _compiled(data)
    for inputs, _ in models.examples_of(make_examples(data, {}, 3)):
        expected, got = run_plainly(data, inputs), run(inputs)
        quantised = [name for name, value in expected.items() if value.dtype.itemsize == 1]
        assert len(quantised) >= 9
        for name in quantised:
            steps = np.abs(expected[name].astype(int) - got[name].astype(int))
            # A sum in another order may come out on the other side of a half, and nothing else.
            assert steps.max() <= 1, name
            assert np.count_nonzero(steps) <= max(1, steps.size // 100), name


def _halves(scale: Any) -> Any:
    """Values half a step, or next to half a step, between those of a grid; shape (3, 280)."""
    grid = ((np.arange(280) - 140 + 0.5) * scale).astype(np.float32)
    beside = [np.nextafter(grid, np.float32(to)) for to in (1e9, -1e9)]
    return np.stack([grid, *beside])


@pytest.mark.parametrize("scale", [0.5, 0.3, 0.0235])
@pytest.mark.parametrize("zero", [np.uint8(0), np.uint8(131), np.int8(-128), np.int8(0)])
def test_a_half_is_rounded_to_even_and_what_is_too_large_is_cut_off(
    scale: float, zero: Any
) -> None:
    values = np.concatenate([_halves(np.float32(scale)), np.full((1, 280), 1e30, np.float32)])
    kind = helper.np_dtype_to_tensor_dtype(zero.dtype)
    data = models.make_model(
        [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])],
        {"x": values.shape},
        {"y": values.shape},
        {"s": np.float32(scale), "z": zero},
        {"y": kind},
    )
    expected = run_plainly(data, {"x": values})["y"]
    np.testing.assert_array_equal(_compiled(data)({"x": values})["y"], expected)
    if scale == 0.5:  # in which halves are exact
        exact = np.clip(np.rint(values / 0.5) + int(zero), *_range(zero.dtype))
        np.testing.assert_array_equal(expected, exact)


def _range(dtype: Any) -> tuple[int, int]:
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)


ROUNDINGS = {
    "round": [NODE("Div", ["x", "c"], ["a"]), NODE("Round", ["a"], ["y"])],
    "clipped": [
        NODE("Div", ["x", "c"], ["a"]),
        NODE("Clip", ["a", "low", "high"], ["b"]),
        NODE("Round", ["b"], ["y"]),
    ],
    "quantised": [NODE("Div", ["x", "c"], ["a"]), NODE("QuantizeLinear", ["a", "one", "z"], ["y"])],
}


@pytest.mark.parametrize("how", ROUNDINGS)
@pytest.mark.parametrize("scale", [0.3, 7.0])
def test_a_division_before_a_rounding_stays_one(how: str, scale: float) -> None:
    constant = np.float32(scale)
    values = _halves(constant)
    data = models.make_model(
        ROUNDINGS[how],
        {"x": values.shape},
        {"y": values.shape},
        {
            "c": constant,
            "one": np.float32(1),
            "z": np.int8(0),
            "low": np.float32(-128),
            "high": np.float32(127),
        },
        {"y": TensorProto.INT8 if how == "quantised" else TensorProto.FLOAT},
    )
    expected = run_plainly(data, {"x": values})["y"]
    np.testing.assert_array_equal(_compiled(data)({"x": values})["y"], expected)
    reciprocal = np.float32(1 / np.float64(constant))
    with_reciprocal = np.clip(np.rint(values * reciprocal), expected.min(), expected.max())
    assert (with_reciprocal != expected).any(), "or this test shows nothing"


def test_the_reference_is_the_standard_and_right_answers_are_within_the_tolerance(
    tmp_path: Path,
) -> None:
    data = quantise(cnn(), tmp_path, per_channel=True)
    packed = make_examples(data, {}, 4)
    for inputs, outputs in models.examples_of(packed):
        np.testing.assert_array_equal(outputs["y"], run_plainly(data, inputs)["y"])
    examples = read_examples(packed)
    run = _compiled(data)
    assert compare_model(examples, [run(example.inputs) for example in examples]).wrong == ""
    # The model before it was quantised is one percent away, which is more than rounding explains.
    float_outputs = [run_plainly(cnn(), example.inputs) for example in examples]
    found = compare_model(examples, float_outputs)
    assert found.output == "y"
    assert found.max_rel_error < 0.05
    assert make_examples(data, {}, 4) == packed


def test_a_tolerance_is_what_rounding_errors_make_of_the_outputs(tmp_path: Path) -> None:
    data = quantise(cnn(), tmp_path)
    model = models.parse(data)
    step = output_steps(model)["y"]
    (example, *_) = read_examples(make_examples(data, {}, 2))
    largest, rms = example.tolerances["y"]
    assert step <= rms <= largest <= 20 * step
    other = nudged(model, 0)
    assert len(other.graph.initializer) == len(model.graph.initializer) + 9
    assert nudged(model, 0) == other != nudged(model, 1)
    for before, after in zip(model.graph.node, other.graph.node, strict=True):
        assert (before == after) is (before.op_type != "QuantizeLinear")


def test_a_model_that_is_not_quantised_has_the_usual_tolerance() -> None:
    (example,) = read_examples(make_examples(models.small_model(), {}, 1))
    assert example.tolerances == {}


def test_onnx_runtimes_integer_kernels_in_a_package_do_not_saturate(tmp_path: Path) -> None:
    """On a CPU without VNNI they do unless they are told not to: 0.13 of the range off."""
    data = quantise(models.mobilenet_v2(96), tmp_path, per_channel=True)
    examples = read_examples(make_examples(data, {}, 3))
    part = {
        "engine": "onnxruntime",
        "files": str(tmp_path / "quantised.onnx"),
        "inputs": ["x"],
        "outputs": ["logits"],
    }
    call = load_engine(part, {"parts": [part], "num_threads": 1}, None)
    outputs = [{"logits": np.asarray(call([e.inputs["x"]])[0])} for e in examples]
    assert compare_model(examples, outputs).wrong == ""
