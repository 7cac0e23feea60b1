"""A model's examples and when its outputs are right.

Examples are an .npz with ``in<i>/<name>`` and ``out<i>/<name>``; ``softmax/<name>``, whatever it
holds, says that an output is what a softmax gave. ``tolerance/<name>`` holds two numbers, by how
much an element and the root mean square of an output may differ: of a quantised model, where one
value on the other side of a half changes all that follows.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from protos import errors
from protos.records import OutputError

Array = np.ndarray[Any, Any]

MAX_RELATIVE_ERROR = {"float64": 1e-4, "float32": 1e-4, "float16": 2e-2}
"""Relative to the largest magnitude of the expected output. A model's float64 outputs come of
float32 insides, so they are held to the same. Integers and booleans must be equal."""

LEAST_PROBABILITY = 1e-30
"""What a softmax gives below this is as good as nothing."""

SMALLEST_RANGE = 1e-6

_SOFTMAX = "softmax/"
_TOLERANCE = "tolerance/"
_NAME = re.compile(r"(in|out)(\d+)/(.+)", re.DOTALL)


@dataclass(frozen=True)
class Example:
    """Inputs and the outputs expected of them, by name, which of these a softmax gave, and which
    may differ by how much: any element, and the root mean square, in the output's unit."""

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    probabilities: frozenset[str] = frozenset()
    tolerances: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelErrors:
    """Largest errors over all outputs and examples; ``wrong`` says what is bad about the first bad
    output, ``output`` is its name; ``outputs`` are the errors of each."""

    max_abs_error: float = 0.0
    max_rel_error: float = 0.0
    wrong: str = ""
    output: str = ""
    outputs: tuple[OutputError, ...] = ()


def read_examples(data: bytes) -> list[Example]:
    """The examples in order; raises BadRequest if the file is none of that."""
    inputs: dict[int, dict[str, Array]] = {}
    outputs: dict[int, dict[str, Array]] = {}
    probabilities = set()
    tolerances: dict[str, tuple[float, float]] = {}
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            for key in file.files:
                if key.startswith(_SOFTMAX):
                    probabilities.add(key.removeprefix(_SOFTMAX))
                    continue
                if key.startswith(_TOLERANCE):
                    largest, rms = file[key]
                    tolerances[key.removeprefix(_TOLERANCE)] = float(largest), float(rms)
                    continue
                match = _NAME.fullmatch(key)
                if match is None:
                    raise errors.BadRequest(f"an example is called {key!r}, not in0/… or out0/…")
                side = inputs if match[1] == "in" else outputs
                side.setdefault(int(match[2]), {})[match[3]] = file[key]
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        raise errors.BadRequest(f"the examples are no .npz file: {error}") from error
    if not inputs or set(inputs) != set(outputs):
        raise errors.BadRequest("the examples need inputs and expected outputs, in pairs")
    given = frozenset(probabilities)
    return [Example(inputs[index], outputs[index], given, tolerances) for index in sorted(inputs)]


def compare_model(
    expected: Sequence[Example], actual: Sequence[Mapping[str, Array]]
) -> ModelErrors:
    """What a variant answered on every example against what was expected of it.

    An error is relative to the output's range over all examples: a detector that sees nothing in
    one of them answers zeros with rounding errors there, which are no reason to call it wrong. What
    a softmax gave is also compared by its logarithm, which is its input but for a constant: next
    to a probability of nearly one, all others may be wrong and nobody sees it.
    """
    wrong = output = ""
    errors_of: dict[str, OutputError] = {}
    ranges: dict[str, float] = {}
    log_ranges: dict[str, float] = {}
    for example in expected:
        for name, reference in example.outputs.items():
            ranges[name] = max(ranges.get(name, SMALLEST_RANGE), _range(reference))
            if name in example.probabilities:
                log_range = max(log_ranges.get(name, SMALLEST_RANGE), _range(_log(reference)))
                log_ranges[name] = log_range
    for index, (example, got) in enumerate(zip(expected, actual, strict=True)):
        for name, reference in example.outputs.items():
            answer = got.get(name)
            allowed = example.tolerances.get(name)
            found = [_compare_output(reference, answer, ranges[name], allowed)]
            if name in log_ranges and not found[0].wrong and answer is not None:
                logs = _log(reference), _log(answer)
                before = _compare_output(*logs, log_ranges[name])
                found.append(replace(before, max_abs_error=0.0, wrong=_before_softmax(before)))
            known = errors_of.get(name, OutputError(name))
            errors_of[name] = OutputError(
                name,
                max(known.max_abs_error, *(one.max_abs_error for one in found)),
                max(known.max_rel_error, *(one.max_rel_error for one in found)),
            )
            reason = next((one.wrong for one in found if one.wrong), "")
            if reason and not wrong:
                wrong, output = f"output {name!r} of example {index} {reason}", name
    outputs = tuple(errors_of.values())
    max_abs = max((one.max_abs_error for one in outputs), default=0.0)
    max_rel = max((one.max_rel_error for one in outputs), default=0.0)
    return ModelErrors(max_abs, max_rel, wrong, output, outputs)


def _log(probabilities: Array) -> Array:
    return np.log(np.maximum(probabilities, LEAST_PROBABILITY))


def _before_softmax(found: ModelErrors) -> str:
    return f"{found.wrong}, before its softmax" if found.wrong else ""


def _range(reference: Array) -> float:
    """The largest finite magnitude; 0 if there is none."""
    values = np.abs(reference.astype(np.float64))
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size else 0.0


def _compare_output(
    reference: Array,
    output: Array | None,
    magnitude: float,
    allowed: tuple[float, float] | None = None,
) -> ModelErrors:
    infinite = float("inf")
    if output is None:
        return ModelErrors(infinite, infinite, "is missing")
    if output.shape != reference.shape:
        shapes = f"{list(output.shape)}, not {list(reference.shape)}"
        return ModelErrors(infinite, infinite, f"has the shape {shapes}")
    if reference.size == 0:
        return ModelErrors()
    wanted, got = reference.astype(np.float64), output.astype(np.float64)
    same = (wanted == got) | (np.isnan(wanted) & np.isnan(got))
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(wanted - got)
    difference[same] = 0.0
    largest = infinite if np.isnan(difference).any() else float(difference.max())
    relative = largest / magnitude
    tolerance = MAX_RELATIVE_ERROR.get(reference.dtype.name, 0.0)
    if allowed is not None:
        tolerance = max(tolerance, allowed[0] / magnitude)
    if relative > tolerance:
        wrong = f"differs by {relative:.3g} of its range (at most {tolerance:.3g} is right)"
        return ModelErrors(largest, relative, wrong)
    if allowed is not None:
        return ModelErrors(largest, relative, _too_many(difference, magnitude, allowed[1]))
    return ModelErrors(largest, relative)


def _too_many(difference: Array, magnitude: float, allowed: float) -> str:
    """What is wrong about an output no element of which is off by too much; maybe too many are."""
    rms = float(np.sqrt(np.mean(difference**2)))
    if rms <= max(allowed, MAX_RELATIVE_ERROR["float32"] * magnitude):
        return ""
    return (
        f"differs by {rms / magnitude:.3g} of its range in the root mean square (at most "
        f"{allowed / magnitude:.3g} is right)"
    )
