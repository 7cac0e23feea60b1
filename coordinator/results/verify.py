"""Examples of a model's use: seeded inputs of realistic range, outputs of ONNX Runtime.

Every variant of the model is compared with them before its time counts (DESIGN, 7).
"""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from protos.errors import BadModel
from protos.records import Shape, TensorSpec

from ..frontend.onnx_model import graph_inputs, load_model
from .input_ranges import Range, integer_ranges
from .quantised import Tolerance, is_quantised, tolerances

log = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray[Any, Any]]

_FATAL_ONLY = 4
_SMALLEST_DRAWING = 16
_RESHAPING = frozenset(
    ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
)
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def _normal(generator: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return generator.standard_normal(shape)


def _uniform(generator: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return generator.random(shape)


def _drawing(generator: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Dark strokes in lines on a light ground, about -1.5 to 1.5.

    Noise leaves a detector silent: its outputs are all next to zero, and so is every difference.
    """
    if len(shape) < 3 or min(shape[-2:]) < _SMALLEST_DRAWING:
        return _normal(generator, shape)
    picture = np.full(shape, generator.uniform(0.8, 1.5))
    height, width = shape[-2:]
    for _ in range(6):
        top = int(generator.integers(0, height // 2))
        line = slice(top, top + int(generator.integers(8, 33)))
        left = int(generator.integers(0, width // 2))
        while left < width:
            stroke = int(generator.integers(1, 4))
            picture[..., line, left : left + stroke] = generator.uniform(-1.5, -0.5)
            left += stroke + int(generator.integers(2, 6))
    return picture


_Distribution = Callable[[np.random.Generator, tuple[int, ...]], Any]

_MIXES: tuple[tuple[_Distribution, ...], ...] = (
    # Pictures, normalised numbers, scaled numbers: examples take turns.
    (_drawing, _normal, _uniform),
    # A model with square roots or logarithms of its input may only stand positive numbers.
    (_uniform,),
)


def make_examples(data: bytes, shapes: Mapping[str, Shape], count: int = 3, seed: int = 0) -> bytes:
    """An ``.npz`` with ``in{i}/{name}`` and ``out{i}/{name}`` for each example i, and
    ``softmax/{name}`` for each output that a softmax gives. Of a quantised model it has
    ``tolerance/{name}`` instead: what an element, and the root mean square, may differ by.

    The same bytes for the same arguments. Raises BadModel if outputs are not finite for any
    realistic input, or if no output depends on the inputs: with those nothing could be verified.
    """
    model = load_model(data, shapes)
    run = _reference(model)
    ranges = integer_ranges(model)
    specs = {value.name: _spec(value) for value in graph_inputs(model.graph)}
    reasons = []
    for mix in _MIXES:
        generator = np.random.default_rng(seed)
        inputs = [
            {
                name: _draw(generator, spec, mix[i % len(mix)], ranges.get(name))
                for name, spec in specs.items()
            }
            for i in range(count)
        ]
        outputs = [run(example) for example in inputs]
        reason = _reason_against(outputs)
        if reason is None:
            return _packed(model, inputs, outputs)
        log.warning("examples rejected: %s", reason)
        reasons.append(reason)
    raise BadModel(f"no examples to verify the model with: {reasons[-1]}")


def softmax_outputs(model: Any) -> tuple[str, ...]:
    """The outputs that are a softmax's, whatever shape it was given afterwards."""
    producers = {name: node for node in model.graph.node for name in node.output}

    def of_softmax(name: str) -> bool:
        node = producers.get(name)
        if node is None or node.op_type not in _RESHAPING:
            return node is not None and node.op_type == "Softmax"
        return of_softmax(node.input[0])

    return tuple(value.name for value in model.graph.output if of_softmax(value.name))


def _spec(value: Any) -> TensorSpec:
    import onnx

    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return TensorSpec(tuple(dim.dim_value for dim in tensor.shape.dim), dtype.name)


def _reference(model: Any) -> Callable[[Arrays], Arrays]:
    """The model in ONNX Runtime.

    A quantised one is run operator by operator, as the ONNX standard says. Optimised, ONNX Runtime
    makes integer kernels of it, which round otherwise and saturate at 16 bits on older CPUs.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    if is_quantised(model):
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its exceptions have no common base of their own
        raise BadModel(f"ONNX Runtime can't load the model: {error}") from error
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Arrays) -> Arrays:
        try:
            outputs = session.run(names, inputs)
        except Exception as error:
            raise BadModel(f"ONNX Runtime can't run the model: {error}") from error
        return {name: np.asarray(out) for name, out in zip(names, outputs, strict=True)}

    return run


def _draw(
    generator: np.random.Generator,
    spec: TensorSpec,
    distribution: _Distribution,
    valid: Range | None,
) -> np.ndarray[Any, Any]:
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return np.asarray(distribution(generator, spec.shape), dtype=dtype)
    if dtype.kind == "b":
        return np.asarray(generator.random(spec.shape) < 0.5)
    # Without a hint 0 and 1 are what masks, flags and token types hold.
    low, high = valid or (0, 2)
    return np.asarray(generator.integers(low, high, spec.shape, dtype=np.int64), dtype=dtype)


def _reason_against(outputs: list[Arrays]) -> str | None:
    for index, example in enumerate(outputs):
        for name, value in example.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                return f"output {name!r} of example {index} is not finite"
    if len(outputs) < 2:
        return None
    constant = [
        name
        for name, first in outputs[0].items()
        if all(np.array_equal(first, other[name]) for other in outputs[1:])
    ]
    if len(constant) == len(outputs[0]):
        return f"no output depends on the inputs ({', '.join(constant)})"
    if constant:
        log.warning("outputs that are the same for every example: %s", ", ".join(constant))
    return None


def _packed(model: Any, inputs: list[Arrays], outputs: list[Arrays]) -> bytes:
    """The examples with what is needed to compare others with them."""
    if is_quantised(model):
        return _pack(inputs, outputs, (), tolerances(model, _reference, inputs, outputs))
    return _pack(inputs, outputs, softmax_outputs(model), {})


def _pack(
    inputs: Iterable[Arrays],
    outputs: Iterable[Arrays],
    probabilities: Iterable[str],
    allowed: Mapping[str, Tolerance],
) -> bytes:
    """Like ``numpy.savez``, but without the time of day in it."""
    arrays = {
        f"{kind}{index}/{name}": value
        for kind, examples in (("in", inputs), ("out", outputs))
        for index, example in enumerate(examples)
        for name, value in example.items()
    }
    arrays.update({f"softmax/{name}": np.zeros(0, np.bool_) for name in probabilities})
    arrays.update({f"tolerance/{n}": np.array([t.max_abs, t.rms]) for n, t in allowed.items()})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for key, value in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, value, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{key}.npy", _ZIP_TIME), content.getvalue())
    return buffer.getvalue()
