"""Transposed convolutions whose kernels don't overlap, as products and a shuffle of pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.models import make_model
from tests.test_frontend_layouts import compare


def head(kernel: tuple[int, int], strides: tuple[int, int], **attributes: Any) -> bytes:
    """Two of them as a text detector ends in, with a normalisation and relu between."""
    generator = np.random.default_rng(0)
    weights = {
        "w0": generator.standard_normal((16, 3, 3, 3)),
        "w1": generator.standard_normal((16, 8, *kernel)) / 4,
        "b1": generator.standard_normal(8),
        "w2": generator.standard_normal((8, 2, *kernel)) / 4,
        "b2": generator.standard_normal(2),
        "scale": generator.random(8),
        "shift": generator.standard_normal(8),
        "mean": generator.standard_normal(8),
        "variance": generator.random(8) + 0.5,
    }
    same = {"kernel_shape": kernel, "strides": strides, **attributes}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("ConvTranspose", ["c", "w1", "b1"], ["u"], **same),
        helper.make_node("BatchNormalization", ["u", "scale", "shift", "mean", "variance"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("ConvTranspose", ["r", "w2", "b2"], ["v"], **same),
        helper.make_node("Sigmoid", ["v"], ["y"]),
    ]
    kept = {name: value.astype(np.float32) for name, value in weights.items()}
    return make_model(nodes, {"x": [2, 3, 6, 5]}, {"y": None}, kept)


@pytest.mark.parametrize("kernel", [(2, 2), (2, 3), (1, 4)])
def test_they_are_products_and_one_shuffle_in_the_end(kernel: tuple[int, int]) -> None:
    imported = compare(head(kernel, kernel), 1e-5)
    names = [task.name for task in imported.tasks]
    assert not [name for name in names if "conv2d_transpose" in name]
    assert [name for name in names if "conv2d" in name and name.endswith("relu")], names
    assert sum("reshape" in name for name in names) == 1, names


@pytest.mark.parametrize(
    ("kernel", "strides", "attributes"),
    [((3, 3), (2, 2), {}), ((2, 2), (2, 2), {"pads": [1, 1, 1, 1]}), ((2, 2), (1, 1), {})],
    ids=["overlap", "padding", "stride"],
)
def test_others_are_tvms(kernel: Any, strides: Any, attributes: Any) -> None:
    imported = compare(head(kernel, strides, **attributes), 1e-5)
    assert [task for task in imported.tasks if "conv2d_transpose" in task.name]


def test_a_neighbour_that_minds_the_order_comes_after_the_shuffle() -> None:
    generator = np.random.default_rng(0)
    weights = {
        "w": generator.standard_normal((4, 8, 2, 2)).astype(np.float32),
        "k": generator.standard_normal((8, 8, 3, 3)).astype(np.float32),
    }
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w"], ["u"], strides=[2, 2]),
        helper.make_node("Relu", ["u"], ["r"]),
        helper.make_node("Conv", ["r", "k"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c", "r"], ["y"]),
    ]
    compare(make_model(nodes, {"x": [1, 4, 5, 6]}, {"y": None}, weights), 1e-5)
