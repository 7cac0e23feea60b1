"""1×1 convolutions of maps that no tile divides, as products of flat maps."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tests.models import make_model
from tests.test_frontend_layouts import compare


def bottleneck(size: int) -> bytes:
    """Expansion, depthwise convolution, projection, and what came in added; a hard-swish and a
    squeeze on the way."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["e"]),
        helper.make_node("HardSwish", ["e"], ["h"]),
        helper.make_node("Conv", ["h", "wd"], ["d"], group=32, pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["d"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Sigmoid", ["g"], ["s"]),
        helper.make_node("Mul", ["r", "s"], ["m"]),
        helper.make_node("Conv", ["m", "w2"], ["p"]),
        helper.make_node("Add", ["p", "x"], ["a"]),
        helper.make_node("Conv", ["a", "w1", "b1"], ["f"]),
        helper.make_node("Add", ["f", "e"], ["y"]),
    ]
    generator = np.random.default_rng(0)
    shapes = {"w1": (32, 16, 1, 1), "b1": (32,), "wd": (32, 1, 3, 3), "w2": (16, 32, 1, 1)}
    weights = {
        name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
    }
    return make_model(nodes, {"x": [1, 16, size, size]}, {"y": None}, weights)


@pytest.mark.parametrize(("size", "products"), [(7, 3), (13, 3), (8, 0)])
def test_they_compute_the_same_and_stay_fused(size: int, products: int) -> None:
    imported = compare(bottleneck(size), 1e-4)
    calls = {task.name: task.weight for task in imported.tasks}
    assert sum(n for name, n in calls.items() if "matmul" in name) == products, calls
    assert not [name for name in calls if name.startswith("reshape")], "views are not run"
    heavy = [name for name in calls if "matmul" in name or "conv2d" in name]
    assert len(heavy) == 4
    assert all(name.startswith("fused_") for name in heavy), calls
