"""Concatenations that need not be made."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from coordinator.frontend.importer import import_model
from tests.kernels import target_json
from tests.models import make_model
from tests.test_frontend_layouts import compare


def model(*behind: Any, filters: int = 8, also: bool = False) -> bytes:
    """Two convolutions, concatenated, then ``behind``, nodes from "c" to "y"; if ``also``, what is
    no convolution reads "c", too."""
    generator = np.random.default_rng(0)
    shapes = {
        "w1": (8, 8, 1, 1),
        "w2": (16, 8, 3, 3),
        "w3": (filters, 24, 1, 1),
        "b3": (filters,),
        "wg": (24, 1, 3, 3),
    }
    last = "z" if also else "y"
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Conv", ["x", "w2"], ["b"], pads=[1, 1, 1, 1]),
        helper.make_node("Concat", ["r", "b"], ["c"], axis=1),
        *behind,
    ]
    if also:
        nodes[-1].output[0] = last
        nodes += [
            helper.make_node("GlobalMaxPool", ["c"], ["g"]),
            helper.make_node("Conv", ["g", "w3"], ["h"]),
            helper.make_node("Add", [last, "h"], ["y"]),
        ]
    used = {name for node in nodes for name in node.input}
    weights = {
        name: generator.standard_normal(shape).astype(np.float32)
        for name, shape in shapes.items()
        if name in used
    }
    return make_model(nodes, {"x": [1, 8, 12, 12]}, {"y": None}, weights)


def conv() -> Any:
    return helper.make_node("Conv", ["c", "w3", "b3"], ["y"])


POOL = helper.make_node("MaxPool", ["c"], ["p"], kernel_shape=[3, 3], strides=[2, 2])
CONV_OF_POOL = helper.make_node("Conv", ["p", "w3", "b3"], ["y"])
DEPTHWISE = helper.make_node("Conv", ["c", "wg"], ["y"], group=24)
RELU = helper.make_node("Relu", ["c"], ["y"])
POOL_ONLY = helper.make_node("MaxPool", ["c"], ["y"], kernel_shape=[3, 3], strides=[2, 2])


@pytest.mark.parametrize(
    ("data", "concats"),
    [
        (model(conv()), 0),
        (model(POOL, CONV_OF_POOL), 0),
        (model(conv(), filters=64), 1),  # the sums would be larger than what is copied
        (model(conv(), also=True), 1),
        (model(DEPTHWISE), 1),
        (model(RELU), 1),
        (model(POOL_ONLY), 1),
    ],
)
def test_what_is_read_by_convolutions_alone_is_not_made(data: bytes, concats: int) -> None:
    names = [task.name for task in compare(data, 1e-4).tasks]
    assert sum("concatenate" in name for name in names) == concats, names


def test_an_output_is_made_although_a_convolution_reads_it() -> None:
    both = onnx.load_from_string(model(conv()))
    both.graph.output.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, None))
    imported = import_model(both.SerializeToString(), {}, target_json())
    assert [output.name for output in imported.outputs] == ["y", "c"]
    assert sum("concatenate" in task.name for task in imported.tasks) == 1
