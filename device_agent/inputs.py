"""What a kernel is given and when its answer counts as right (pure).

Inputs. Floats are uniform in [0.1, 1.0): positive and away from zero, so that roots, logarithms and
divisions stay finite. 8-bit integers are quantised values and take their full range. Wider integers
and booleans are 0 or 1, because they may be indices into a dimension of any size above one.

Tolerances. A schedule reorders sums and fuses multiplications with additions; what it may change is
relative to the largest magnitude of the output, not of each element, since an element near zero is
the difference of numbers as large as the others.

=========  =========  ==========================================================================
dtype      tolerance  why
=========  =========  ==========================================================================
float64    1e-9       sums of up to 10^6 terms in any order stay below 1e-10
float32    1e-4       eps is 1.2e-7; reordered sums of up to 10^6 terms differ by up to some 1e-5
float16    1e-2       eps is 1e-3; TVM may accumulate in float16
int8/16…   1, or 0    int8 and uint8 may differ by 1, a reordered float rounded to the other side;
                      wider integers and booleans are exact
=========  =========  ==========================================================================

NaN equals NaN and an infinity equals itself. bfloat16 and other types that NumPy does not have are
refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from protos import errors
from protos.records import TensorSpec

Array = np.ndarray[Any, Any]

RELATIVE_TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "float16": 1e-2}
"""Largest accepted difference, relative to the largest finite magnitude of the reference."""

ABSOLUTE_TOLERANCE = {
    "int8": 1,
    "uint8": 1,
    "int16": 0,
    "uint16": 0,
    "int32": 0,
    "uint32": 0,
    "int64": 0,
    "uint64": 0,
    "bool": 0,
}

SMALLEST_RANGE = 1e-6
"""An output that is zero everywhere must be met to this times the tolerance."""

_POISON_NAN = 0xFF  # as a float of any width: not a number
_POISON_ODD = 0xAB  # as a float: a small negative number; as an integer: an unlikely one


@dataclass(frozen=True)
class Comparison:
    """Largest absolute error (infinite if one of two is no number), and the verdict."""

    max_abs_error: float
    ok: bool


def check_dtypes(args: Sequence[TensorSpec]) -> None:
    """Raise BadRequest if a parameter has a dtype that can't be made or compared."""
    for spec in args:
        if spec.dtype not in RELATIVE_TOLERANCE and spec.dtype not in ABSOLUTE_TOLERANCE:
            raise errors.BadRequest(
                f"a parameter of dtype {spec.dtype} can't be measured: NumPy has no such type. "
                f"Supported: {', '.join((*RELATIVE_TOLERANCE, *ABSOLUTE_TOLERANCE))}"
            )


def make_input(spec: TensorSpec, seed: int, index: int) -> Array:
    """The input number ``index`` of a kernel; the same everywhere for one seed."""
    random = np.random.Generator(np.random.PCG64([seed & (2**63 - 1), index]))
    if spec.dtype in RELATIVE_TOLERANCE:
        real = np.float64 if spec.dtype == "float64" else np.float32
        values = random.random(spec.shape, real)
        scaled: Array = (values * real(0.9) + real(0.1)).astype(spec.dtype)
        return scaled
    if spec.dtype in ("int8", "uint8"):
        info = np.iinfo(spec.dtype)
        eight: Array = random.integers(info.min, info.max, spec.shape, spec.dtype, endpoint=True)
        return eight
    index_like: Array = random.integers(0, 2, spec.shape, np.uint8).astype(spec.dtype)
    return index_like


def poison_byte(reference: Array) -> int:
    """A byte that, all over an output, can't be taken for this reference."""
    if reference.dtype.kind == "f" and not np.isnan(reference).any():
        return _POISON_NAN
    return _POISON_ODD


def poison(output: Array, byte: int) -> None:
    """Fill ``output`` so that a kernel that writes nothing is found out."""
    output.reshape(-1).view(np.uint8)[:] = byte


def compare(reference: Array, output: Array) -> Comparison:
    """Whether ``output`` is what ``reference`` says, by the table above."""
    name = reference.dtype.name
    if reference.shape != output.shape or name != output.dtype.name:
        return Comparison(float("inf"), False)
    if reference.size == 0:
        return Comparison(0.0, True)
    if reference.dtype.kind != "f":
        # Booleans as bytes: a kernel may write a byte that is neither.
        left, right = (
            array.view(np.uint8) if name == "bool" else array for array in (reference, output)
        )
        error = float(np.abs(left.astype(np.float64) - right.astype(np.float64)).max())
        tolerance = ABSOLUTE_TOLERANCE[name]
        return Comparison(error, error <= tolerance if tolerance else np.array_equal(left, right))
    with np.errstate(invalid="ignore", over="ignore"):
        error = float(np.abs(reference - output).max())
    if math.isfinite(error):  # so every element of both is, and nothing below is needed
        magnitude = max(float(reference.max()), -float(reference.min()))
        return Comparison(error, error <= RELATIVE_TOLERANCE[name] * max(magnitude, SMALLEST_RANGE))
    return _compare_with_infinities(reference, output)


def _compare_with_infinities(reference: Array, output: Array) -> Comparison:
    """NaN equals NaN, an infinity equals itself; several passes over both, in double precision."""
    name = reference.dtype.name
    same = (reference == output) | (np.isnan(reference) & np.isnan(output))
    finite = np.isfinite(reference)
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(reference.astype(np.float64) - output)
    difference[same] = 0.0
    error = float(difference.max()) if not np.isnan(difference).any() else float("inf")
    magnitude = float(np.abs(reference[finite].astype(np.float64)).max()) if finite.any() else 0.0
    return Comparison(error, error <= RELATIVE_TOLERANCE[name] * max(magnitude, SMALLEST_RANGE))
