"""Regions of a model in several engines: where it is cut, who gets what, and that it is right."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from coordinator.frontend.importer import import_model
from coordinator.frontend.onnx_model import fold, load_model
from coordinator.frontend.regions import region_starts, slices
from coordinator.frontend.target import resolve_target
from coordinator.package.manifest import EngineUsed
from coordinator.results.mixture import MixtureSearch, costs, is_worth_a_look
from coordinator.results.packaged import Packaged
from coordinator.results.placement import Cost, place
from coordinator.results.verify import make_examples
from protos import engines
from protos.records import (
    OWN,
    UNTUNED_TRACE,
    EvaluatorConfig,
    JobSpec,
    MeasurementStatus,
    ModelMeasurement,
)
from tests import local_device, models

TARGET = resolve_target("auto", threads=1)

# ------------------------------------------------------------------------- where to cut


@pytest.mark.parametrize("most", [2, 5, 8])
def test_regions_one_after_the_other_are_the_model(most: int) -> None:
    model = fold(load_model(models.mobilenet_v2(32), {}))
    starts = region_starts(model, most)
    assert most - 1 <= len(starts) <= most
    assert starts[0] == 0
    values = {"x": np.random.default_rng(0).random((1, 3, 32, 32), np.float32)}
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, values)
    for part in slices(model, starts):
        session = onnxruntime.InferenceSession(part.SerializeToString())
        names = [output.name for output in session.get_outputs()]
        wanted = {value.name: values[value.name] for value in session.get_inputs()}
        assert len(wanted) == 1, "a single tensor goes from one to the next"
        values |= zip(names, session.run(names, wanted), strict=True)
    np.testing.assert_allclose(values["logits"], expected, rtol=1e-4, atol=1e-5)


def test_the_kernels_of_regions_are_those_of_the_whole() -> None:
    from coordinator.frontend.importer import find_regions, import_regions

    data = models.several_steps(4)
    starts = find_regions(data, {}, 2)
    regions = import_regions(data, {}, TARGET, starts, [True, True], {})
    known = {task.workload_key for task in import_model(data, {}, TARGET).tasks}
    assert len(regions) == 2
    for region in regions:
        assert region.ours is not None
        assert region.ours.workloads <= known
    assert regions[0].first.startswith("Gemm")
    assert regions[1].last.startswith("Relu")


def test_a_region_leaves_no_kernel_untuned() -> None:
    from coordinator.frontend.importer import import_regions
    from coordinator.results.compile import compile_parts, compile_region

    (region,) = import_regions(models.several_steps(1), {}, TARGET, [0], [True], {})
    assert region.ours is not None
    untuned = compile_parts([region.ours], TARGET, {})
    drawn = compile_region(region.ours, TARGET, {})
    assert drawn[0].data != untuned[0].data
    assert compile_region(region.ours, TARGET, {}) == drawn, "the same every time"
    known = dict.fromkeys(region.ours.workloads, UNTUNED_TRACE)
    assert compile_region(region.ours, TARGET, known) == untuned, "records come first"


def test_a_kernel_that_no_program_can_be_drawn_for_stays_untuned(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from coordinator.frontend.importer import import_regions
    from coordinator.results.compile import compile_parts, compile_region
    from coordinator.search.evolution import Evolution

    def broken(*_arguments: object) -> None:
        raise ValueError("no design space")

    monkeypatch.setattr(Evolution, "sample", broken)
    (region,) = import_regions(models.several_steps(1), {}, TARGET, [0], [True], {})
    assert region.ours is not None
    untuned = compile_parts([region.ours], TARGET, {})
    assert compile_region(region.ours, TARGET, {}) == untuned
    assert "stays untuned in its region: no design space" in caplog.text


# ------------------------------------------------------------------------- who gets what


def flat(*alone: dict[str, float]) -> list[dict[str, Cost]]:
    """Regions that cost the same alone and inside."""
    return [{name: Cost(ms, ms) for name, ms in region.items()} for region in alone]


@pytest.mark.parametrize(
    ("regions", "chosen", "expected_ms"),
    [
        # Each where it is fastest.
        (flat({"a": 1.0, "b": 9.0}, {"a": 9.0, "b": 1.0}), ("a", "b"), 2.0),
        # Not if going there and back costs more.
        (
            [
                {"a": Cost(2.0, 1.0)},
                {"a": Cost(2.0, 1.0), "b": Cost(0.8, 0.5)},
                {"a": Cost(2.0, 1.0)},
            ],
            ("a", "a", "a"),
            4.0,  # 1 + 1 + 1, and half a millisecond to get in and out
        ),
        # What one engine can't run.
        (flat({"a": 1.0}, {"b": 1.0}, {"a": 1.0, "b": 0.5}), ("a", "b", "b"), 2.5),
    ],
)
def test_the_placement_is_the_fastest(
    regions: list[dict[str, Cost]], chosen: tuple[str, ...], expected_ms: float
) -> None:
    found = place(regions)
    assert found is not None
    assert (found.engines, found.expected_ms) == (chosen, pytest.approx(expected_ms))


def test_a_region_that_nobody_runs() -> None:
    assert place([*flat({"a": 1.0}), {}]) is None
    assert place([]) is None


def test_what_regions_cost_inside_of_more() -> None:
    alone = [{OWN: 3.0, "ort": 2.0}, {OWN: 5.0, "ort": 4.0}, {"ort": 2.0}]
    found = costs(alone, {OWN: 6.0, "ort": 4.0}, [1.0, 2.0, 0.0])
    # Half of what ONNX Runtime's regions take alone is the way; ours by their kernels.
    assert [region["ort"] for region in found] == [Cost(2.0, 1.0), Cost(4.0, 2.0), Cost(2.0, 1.0)]
    assert [region[OWN] for region in found[:2]] == [Cost(3.0, 2.0), Cost(5.0, 4.0)]
    assert OWN not in found[2]
    assert found[0][OWN].side_ms == 0.5


def test_what_a_region_costs_whose_kernels_are_not_those_of_the_whole() -> None:
    alone = [{OWN: 3.0}, {OWN: 5.0}, {OWN: 4.0}]
    found = costs(alone, {OWN: 6.0}, [1.0, 2.0, None])
    # A third of all, for a third of what they take alone; the others' kernels make up the rest.
    inner_ms = [region[OWN].inner_ms for region in found]
    assert inner_ms == pytest.approx([4 / 3, 8 / 3, 2.0])


def test_an_engine_that_can_not_run_the_whole_model_is_no_faster_inside() -> None:
    found = costs([{OWN: 3.0, "a": 1.0}, {OWN: 3.0}], {OWN: 4.0}, [1.0, 1.0])
    assert found[0]["a"] == Cost(1.0, 1.0)


@pytest.mark.parametrize(
    ("own_ms", "engines_ms", "worth"),
    [(4.0, [5.0, 9.0], True), (4.0, [9.0], False), (4.0, [1.9], False), (4.0, [], False)],
)
def test_what_is_twice_as_fast_is_so_everywhere(
    own_ms: float, engines_ms: list[float], worth: bool
) -> None:
    assert is_worth_a_look(own_ms, engines_ms) is worth


# ------------------------------------------------------------------------- all of it


class Device:
    """This machine, but the times of the regions that it reports are made up."""

    def __init__(self, part_ms: Mapping[str, tuple[float, ...]]) -> None:
        self._part_ms = part_ms
        self.checked: list[dict[str, MeasurementStatus]] = []

    async def measure(
        self,
        ways: Mapping[str, Packaged],
        examples: bytes,
        evaluator: EvaluatorConfig | None = None,
        *,
        time_parts: bool = False,
    ) -> ModelMeasurement:
        found = await local_device.measure(ways, examples, time_parts=time_parts)
        self.checked.append({one.name: one.status for one in found.variants})
        if not time_parts:
            assert not any(one.part_s for one in found.variants)
            return found
        for one in found.variants:
            assert len(one.part_s) == len(ways[one.name].parts)
            assert all(second > 0 for second in one.part_s)
        faked = tuple(
            replace(one, part_s=tuple(ms / 1e3 for ms in self._part_ms[one.name]))
            for one in found.variants
        )
        return replace(found, variants=faked)


def search(data: bytes, device: Device, names: Sequence[str] = ("onnxruntime",)) -> MixtureSearch:
    imported = import_model(data, {}, TARGET)
    installed = engines.installed()
    return MixtureSearch(
        spec=JobSpec("mixed", "ab" * 32, TARGET, trials=1),
        model=data,
        examples=make_examples(data, {}, 2, 0),
        traces={},
        algorithms={},
        kernel_us={},
        manifest=local_device.manifest(imported, TARGET),
        engines={name: EngineUsed(name, installed[name], "MIT") for name in names},
        cold_cache=False,
        run=local_device.run_here,
        measure=device.measure,
    )


def test_a_mixture_is_made_of_what_is_fastest_and_computes_the_same() -> None:
    data = models.several_steps(4)
    device = Device({OWN: (1.0, 1.0, 1.0, 2.0), "onnxruntime": (2.0, 2.0, 2.0, 1.0)})
    found = asyncio.run(search(data, device).find({OWN: 5.0, "onnxruntime": 7.0}))
    assert found is not None
    assert found.way is not None
    assert [set(one.values()) for one in device.checked] == [{MeasurementStatus.OK}]
    assert [part.engine for part in found.way.parts] == [OWN, "onnxruntime"], "neighbours joined"
    assert [region.engine for region in found.regions] == [OWN, OWN, OWN, "onnxruntime"]
    assert dict(found.regions[0].latency_ms) == {OWN: 1.0, "onnxruntime": 2.0}
    assert dict(found.regions[0].inner_ms) == {OWN: 1.0, "onnxruntime": 2.0}
    asyncio.run(device.measure({"mixed": found.way}, make_examples(data, {}, 2, 0)))
    assert device.checked[-1] == {"mixed": MeasurementStatus.OK}


def test_no_mixture_where_one_is_the_fastest_everywhere() -> None:
    device = Device({OWN: (1.0, 1.0, 1.0, 1.0), "onnxruntime": (2.0, 2.0, 2.0, 2.0)})
    whole = {OWN: 4.0, "onnxruntime": 8.0}
    found = asyncio.run(search(models.several_steps(4), device).find(whole))
    assert found is not None
    assert found.way is None
    assert [region.engine for region in found.regions] == [OWN] * 4, "their times are told"


def test_an_engine_that_fails_is_in_no_mixture() -> None:
    device = Device({OWN: (), "onnxruntime": (2.0, 2.0, 2.0, 2.0)})
    found = asyncio.run(
        search(models.several_steps(4), device).find({OWN: 4.0, "onnxruntime": 8.0})
    )
    assert found is not None
    assert [dict(region.latency_ms) for region in found.regions] == [{"onnxruntime": 2.0}] * 4


def floored() -> bytes:
    """Three products, behind the second of which the numbers are rounded down."""
    weight = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
    nodes = []
    for step, function in enumerate(("Relu", "Floor", "Relu")):
        before, after = "x" if step == 0 else f"y{step}", "y" if step == 2 else f"y{step + 1}"
        nodes.append(helper.make_node("MatMul", [before, "w"], [f"m{step}"], f"product{step}"))
        nodes.append(helper.make_node(function, [f"m{step}"], [after], f"function{step}"))
    return models.make_model(nodes, {"x": (4, 16)}, {"y": (4, 16)}, {"w": weight})


def test_what_a_library_lacks_runs_elsewhere_and_has_no_time_in_it() -> None:
    data = floored()
    device = Device({OWN: (2.0,) * 3, "onnxruntime": (3.0,) * 3, "onednn": (1.0, 0.1, 1.0)})
    whole = {OWN: 6.0, "onnxruntime": 9.0}
    found = asyncio.run(search(data, device, ("onnxruntime", "onednn")).find(whole))
    assert found is not None
    assert [set(one.values()) for one in device.checked] == [{MeasurementStatus.OK}]
    assert set(device.checked[0]) == {OWN, "onnxruntime", "onednn"}
    assert ["onednn" in region.latency_ms for region in found.regions] == [True, False, True]
    assert [region.engine for region in found.regions] == ["onednn", OWN, "onednn"]
    assert found.way is not None
    assert [part.engine for part in found.way.parts] == ["onednn", OWN, "onednn"]
    assert [used.name for used in found.way.manifest.engines] == ["onednn"]
    asyncio.run(device.measure({"mixed": found.way}, make_examples(data, {}, 2, 0)))
    assert device.checked[-1] == {"mixed": MeasurementStatus.OK}


def test_without_onnx_runtime_an_engine_that_lacks_something_has_no_times() -> None:
    device = Device({OWN: (2.0,) * 3})
    found = asyncio.run(search(floored(), device, ("onednn",)).find({OWN: 6.0}))
    assert found is not None
    assert set(device.checked[0]) == {OWN}
    assert [set(region.latency_ms) for region in found.regions] == [{OWN}] * 3
