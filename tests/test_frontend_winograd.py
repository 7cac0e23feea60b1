"""Winograd's convolutions: the same numbers as direct ones, offered where they may pay."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tvm
from onnx import helper
from tvm import relax

from coordinator.frontend.importer import ImportedModel, import_model
from coordinator.frontend.packing import pack
from coordinator.frontend.winograd import TILES, Convolution, transformed_weights
from tests.kernels import target_json
from tests.models import make_model

TARGET = target_json(1)
SAME = (1, 1, 1, 1)


def convolution_model(
    sizes: tuple[int, int, int, int, int],
    pads: tuple[int, int, int, int] = SAME,
    kernel: int = 3,
    strides: int = 1,
    groups: int = 1,
    *,
    bias: bool = True,
) -> bytes:
    """A convolution with what follows one, of (batch, channels, rows, columns, filters)."""
    batch, channels, rows, columns, filters = sizes
    random = np.random.default_rng(1)
    weights = {
        "w": random.standard_normal((filters, channels // groups, kernel, kernel)),
        "b": random.standard_normal(filters),
    }
    attributes = {"pads": pads, "strides": [strides] * 2, "group": groups}
    inputs = ["x", "w", "b"] if bias else ["x", "w"]
    nodes = [
        helper.make_node(
            "Conv", inputs, ["c" if bias else "y"], kernel_shape=[kernel] * 2, **attributes
        )
    ]
    if bias:
        nodes.append(helper.make_node("Relu", ["c"], ["y"]))
    else:
        del weights["b"]
    out = [
        (size + pads[i] + pads[i + 2] - kernel) // strides + 1
        for i, size in enumerate((rows, columns))
    ]
    return make_model(
        nodes,
        {"x": [batch, channels, rows, columns]},
        {"y": [batch, filters, *out]},
        {name: value.astype(np.float32) for name, value in weights.items()},
    )


def _outputs(imported: ImportedModel, x: Any) -> Any:
    module = tvm.ir.load_json(imported.parts[0].module_json)
    executable = relax.build(module, tvm.target.Target(json.loads(TARGET)))
    return relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(x)).numpy()


@pytest.mark.parametrize("m", TILES)
@pytest.mark.parametrize(
    ("sizes", "pads", "bias"),
    [
        ((1, 16, 16, 16, 16), SAME, True),
        ((1, 16, 16, 16, 16), SAME, False),
        ((1, 16, 14, 9, 24), SAME, True),  # the last tiles reach over both edges
        ((1, 16, 14, 9, 24), SAME, False),
        ((1, 16, 14, 14, 16), SAME, True),  # 7 × 7 tiles, whose products are of one more
        ((2, 24, 12, 20, 16), (0, 0, 0, 0), True),
        ((1, 16, 10, 11, 16), (2, 0, 1, 2), True),
    ],
)
def test_it_computes_what_a_direct_convolution_does(
    m: int, sizes: tuple[int, int, int, int, int], pads: tuple[int, int, int, int], bias: bool
) -> None:
    data = convolution_model(sizes, pads, bias=bias)
    (convolution,) = {one.convolution for one in import_model(data, {}, TARGET).variants}
    imported = import_model(data, {}, TARGET, {convolution: m})
    x = np.random.default_rng(0).standard_normal([sizes[0], *sizes[1:4]]).astype(np.float32)
    (expected,) = onnxruntime.InferenceSession(data).run(None, {"x": x})
    output = _outputs(imported, x)
    # The tolerance that docs/decisions/0021-winograd.md states, of the output's range.
    allowed = {2: 2e-6, 4: 2e-5}[m] * np.abs(expected).max()
    np.testing.assert_allclose(output, expected, rtol=0, atol=allowed)


def test_a_variant_says_what_it_changes() -> None:
    data = convolution_model((1, 64, 56, 56, 64))
    imported = import_model(data, {}, TARGET)
    (direct,) = (task for task in imported.tasks if "conv2d" in task.name)
    (variant,) = imported.variants
    assert variant.tile == 4
    assert variant.change[direct.workload_key] == -1
    added = [key for key, count in variant.change.items() if count > 0]
    assert sorted(added) == sorted(task.workload_key for task in imported.variant_tasks)
    assert all(task.weight == 0 for task in imported.variant_tasks)
    made = import_model(data, {}, TARGET, {variant.convolution: variant.tile})
    assert {task.workload_key: 1 for task in made.tasks if task.workload_key in added} == {
        key: variant.change[key] for key in added
    }
    assert direct.workload_key not in {task.workload_key for task in made.tasks}
    assert not made.variants
    assert sum(task.flops for task in made.tasks) < 0.5 * direct.flops


def test_what_follows_a_convolution_is_fused_into_the_last_of_its_kernels() -> None:
    imported = import_model(convolution_model((1, 16, 14, 14, 16)), {}, TARGET)
    names = [task.name for task in imported.variant_tasks]
    assert any("winograd_output" in name and "relu" in name for name in names), names
    assert {task.name for task in imported.tasks if "relu" in task.name} == {
        task.name for task in imported.tasks if "conv2d" in task.name
    }


@pytest.mark.parametrize(
    "data",
    [
        convolution_model((1, 16, 16, 16, 16), strides=2),
        convolution_model((1, 16, 16, 16, 16), groups=16),
        convolution_model((1, 16, 16, 16, 16), kernel=5, pads=(2, 2, 2, 2)),
        convolution_model((1, 3, 16, 16, 16)),  # too few channels
        convolution_model((1, 512, 3, 3, 512)),  # its weights would take longer to read
    ],
)
def test_it_is_not_offered_where_it_can_not_be_had_or_pay(data: bytes) -> None:
    assert not import_model(data, {}, TARGET).variants


def test_small_maps_have_small_tiles_and_large_maps_large_ones() -> None:
    def tiles(size: int, channels: int) -> list[int]:
        maps = (size, size, channels)
        return Convolution(1, maps, maps, 1, 1).worthwhile()

    assert tiles(56, 64) == [4]
    assert tiles(14, 256) == [2, 4]
    assert tiles(7, 512) == [2]


@pytest.mark.parametrize("m", TILES)
def test_weights_of_a_single_one_are_transformed_as_the_paper_has_it(m: int) -> None:
    weights = np.zeros((3, 3, 1, 1), np.float32)
    weights[0, 0] = 1
    made = transformed_weights(weights, m).reshape(m + 2, m + 2)
    first = {2: [1, 0.5, 0.5, 0], 4: [1 / 4, -1 / 6, -1 / 6, 1 / 24, 1 / 24, 0]}[m]
    np.testing.assert_allclose(made, np.outer(first, first), rtol=1e-6)


@pytest.mark.parametrize(("outputs", "run"), [(64, 16), (24, 8), (20, 4), (7, 7), (1, 1)])
def test_packed_weights_have_neighbouring_outputs_beside_each_other(outputs: int, run: int) -> None:
    weights = np.arange(2 * 3 * outputs).reshape(2, 3, outputs)
    packed = pack(weights)
    assert packed.shape == (2, outputs // run, 3, run)
    assert packed.flags["C_CONTIGUOUS"]
    for point, channel, output in np.ndindex(weights.shape):
        place = point, output // run, channel, output % run
        assert packed[place] == weights[point, channel, output]
