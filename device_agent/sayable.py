"""Results as the coordinator takes them.

Times and errors come from processes that run foreign code. A result that is out of bounds would end
the session, and be sent again at every reconnection; so it is made into one that says so (pure).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from protos import bounds, convert
from protos.errors import ProtocolViolation
from protos.records import Measurement, MeasurementStatus, ModelMeasurement, VariantResult

One = TypeVar("One", Measurement, VariantResult)


def sayable(result: Measurement | ModelMeasurement) -> Measurement | ModelMeasurement:
    """The result; what is out of bounds of it is GARBAGE. Raises ProtocolViolation where that is
    not what the candidate or variant answered."""
    if isinstance(result, ModelMeasurement):
        variants = tuple(_sayable(variant) for variant in result.variants)
        result = replace(result, variants=variants)
        bounds.check(convert.to_message(result))
        return result
    return _sayable(result)


def _sayable(one: One) -> One:
    try:
        bounds.check(convert.to_message(one))
    except (ProtocolViolation, ValueError) as error:  # ValueError: what no message can say
        garbage = _garbage(one, f"its answer can't be: {error}")
        bounds.check(convert.to_message(garbage))
        return garbage
    return one


def _garbage(one: One, error: str) -> One:
    status = MeasurementStatus.GARBAGE
    if isinstance(one, Measurement):
        return replace(one, status=status, error=error, repeats_s=(), max_abs_error=0.0)
    return VariantResult(one.name, status, error=error)
