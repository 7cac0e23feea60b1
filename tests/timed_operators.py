"""A tuning log that knows convolutions of many sizes, timed by a law, and models made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import helper

from coordinator.tuning_log import TuningLog
from protos.records import (
    Candidate,
    Device,
    Job,
    JobSpec,
    JobState,
    Measurement,
    MeasurementStatus,
    ModelResult,
    Task,
    TaskProgress,
    TensorSpec,
)
from tests import models

DEVICE = Device("bench-1", '{"kind":"llvm","num-cores":1}', "a CPU", (0,), 1)
TRIED = 8
OVERHEAD = 1.2
"""A whole model over the sum of its operators."""

Conv = tuple[int, int, int]
"""Pixels to a side, channels in and out, of a convolution of 3 × 3 with a bias and ReLU."""


def law_us(conv: Conv) -> float:
    """What such a convolution takes."""
    size, c_in, c_out = conv
    return 0.5 + 2 * 9 * size**2 * c_in * c_out / 100e3


def task(conv: Conv) -> Task:
    """As the compiler describes it."""
    size, c_in, c_out = conv
    args = (
        TensorSpec((1, size, size, c_in), "float32"),
        TensorSpec((c_out // 8, 3, 3, c_in, 8), "float32"),
        TensorSpec((1, 1, 1, c_out), "float32"),
        TensorSpec((1, size, size, c_out), "float32"),
    )
    return Task("fused_conv2d1_add_relu", f"w-{size}-{c_in}-{c_out}", "{}", 1, args, 1, 1.0)


def convs(count: int, seed: int) -> list[Conv]:
    """So many different sizes."""
    random = np.random.default_rng(seed)
    found: dict[Conv, None] = {}
    while len(found) < count:
        size, c_in, c_out = random.integers((4, 1, 1), (33, 9, 9))
        found[(int(size), 8 * int(c_in), 8 * int(c_out))] = None
    return list(found)


def model(sizes: Sequence[Conv]) -> bytes:
    """An ONNX file with such convolutions side by side."""
    nodes: list[Any] = []
    weights: dict[str, Any] = {}
    for i, (_, c_in, c_out) in enumerate(sizes):
        weights[f"w{i}"] = np.full((c_out, c_in, 3, 3), 0.1, np.float32)
        weights[f"b{i}"] = np.full(c_out, 0.1, np.float32)
        inputs = [f"x{i}", f"w{i}", f"b{i}"]
        nodes.append(helper.make_node("Conv", inputs, [f"c{i}"], f"conv{i}", pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"y{i}"], f"relu{i}"))
    given = {f"x{i}": (1, c_in, size, size) for i, (size, c_in, _) in enumerate(sizes)}
    made = {f"y{i}": (1, c_out, size, size) for i, (size, _, c_out) in enumerate(sizes)}
    return models.make_model(nodes, given, made, weights)


def tune(
    log: TuningLog,
    sizes: Sequence[Conv],
    device: Device = DEVICE,
    name: str = "net",
    finished: bool = True,
) -> Job:
    """A job that tuned such a model on this kind of device, ``TRIED`` candidates for each."""
    log.upsert_device(device)
    data = model(sizes)
    spec = JobSpec(name, log.put_blob(data), device.target_json, TRIED)
    job = log.add_job(spec, "test", embedded=True)
    tasks = [task(conv) for conv in sizes]
    log.set_tasks(job.job_id, tasks)
    results = []
    for conv, one in zip(sizes, tasks, strict=True):
        for trial in range(TRIED):
            candidate = Candidate(one.workload_key, f"[{trial}]")
            latency_s = law_us(conv) * (2 - trial / (TRIED - 1)) / 1e6
            measurement = Measurement(
                *(candidate.workload_key, candidate.key, MeasurementStatus.OK),
                lease_id=job.job_id,
                repeats_s=(latency_s,),
            )
            results.append((job.job_id, device.kind, candidate, measurement, None))
    log.record_many(results)
    if not finished:
        return job
    tuned_ms = OVERHEAD * sum(map(law_us, sizes)) / 1e3
    result = ModelResult(
        *(2 * tuned_ms, tuned_ms, 0.0, 0.0, "net.whl", "0" * 64, 1),
        tuned_low_ms=0.9 * tuned_ms,
        tuned_high_ms=1.1 * tuned_ms,
    )
    progress = tuple(
        TaskProgress(one.name, one.workload_key, 1, tuned_us=law_us(conv))
        for conv, one in zip(sizes, tasks, strict=True)
    )
    done = replace(job, state=JobState.DONE, tasks=progress, result=result)
    log.save_job(done)
    return done
