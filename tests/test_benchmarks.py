"""The benchmarks' own arithmetic, models and parts; never a time or a ratio that was measured."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
from tvm import te

from benchmarks import layouts, peak, throughput, time_to_quality
from benchmarks.farm import FarmRun, FarmTrial, kernel_s, read_run, run_farm
from benchmarks.operators import Operator, conv2d, depthwise, matmul, operators
from benchmarks.pairs import Pair, stock_stages
from benchmarks.process import ProcessFailed, run_quietly
from benchmarks.proposing import imported_task
from benchmarks.result import last_line, table
from benchmarks.stock import StockRun, timeline, workload
from benchmarks.time_to_quality import Verdict
from benchmarks.timing import Contender, alternate, contender, same, seeded
from coordinator.tuning_log import TuningLog
from protos.records import (
    UNTUNED_TRACE,
    Candidate,
    Circumstances,
    EvaluatorConfig,
    JobSpec,
    Measurement,
    MeasurementStatus,
    Task,
    Telemetry,
)
from tests.kernels import target_json

TARGET = target_json(2)
KIND = "a kind of device"
WORKLOAD = "w" * 32

SMALL = {
    "matmul": matmul(16),
    "conv2d": conv2d(4, 8),
    "depthwise": depthwise(4, 8),
}


@pytest.mark.parametrize("operator", operators(), ids=lambda operator: operator.name)
def test_the_operators_have_the_shapes_of_the_issue(operator: Operator) -> None:
    graph = onnx.load_from_string(operator.model).graph
    shapes = [
        [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (graph.input[0], graph.output[0])
    ]
    assert (
        shapes
        == {
            "matmul": [[512, 512], [512, 512]],
            "conv2d": [[1, 64, 56, 56], [1, 64, 56, 56]],
            "depthwise": [[1, 96, 112, 112], [1, 96, 56, 56]],
        }[operator.name]
    )


@pytest.mark.parametrize("operator", SMALL.values(), ids=lambda operator: operator.name)
def test_an_operator_runs_and_is_one_task_with_its_flops(operator: Operator) -> None:
    session = onnxruntime.InferenceSession(operator.model, providers=["CPUExecutionProvider"])
    (value,) = session.get_inputs()
    (output,) = session.run(None, {value.name: np.ones(value.shape, np.float32)})
    assert np.isfinite(output).all()
    task = imported_task(operator, TARGET)
    assert task.num_outputs == 1
    assert operator.flops <= task.flops <= 2 * operator.flops  # bias, relu and padding count too


def test_stock_searches_the_farms_workload() -> None:
    import tvm

    ours = tvm.ir.load_json(imported_task(SMALL["conv2d"], TARGET).workload_json)
    theirs = workload(SMALL["conv2d"].model, TARGET)
    shapes = [
        [list(map(int, buffer.shape)) for buffer in one["main"].params] for one in (ours, theirs)
    ]
    assert shapes[0] == shapes[1]
    assert shapes[0][1] == [1, 3, 3, 4, 4], "weights channels last, packed"


def test_the_names_choose_operators() -> None:
    assert [operator.name for operator in operators(["conv2d", "matmul"])] == ["conv2d", "matmul"]


def test_stocks_profile_under_the_farms_names() -> None:
    profile = {
        "EvoSearch/Evolve/Misc": 2.0,
        "EvoSearch/Evolve/Misc/CopyMeasuredWorkloads": 1.0,
        "EvoSearch/SampleInitPopulation": 3.0,
        "SendToBuilder": 4.0,
        "SendToRunner": 5.0,
        "JoinRunnerFutures": 1.0,
        "MeasureCallback/UpdateCostModel": 7.0,
        "Total": 30.0,
    }
    assert stock_stages(profile) == {"propose": 5.0, "build": 4.0, "measure": 6.0, "train": 7.0}


def test_a_candidate_that_stock_could_not_build_has_no_measurement_of_its_own() -> None:
    results = [(True, 10.0), (False, None), (True, None), (True, 30.0)]
    assert list(timeline([1.0, 2.0, 3.0], results)) == [
        (1.0, 10.0),
        (1.0, None),
        (2.0, None),
        (3.0, 30.0),
    ]


def test_the_time_in_kernels_by_the_policy() -> None:
    policy = json.dumps({"number": 1, "repeat": 3, "min_repeat_ms": 4})
    assert kernel_s([0.001] * 3, policy) == pytest.approx(0.012)
    assert kernel_s([0.1] * 3, policy) == pytest.approx(0.3)
    assert kernel_s([0.001], policy) == pytest.approx(0.001)
    assert kernel_s([], None) == 0.0


def _measurement(name: str, lease: str, latency_us: float | None) -> Measurement:
    candidate = Candidate(WORKLOAD, name)
    seen = Telemetry()
    busy = Circumstances("d", {}, EvaluatorConfig(), 1, (0,), False, seen, seen, busy_s=0.5)
    return Measurement(
        WORKLOAD,
        candidate.key,
        MeasurementStatus.OK if latency_us else MeasurementStatus.BUILD_ERROR,
        lease_id=lease,
        artifact_sha256="" if lease.startswith("build-") else "a" * 64,
        repeats_s=(latency_us * 1e-6,) * 5 if latency_us else (),
        circumstances=None if lease.startswith("build-") else busy,
    )


def test_a_farms_run_is_read_from_its_log(tmp_path: Path) -> None:
    path, began = tmp_path / "log.db", time.time()
    tuning_log = TuningLog.open(str(path))
    job = tuning_log.add_job(JobSpec("m", "0" * 64, "{}", trials=4), "test", embedded=True)
    tuning_log.set_tasks(job.job_id, [Task("t", WORKLOAD, "the program", 1, (), 1, 1.0)])
    for name, lease, latency_us in (
        (UNTUNED_TRACE, "l1", 900.0),
        ("fast", "l2", 100.0),
        ("broken", "build-1", None),
        ("twin", "same-1", 100.0),
        ("slow", "l3", 300.0),
        ("slow", "l4", 50.0),
    ):
        measurement = _measurement(name, lease, latency_us)
        tuning_log.record(job.job_id, KIND, Candidate(WORKLOAD, name), measurement, None)
    tuning_log.close()

    run = read_run(path, began, 99.0, {"train": 1.0})
    assert (run.ok, run.failed, run.twins) == (2, 1, 1)
    assert run.workload_json == "the program"
    assert run.best is not None
    assert run.best.trace_json == "fast"
    assert [trial.trace_json for trial in run.trials] == ["fast", "broken", "twin", "slow"]
    assert all(0 <= trial.at_s <= run.search_s for trial in run.trials)
    assert run.reached_s(100.0) == run.trials[0].at_s
    assert run.reached_s(99.0) is None
    assert run.trials[0].busy_s == 0.5
    assert run.trials[0].kernel_s == pytest.approx(5 * EvaluatorConfig().min_repeat_ms * 1e-3)
    assert run.trials[2].kernel_s == 0.0
    assert run.stage_s == {"train": 1.0}


def _pair(operator: Operator, farm_s: float) -> Pair:
    stock = StockRun(
        trials=tuple((25.0 * (i + 1), 200.0 + i) for i in range(4)),
        workload_json="",
        best_trace_json="trace",
        import_s=20.0,
        search_s=100.0,
        whole_s=130.0,
        stage_s={"SendToBuilder": 40.0},
    )
    trials = tuple(
        FarmTrial(farm_s / 4 * (i + 1), 250.0 - 20 * i, "trace", busy_s=1.0, kernel_s=0.5)
        for i in range(4)
    )
    farm = FarmRun(trials, "", 10.0, 5.0, farm_s, farm_s + 20.0, {"train": 1.0, "build": 4.0})
    return Pair(operator, 0, stock, farm)


def test_throughputs_figures_and_tables() -> None:
    pairs = [_pair(SMALL["matmul"], 10.0), _pair(SMALL["conv2d"], 40.0)]
    figures = throughput.figures(pairs)
    assert figures["trials_per_s_ratio_geomean"] == pytest.approx(5.0)  # of 10 and 2.5
    assert figures["trials_per_s_ratio_min"] == pytest.approx(2.5)
    assert figures["train_share"] == pytest.approx(2 / 50)
    assert figures["kernel_timed_share"] == pytest.approx(4 / 50)
    assert throughput.trials_table(pairs).count("\n") == 4
    assert "device busy" in throughput.stages_table(pairs)


def test_what_the_farm_never_reached_is_counted_and_marked() -> None:
    reached = Verdict(_pair(SMALL["matmul"], 10.0), 210e-6, 200e-6, 1e9)
    never = Verdict(_pair(SMALL["conv2d"], 40.0), 100e-6, 200e-6, 1e9)
    assert reached.bar_us == 200.0
    assert reached.reached_s == 10.0
    figures = time_to_quality.figures([reached, never])
    assert figures["not_reached"] == 1
    assert figures["time_ratio_to_stock_best"] == pytest.approx(5.0)  # of 10 and 2.5
    assert figures["time_ratio_where_reached"] == pytest.approx(10.0)
    assert figures["latency_ratio_matmul"] == pytest.approx(1.05)
    flops = SMALL["matmul"].flops
    assert figures["peak_share_matmul"] == pytest.approx(flops / 200e-6 / 1e9)
    lines = time_to_quality.report([reached, never]).splitlines()
    assert "2.5*" in lines[2]
    assert "*" not in lines[1]


def test_the_last_line_is_one_json_object() -> None:
    line = last_line("name", {"figure": 1.5}, TARGET)
    assert "\n" not in line
    found = json.loads(line)
    assert set(found) == {"benchmark", "figures", "machine", "versions"}
    assert found["benchmark"] == "name"
    assert found["figures"] == {"figure": 1.5}
    assert found["machine"]["cpus"] == os.cpu_count()
    assert found["versions"]["tvm"]
    with pytest.raises(ValueError, match="JSON"):
        last_line("name", {"figure": float("nan")})


def test_a_table_shows_what_was_not_measured() -> None:
    assert table(("a", "b"), [("x", None), ("yy", 0.12345), ("z", 12345.6)]).splitlines() == [
        "a       b",
        "x       –",
        "yy  0.123",
        "z   12346",
    ]


def test_the_functions_are_timed_beside_the_librarys() -> None:
    output = run_quietly([sys.executable, "-m", "benchmarks.functions", "--quick"], os.environ)
    result = json.loads(output.splitlines()[-1])
    assert set(result["figures"]) == {f"{name}_ratio" for name in ("exp", "erf", "tanh", "sigmoid")}


def test_a_child_that_fails_is_heard() -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no good')"]
    with pytest.raises(ProcessFailed, match="no good"):
        run_quietly(command, os.environ)


def test_the_peak_kernel_computes_its_series_and_depends_on_every_input() -> None:
    kernel = contender("peak", peak.peak_workload(TARGET, 7), "", TARGET)
    changed = contender("one step more", peak.peak_workload(TARGET, 8), "", TARGET, timed=False)
    timed = alternate([kernel, changed], threads=2, rounds=3)
    arrays = seeded(kernel.args)
    np.testing.assert_allclose(timed["peak"].output, peak.expected(arrays, 7), rtol=1e-5)
    np.testing.assert_allclose(timed["one step more"].output, peak.expected(arrays, 8), rtol=1e-5)
    assert len(np.unique(timed["peak"].output)) > timed["peak"].output.size // 2
    assert len(timed["peak"].rounds_s) == 3
    assert timed["one step more"].rounds_s == ()
    assert not same(timed["peak"], timed["one step more"])
    steps = 10
    count = 2 * steps * kernel.args[-1].shape[0] * kernel.args[-1].shape[1]
    assert peak.flops(TARGET, steps) == count


def test_a_kernel_that_does_not_run_is_said() -> None:
    kernel = contender("peak", peak.peak_workload(TARGET, 7), "", TARGET)
    with pytest.raises(ProcessFailed):
        alternate([Contender("broken", b"no object file", kernel.args)], threads=2, rounds=1)
    with pytest.raises(RuntimeError, match="does not build"):
        contender("nonsense", peak.peak_workload(TARGET, 7), "no trace", TARGET)


def test_the_farm_on_a_small_operator() -> None:
    run = run_farm(SMALL["matmul"], TARGET, 4, 0, ("--canary-drift", "10000"))
    assert len(run.trials) == 4
    assert run.ok + run.failed + run.twins == 4
    assert run.best is not None
    assert run.start_s > 0
    assert run.prepare_s > 0
    assert run.start_s + run.prepare_s + run.search_s <= run.whole_s
    verdict = replace(_pair(SMALL["matmul"], 1.0), farm=run)
    assert throughput.stages_table([verdict])
    assert run.workload_json == imported_task(SMALL["matmul"], TARGET).workload_json


@pytest.mark.parametrize(
    "one", [layouts.Convolution("c", 32, 48, 7, step=2), layouts.Convolution("c", 32, 16, 5, 1)]
)
def test_all_layouts_are_the_same_convolution(one: layouts.Convolution) -> None:
    generator = np.random.default_rng(0)
    maps = generator.standard_normal((1, one.size, one.size, one.channels), np.float32)
    taps = one.kernel, one.kernel, one.channels
    weights = generator.standard_normal((one.filters // 16, *taps, 16), np.float32)

    def run(function: Any, *arrays: Any) -> Any:
        tensors = function(one)
        kernel = tvm.compile(te.create_prim_func(tensors), target="llvm")
        output = np.zeros([int(size) for size in tensors[-1].shape], np.float32)
        given = [tvm.runtime.tensor(np.ascontiguousarray(a)) for a in (*arrays, output)]
        kernel(*given)
        return given[-1].numpy()

    expected = run(layouts.channels_last, maps, weights)
    by_block = maps.reshape(one.size, one.size, -1, 16).transpose(2, 0, 1, 3)[None]
    blocked = run(layouts.blocked, by_block, weights)
    back = blocked[0].transpose(1, 2, 0, 3).reshape(expected.shape)
    np.testing.assert_allclose(back, expected, rtol=1e-4, atol=1e-4)
    matrix = run(layouts.patches, maps)
    product = run(layouts.product, matrix, weights.reshape(len(weights), -1, 16))
    np.testing.assert_allclose(product.reshape(expected.shape), expected, rtol=1e-4, atol=1e-4)
    assert np.abs(expected).max() > 1
