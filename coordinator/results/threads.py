"""The whole model with fewer threads than the device has: what more of them bring."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping

from protos.errors import JobFailed
from protos.median import median_interval
from protos.records import EvaluatorConfig, ModelMeasurement, ThreadResult, VariantResult

log = logging.getLogger(__name__)

EVALUATOR = EvaluatorConfig(number=1, repeat=12, min_repeat_ms=20, timeout_s=120.0)
"""Twelve samples have a 95 % interval from the third to the tenth."""

Measure = Callable[[int], Awaitable[ModelMeasurement]]


def fewer(num_threads: int) -> list[int]:
    """1, 2, 4 and so on, below the device's own number: that is timed anyway."""
    return [1 << power for power in range(num_threads.bit_length()) if 1 << power < num_threads]


def thread_results(
    variants: Iterable[VariantResult], num_threads: int, names: Mapping[str, str]
) -> tuple[ThreadResult, ...]:
    """What was timed, in ``names`` from a variant's name to who runs it; failures are left out."""
    found = []
    for variant in variants:
        name, latency_ms = names.get(variant.name), variant.latency_ms
        if name is not None and latency_ms is not None:
            low_s, high_s = median_interval(variant.repeats_s) or (None, None)
            found.append(
                ThreadResult(
                    name,
                    num_threads,
                    latency_ms,
                    None if low_s is None else low_s * 1e3,
                    None if high_s is None else high_s * 1e3,
                    variant.resident_bytes,
                )
            )
    return tuple(found)


async def with_fewer(
    num_threads: int, names: Mapping[str, str], measure: Measure
) -> tuple[ThreadResult, ...]:
    """Time the model with each smaller number of threads; ``measure`` takes that number.

    What can't be measured is left out, with a warning: the package does not depend on it.
    """
    found: tuple[ThreadResult, ...] = ()
    for count in fewer(num_threads):
        try:
            measurement = await measure(count)
        except JobFailed as error:
            log.warning("not timed with %d threads: %s", count, error)
            continue
        found += thread_results(measurement.variants, count, names)
    return found
