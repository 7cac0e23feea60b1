"""`tunefarm tune`: what can't be imported, and what is wrong, with real processes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime

from coordinator.experiments import EVALUATOR
from coordinator.finals import final_evaluator
from coordinator.search.finals import ROUND_TURNS, TURN_SAMPLES, FinalsConfig
from coordinator.search.traces import trace_to_json
from coordinator.tuning_log import TuningLog
from device_agent.build import tool_versions
from protos.records import (
    Candidate,
    Circumstances,
    Measurement,
    MeasurementStatus,
    Task,
    Telemetry,
    sha256_hex,
)
from tests import models
from tests.test_frontend_winograd import convolution_model
from tests.test_tune import ROUGH, run, trials, use_package


def test_the_rest_of_a_model_with_an_lstm_is_tuned(tmp_path: Path) -> None:
    model = tmp_path / "recogniser.onnx"
    model.write_bytes(models.recogniser())
    log = tmp_path / "log.db"
    options = (*ROUGH, "--log", str(log), "--json")
    early = run("tune", str(model), "--target-latency", "10s", *options, cwd=tmp_path)
    assert early.returncode == 0, early.stderr
    result = json.loads(early.stdout)
    assert result["tuning_ended"] == "the target latency was reached"
    assert trials(log) == []
    assert "reached" in early.stderr

    done = run("tune", str(model), "--trials", "24", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["left_to_engine"] == ["LSTM (node 'memory')"]
    assert "ONNX Runtime runs what can't be imported: LSTM" in done.stderr
    assert result["trials"]["total"] == 24 == len(trials(log))
    assert {"onnxruntime", "openvino", "onednn"} == {one["name"] for one in result["engines"]}
    refused = next(one for one in result["engines"] if one["name"] == "onednn")
    assert refused["latency_ms"] is None
    assert refused["error"].startswith("oneDNN has no primitive for LSTM")

    x = use_package(Path(result["package"]), tmp_path, "recogniser", (1, 3, 16, 24))
    (expected,) = onnxruntime.InferenceSession(models.recogniser()).run(None, {"x": x})
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-4)


def half_precision(task: Task, *, alone: bool = False) -> str:
    """A trace of the operator's sums in 16 bits, which no schedule rule would make; ``alone`` if
    nothing is fused behind them."""
    import tvm
    from tvm.s_tir import Schedule

    schedule = Schedule(tvm.ir.load_json(task.workload_json))
    sums = schedule.get_sblock("block0")
    if alone:
        schedule.cache_write(sums, 0, "global")
    schedule.unsafe_set_dtype(sums, 0, "float16")
    return trace_to_json(schedule.trace)


def inapplicable() -> str:
    """A trace of another operator than those of the model."""
    return json.dumps([[["GetSBlock", [], ["no_such_block", "main"], ["b0"]]], []])


NOTHING_SCHEDULED = json.dumps([[], []])
"""A trace that leaves the program as it is."""


def plant(log: TuningLog, job_id: str, task: Task, trace: str, latency_s: float) -> Candidate:
    """A record that says of a trace that its kernel is right and has won all finals."""
    device = log.devices()[0]  # each run has one of its own, all of one kind
    tools = {**device.tool_versions, **tool_versions()}
    candidate = Candidate(task.workload_key, trace)
    for number in range(FinalsConfig().rounds + 1):
        evaluator = final_evaluator(EVALUATOR) if number else EVALUATOR
        measurement = Measurement(
            *(task.workload_key, candidate.key, MeasurementStatus.OK),
            *(f"planted-{latency_s}-{number}", sha256_hex(trace.encode())),
            repeats_s=(latency_s,) * (ROUND_TURNS * TURN_SAMPLES),
            circumstances=Circumstances(
                *(device.name, tools, evaluator, device.num_threads),
                *(device.cpus, False, Telemetry(), Telemetry()),
            ),
        )
        assert log.record(job_id, device.kind, candidate, measurement)
    return candidate


def test_a_broken_kernel_in_the_log_is_found_and_named(tmp_path: Path) -> None:
    model = tmp_path / "steps.onnx"
    model.write_bytes(models.several_steps(3))
    command = ("tune", str(model), "--trials", "8", *ROUGH, "--log", str(tmp_path / "log.db"))
    first = run(*command, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    with_package = set((tmp_path / "packages").iterdir())

    log = TuningLog.open(str(tmp_path / "log.db"))
    (job,) = log.jobs()
    tasks = log.tasks(job.job_id)
    assert len(tasks) == 3
    broken = next(task for task in tasks if task.args[0].shape == (4, 24))
    plant(log, job.job_id, broken, inapplicable(), 1e-9)
    without = run(*command, cwd=tmp_path)
    assert without.returncode == 0, without.stderr
    assert f"a record of workload {broken.workload_key} is left out" in without.stderr
    assert set((tmp_path / "packages").iterdir()) == with_package, "the same as before"

    candidate = plant(log, job.job_id, broken, half_precision(broken), 1e-8)
    log.close()
    second = run(*command, cwd=tmp_path)
    assert second.returncode == 3
    assert "the tuned model differs from ONNX Runtime, so it is not packaged" in second.stderr
    assert f"The first operator that differs is {broken.name!r}" in second.stderr
    assert candidate.key in second.stderr
    assert set((tmp_path / "packages").iterdir()) == with_package, "nothing new"


def test_an_algorithm_that_was_faster_is_left_out_if_it_is_wrong(tmp_path: Path) -> None:
    data = convolution_model((1, 16, 16, 16, 16))
    model = tmp_path / "conv.onnx"
    model.write_bytes(data)
    command = (
        "tune",
        str(model),
        "--trials",
        "8",
        *ROUGH,
        "--log",
        str(tmp_path / "log.db"),
        "--json",
    )
    first = run(*command, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    log = TuningLog.open(str(tmp_path / "log.db"))
    (job,) = log.jobs()
    winograd = [task for task in log.tasks(job.job_id) if "winograd" in task.name]
    for task in winograd:  # their untuned programs are right, and so are these
        plant(log, job.job_id, task, NOTHING_SCHEDULED, 1e-8)
        if "products" in task.name:
            plant(log, job.job_id, task, half_precision(task, alone=True), 1e-9)
    log.close()

    second = run(*command, cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    result = json.loads(second.stdout)
    assert not [task["name"] for task in result["tasks"] if "winograd" in task["name"]]
    assert "with other algorithms for 1 kinds of convolutions, is left out" in second.stderr
    x = use_package(Path(result["package"]), tmp_path, "conv", (1, 16, 16, 16))
    (expected,) = onnxruntime.InferenceSession(data).run(None, {"x": x})
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-4)
