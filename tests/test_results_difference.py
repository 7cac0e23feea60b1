"""Which operator differs first: by its intermediate tensors, and by halving."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from coordinator.frontend.importer import import_model
from coordinator.frontend.target import resolve_target
from coordinator.results.compile import compile_parts
from coordinator.results.difference import (
    MAX_EXAMPLE_BYTES,
    Difference,
    expose_intermediates,
    first_wrong,
)
from coordinator.results.packaged import Packaged
from coordinator.results.verify import make_examples
from coordinator.tuning_log import Evidence
from protos.records import (
    UNTUNED_TRACE,
    Candidate,
    JobSpec,
    MeasurementStatus,
)
from tests import models
from tests.local_device import manifest, measure, run_here

TARGET = resolve_target("auto", threads=1)


@pytest.mark.parametrize("culprit", ["a", "b", "c", "d", "e", "f", "g"])
def test_halving_finds_the_culprit(culprit: str) -> None:
    asked: list[int] = []

    async def is_wrong(names: Sequence[str]) -> bool:
        asked.append(len(names))
        return culprit in names

    assert asyncio.run(first_wrong(tuple("abcdefg"), is_wrong)) == culprit
    assert len(asked) <= 4


def test_nobody_is_blamed_for_what_can_not_be_repeated() -> None:
    async def is_right(_names: Sequence[str]) -> bool:
        return False

    assert asyncio.run(first_wrong(tuple("abc"), is_right)) is None


def test_every_operators_result_is_an_output() -> None:
    exposed = expose_intermediates(models.small_model(), {})
    assert dict(exposed.operators) == {
        "biased": "Gemm (node 'multiply/MatMulAddFusion')",  # the pre-pass made one of two
        "y": "Relu (node 'clamp')",
    }
    assert exposed.example_bytes == 2 * 4 * 16 * 4
    assert exposed.examples(5) == 5


def test_fewer_examples_of_a_large_model() -> None:
    exposed = expose_intermediates(models.mobilenet_v2(), {})
    most = MAX_EXAMPLE_BYTES // exposed.example_bytes
    assert exposed.examples(most + 1) == most > 1


@pytest.mark.parametrize("culprit", [None, "biased"])
def test_the_device_names_the_first_wrong_tensor(culprit: str | None) -> None:
    exposed = expose_intermediates(models.small_model(), {})
    imported = import_model(exposed.model, {}, TARGET)
    examples = models.examples_of(make_examples(exposed.model, {}, 2, 0))
    arrays = {}
    for index, (inputs, outputs) in enumerate(examples):
        for name, value in outputs.items():
            wrong = culprit is not None and index == 1 and name in (culprit, "y")
            arrays[f"out{index}/{name}"] = value + 1 if wrong else value
        arrays.update({f"in{index}/{name}": value for name, value in inputs.items()})
    data = io.BytesIO()
    np.savez(data, **arrays)
    way = Packaged(compile_parts(imported.parts, TARGET, {}), manifest(imported, TARGET))
    (result,) = asyncio.run(measure({"exposed": way}, data.getvalue())).variants
    if culprit is None:
        assert (result.status, result.wrong_output) == (MeasurementStatus.OK, "")
    else:
        assert result.status is MeasurementStatus.WRONG_OUTPUT
        assert exposed.operators[result.wrong_output].startswith("Gemm (node 'multiply/")
        assert "output 'biased' of example 1 differs" in result.error


def difference(data: bytes) -> Difference:
    imported = import_model(data, {}, TARGET)
    spec = JobSpec("wrong", "ab" * 32, TARGET, trials=1)
    examples = make_examples(data, {}, 2, 0)
    return Difference(
        *(spec, data, imported, manifest(imported, TARGET), run_here, measure, examples)
    )


def test_what_the_frontend_means_something_else_by_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = asyncio.run(difference(models.small_model()).of_import(2))
    assert found == "Each operator alone is right (no difference)"

    def other_examples(*arguments: Any) -> bytes:
        """As if ONNX Runtime computed something else than TVM from the second tensor on."""
        data = io.BytesIO()
        with np.load(io.BytesIO(make_examples(*arguments))) as archive:
            np.savez(data, **{k: v + 1 if k.startswith("out") else v for k, v in archive.items()})
        return data.getvalue()

    monkeypatch.setattr("coordinator.results.difference.make_examples", other_examples)
    found = asyncio.run(difference(models.small_model()).of_import(2))
    assert found.startswith("The first operator that differs is Gemm (node 'multiply/")
    assert "output 'biased' of example 0 differs" in found


def test_no_record_is_blamed_if_the_model_is_right() -> None:
    one = difference(models.small_model())
    (task,) = one.imported.tasks
    choice = {task.workload_key: Evidence(Candidate(task.workload_key, UNTUNED_TRACE), 1.0)}
    assert asyncio.run(one.of_records(choice)).startswith("Made once more it is right")
