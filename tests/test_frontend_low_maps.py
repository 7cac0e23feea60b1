"""Convolutions over maps lower than their kernels: less arithmetic, the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
import tvm
from onnx import helper
from tvm import relax

from coordinator.frontend.importer import import_model
from tests.kernels import target_json
from tests.models import make_model

TARGET = target_json(1)


def _model(
    rows: int, kernel: tuple[int, int], pads: list[int], strides: list[int], groups: int
) -> bytes:
    weights = np.random.default_rng(1).standard_normal((8, 8 // groups, *kernel))
    attributes = {"pads": pads, "strides": strides, "group": groups, "kernel_shape": kernel}
    node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    out = [
        (size + pads[i] + pads[i + 2] - kernel[i]) // strides[i] + 1
        for i, size in enumerate((rows, 16))
    ]
    return make_model(
        [node], {"x": [1, 8, rows, 16]}, {"y": [1, 8, *out]}, {"w": weights.astype(np.float32)}
    )


def _outputs(data: bytes) -> tuple[Any, Any, float]:
    imported = import_model(data, {}, TARGET)
    module = tvm.ir.load_json(imported.parts[0].module_json)
    executable = relax.build(module, tvm.target.Target({"kind": "llvm"}))
    x = np.random.default_rng(0).standard_normal(imported.inputs[0].spec.shape).astype(np.float32)
    output = relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(x)).numpy()
    (expected,) = onnxruntime.InferenceSession(data).run(None, {"x": x})
    return output, expected, sum(task.flops for task in imported.tasks)


SAME, HALF = [1, 1], [2, 1]


@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize(
    ("rows", "kernel", "pads", "strides", "steps"),
    [
        (2, (5, 5), [2, 2, 2, 2], SAME, 2),
        (3, (5, 5), [2, 2, 2, 2], SAME, 3),
        (3, (5, 5), [2, 2, 2, 2], HALF, 3),
        (1, (3, 3), [1, 1, 1, 1], SAME, 1),
        (1, (3, 3), [1, 0, 1, 2], SAME, 1),
        # Not every output row sees every input row, or there is nothing to save.
        (4, (5, 5), [2, 2, 2, 2], SAME, 5),
        (3, (3, 3), [1, 1, 1, 1], SAME, 3),
        (3, (5, 3), [0, 1, 4, 1], SAME, 5),
        (3, (3, 1), [0, 0, 0, 0], SAME, 3),
    ],
)
def test_rows_of_padding_are_not_multiplied(
    rows: int,
    kernel: tuple[int, int],
    pads: list[int],
    strides: list[int],
    steps: int,
    groups: int,
) -> None:
    output, expected, flops = _outputs(_model(rows, kernel, pads, strides, groups))
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)
    assert flops == pytest.approx(2 * output.size * steps * kernel[1] * 8 / groups)
