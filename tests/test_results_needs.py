"""What more threads bring and what a model needs of memory."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.frontend.importer import import_model
from coordinator.results.memory import weights_bytes, workspace_bytes
from coordinator.results.threads import fewer, thread_results, with_fewer
from protos.errors import JobFailed
from protos.records import (
    OWN,
    Circumstances,
    EvaluatorConfig,
    MeasurementStatus,
    ModelMeasurement,
    Telemetry,
    ThreadResult,
    VariantResult,
)
from tests.kernels import target_json
from tests.models import cls_model

OK = MeasurementStatus.OK
NOTHING = Telemetry()
CIRCUMSTANCES = Circumstances("d", {}, EvaluatorConfig(), 1, (0,), False, NOTHING, NOTHING)


@pytest.mark.parametrize(
    ("threads", "counts"), [(1, []), (2, [1]), (3, [1, 2]), (4, [1, 2]), (6, [1, 2, 4])]
)
def test_fewer_threads_are_powers_of_two(threads: int, counts: list[int]) -> None:
    assert fewer(threads) == counts


def variants(first_s: float) -> tuple[VariantResult, ...]:
    samples = tuple(first_s + index / 1000 for index in range(6))
    return (
        VariantResult("tuned-1", OK, samples, resident_bytes=5),
        VariantResult("openvino", OK, samples[:3]),
        VariantResult("onnxruntime", MeasurementStatus.CRASHED, error="oops"),
        VariantResult("tuned-0", OK, samples),
    )


NAMES = {"tuned-1": OWN, "openvino": "openvino", "onnxruntime": "onnxruntime"}


def test_only_what_ran_and_is_asked_for_is_told() -> None:
    ours, other = thread_results(variants(0.001), 4, NAMES)
    assert (ours.name, ours.num_threads, ours.resident_bytes) == (OWN, 4, 5)
    assert (ours.latency_ms, ours.low_ms, ours.high_ms) == pytest.approx((3.5, 1.0, 6.0))
    assert other == ThreadResult("openvino", 4, pytest.approx(2.0))  # three have no interval


def test_a_number_of_threads_that_can_not_be_measured_is_left_out() -> None:
    asked = []

    async def measure(count: int) -> ModelMeasurement:
        asked.append(count)
        if count == 2:
            raise JobFailed("no such luck")
        return ModelMeasurement("lease", variants(1.0 / count), CIRCUMSTANCES)

    found = asyncio.run(with_fewer(6, NAMES, measure))
    assert asked == [1, 2, 4]
    assert [(one.name, one.num_threads) for one in found] == [
        (OWN, 1),
        ("openvino", 1),
        (OWN, 4),
        ("openvino", 4),
    ]


def test_a_real_models_weights_and_intermediate_results() -> None:
    model, target = cls_model(), target_json(1)
    weights = weights_bytes(model.data, model.shapes)
    assert 0.8 * len(model.data) < weights < len(model.data), "nearly all of the file"
    imported = import_model(model.data, model.shapes, target)
    largest = max(task.args[-1].size_bytes for task in imported.tasks)
    assert largest <= workspace_bytes(imported.parts, target) < 20 * largest
