"""Examples: the same every time, in the range of what a model is used with, never vacuous."""

from __future__ import annotations

import io

import numpy as np
import pytest
from onnx import TensorProto, helper

from coordinator.results.input_ranges import integer_ranges
from coordinator.results.verify import make_examples
from protos.errors import BadModel
from tests import models

INTEGERS = {"ids": TensorProto.INT64}


def test_the_same_bytes_every_time() -> None:
    data = models.small_model()
    assert make_examples(data, {}, seed=3) == make_examples(data, {}, seed=3)
    assert make_examples(data, {}, seed=3) != make_examples(data, {}, seed=4)


def test_outputs_are_the_models() -> None:
    data = models.small_model()
    weights = {t.name: t for t in models.parse(data).graph.initializer}
    w = np.frombuffer(weights["w"].raw_data, np.float32).reshape(16, 16)
    b = np.frombuffer(weights["b"].raw_data, np.float32)
    examples = models.examples_of(make_examples(data, {}, count=2))
    assert len(examples) == 2
    for inputs, outputs in examples:
        np.testing.assert_allclose(outputs["y"], np.maximum(inputs["x"] @ w + b, 0), atol=1e-5)


def test_the_keys_in_the_archive() -> None:
    with np.load(io.BytesIO(make_examples(models.small_model(), {}, count=2))) as archive:
        assert archive.files == ["in0/x", "in1/x", "out0/y", "out1/y"]


def test_a_detector_finds_something() -> None:
    model = models.det_model(size=160)
    examples = models.examples_of(make_examples(model.data, model.shapes))
    assert max(float(outputs["sigmoid_0.tmp_0"].max()) for _, outputs in examples) > 0.5


def test_bytes_with_padding_for_magika() -> None:
    model = models.magika_model()
    for inputs, _ in models.examples_of(make_examples(model.data, model.shapes)):
        assert inputs["bytes"].dtype == np.int32
        assert 0 <= inputs["bytes"].min() < inputs["bytes"].max() <= 256


def _embedding() -> bytes:
    nodes = [
        helper.make_node("Reshape", ["ids", "flat"], ["row"]),
        helper.make_node("Gather", ["table", "row"], ["y"], axis=0),
    ]
    weights = {
        "table": np.arange(21, dtype=np.float32).reshape(7, 3),
        "flat": np.array([-1], np.int64),
    }
    return models.make_model(nodes, {"ids": (1, 50)}, {"y": (50, 3)}, weights, INTEGERS)


def test_an_index_stays_inside_of_its_table() -> None:
    assert integer_ranges(models.parse(_embedding())) == {"ids": (0, 7)}
    values = [inputs["ids"] for inputs, _ in models.examples_of(make_examples(_embedding(), {}))]
    assert {int(value) for value in np.concatenate(values).reshape(-1)} == set(range(7))


def test_integers_without_a_meaning_are_flags() -> None:
    nodes = [helper.make_node("Cast", ["ids"], ["y"], to=TensorProto.FLOAT)]
    data = models.make_model(nodes, {"ids": (1, 50)}, {"y": (1, 50)}, dtypes=INTEGERS)
    values = [inputs["ids"] for inputs, _ in models.examples_of(make_examples(data, {}))]
    assert {int(value) for value in np.concatenate(values).reshape(-1)} == {0, 1}


def test_a_model_for_positive_numbers_gets_positive_numbers() -> None:
    data = models.make_model([helper.make_node("Log", ["x"], ["y"])], {"x": (9,)}, {"y": (9,)})
    for inputs, outputs in models.examples_of(make_examples(data, {})):
        assert inputs["x"].min() > 0
        assert np.isfinite(outputs["y"]).all()


def test_outputs_that_are_never_finite() -> None:
    nodes = [
        helper.make_node("Sub", ["x", "x"], ["zero"]),
        helper.make_node("Div", ["x", "zero"], ["y"]),
    ]
    data = models.make_model(nodes, {"x": (9,)}, {"y": (9,)})
    with pytest.raises(BadModel, match="output 'y' of example 0 is not finite"):
        make_examples(data, {})


def test_outputs_that_never_change() -> None:
    nodes = [
        helper.make_node("Sub", ["x", "x"], ["zero"]),
        helper.make_node("Exp", ["zero"], ["y"]),
    ]
    data = models.make_model(nodes, {"x": (9,)}, {"y": (9,)})
    with pytest.raises(BadModel, match=r"no output depends on the inputs \(y\)"):
        make_examples(data, {})
