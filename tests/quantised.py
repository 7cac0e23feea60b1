"""Quantised models for tests, made by ONNX Runtime's own quantiser. Importing this is not cheap."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

from coordinator.results.verify import make_examples
from tests.models import examples_of, make_model


def cnn() -> bytes:
    """Convolutions of three kinds, a residual, a pooling and a classifier: ``x`` to ``y``."""
    generator = np.random.default_rng(0)

    def weight(*shape: int) -> Any:
        scale = np.sqrt(2 / max(1, int(np.prod(shape[1:]))))
        return (generator.standard_normal(shape) * scale).astype(np.float32)

    weights = {
        "w0": weight(16, 3, 3, 3),
        "w1": weight(16, 1, 3, 3),
        "w2": weight(32, 16, 1, 1),
        "w3": weight(32, 32, 3, 3),
        "w4": weight(10, 32),
        **{f"b{i}": 0.3 * weight(channels) for i, channels in enumerate((16, 16, 32, 32, 10))},
    }
    node, pads = helper.make_node, [1, 1, 1, 1]
    return make_model(
        [
            node("Conv", ["x", "w0", "b0"], ["c0"], "conv", pads=pads),
            node("Relu", ["c0"], ["r0"], "relu0"),
            node("Conv", ["r0", "w1", "b1"], ["c1"], "apart", pads=pads, group=16, strides=[2, 2]),
            node("Relu", ["c1"], ["r1"], "relu1"),
            node("Conv", ["r1", "w2", "b2"], ["c2"], "across"),
            node("Conv", ["c2", "w3", "b3"], ["c3"], "deep", pads=pads),
            node("Relu", ["c3"], ["r3"], "relu3"),
            node("Add", ["r3", "c2"], ["s"], "residual"),
            node("GlobalAveragePool", ["s"], ["p"], "average"),
            node("Flatten", ["p"], ["f"], "flat"),
            node("Gemm", ["f", "w4", "b4"], ["y"], "head", transB=1),
        ],
        {"x": (1, 3, 32, 32)},
        {"y": (1, 10)},
        weights,
    )


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, data: bytes) -> None:
        examples = examples_of(make_examples(data, {}, count=9, seed=100))
        self._inputs = iter([inputs for inputs, _ in examples])

    def get_next(self) -> Any:
        return next(self._inputs, None)


def quantise(
    data: bytes,
    directory: Path,
    *,
    per_channel: bool = False,
    activations: Any = QuantType.QUInt8,
    symmetric: bool = False,
) -> bytes:
    """A model with QuantizeLinear and DequantizeLinear around its operators, weights in int8."""
    target = directory / "quantised.onnx"
    quantize_static(
        onnx.load_from_string(data),
        target,
        _Calibration(data),
        quant_format=QuantFormat.QDQ,
        per_channel=per_channel,
        activation_type=activations,
        weight_type=QuantType.QInt8,
        extra_options={"ActivationSymmetric": symmetric},
    )
    return target.read_bytes()


def run_plainly(data: bytes, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """ONNX Runtime's outputs without its optimisations, each operator as the standard says."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))
