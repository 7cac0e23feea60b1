"""A tuning log with a bit of everything, for tests of what leaves it as files and comes back."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import sqlalchemy as sa
import tvm
from tvm.s_tir import Schedule

from coordinator.frontend.workload import argument_specs, canonical_workload, workload_key
from coordinator.search.traces import trace_to_json
from coordinator.tuning_log import TuningLog
from coordinator.tuning_log.schema import measurements
from protos.records import (
    UNTUNED_TRACE,
    Candidate,
    Device,
    EvaluatorConfig,
    JobSpec,
    Measurement,
    MeasurementStatus,
    Task,
    sha256_hex,
)
from tests.kernels import matmul, target_json
from tests.test_tuning_log import circumstances, failed, ok

TARGET = target_json(2)
DEVICE = Device("d1", TARGET, "a CPU", (0, 3), 2, tool_versions={"tvm": "0.27.0"})
KIND = DEVICE.kind
NOT_COPIED = ("id", "job_id", "import_id", "lease_id")


@functools.cache
def operator(size: int = 16) -> Task:
    """A matrix product, as the front end describes it."""
    workload = canonical_workload(matmul(size))
    return Task(
        name=f"matmul{size}",
        workload_key=workload_key(workload),
        workload_json=str(tvm.ir.save_json(workload)),
        weight=2,
        args=argument_specs(workload["main"]),
        num_outputs=1,
        flops=2.0 * size**3,
    )


@functools.cache
def reordered(size: int = 16, unrolled: bool = False) -> Candidate:
    """The product with its two inner loops exchanged."""

    schedule = Schedule(canonical_workload(matmul(size)))
    i, j, k = schedule.get_loops(schedule.get_sblock("block0"))
    schedule.reorder(i, k, j)
    if unrolled:
        schedule.unroll(j)
    return Candidate(operator(size).workload_key, trace_to_json(schedule.trace))


def untuned(size: int = 16) -> Candidate:
    return Candidate(operator(size).workload_key, UNTUNED_TRACE)


def final(candidate: Candidate, lease: str, *repeats_s: float) -> Measurement:
    evaluator = EvaluatorConfig(repeat=2, hopeless_ratio=0.0)
    where = dataclasses.replace(circumstances(), evaluator=evaluator, canary_ratio=1.01)
    return ok(candidate, lease, *repeats_s, circumstances=where)


def fill(log: TuningLog) -> str:
    """Records of every status and origin, on two workloads; returns the job's id."""
    job = log.add_job(
        JobSpec("small", sha256_hex(b"small"), TARGET, 64), "here:1", embedded=True
    ).job_id
    log.upsert_device(dataclasses.replace(DEVICE, labels={"rack": "3"}))
    log.set_tasks(job, [operator(16), operator(24)])
    cold = dataclasses.replace(circumstances(cold_cache=True), busy_s=0.25)
    for candidate, measurement, score in (
        (untuned(), ok(untuned(), "lease-1", 4e-3, 5e-3), None),
        (reordered(), ok(reordered(), "lease-2", 2e-3, 1e-3), 0.5),
        (reordered(), final(reordered(), "lease-3", 1.5e-3, 1.25e-3, 1.75e-3, 1.5e-3), None),
        (reordered(), ok(reordered(), "lease-4", 9e-3, circumstances=cold), None),
        (reordered(24), ok(reordered(24), "lease-5", 3e-3, float("nan")), 1.0),
        (untuned(24), ok(untuned(24), "lease-6", 7e-3, max_abs_error=float("inf")), None),
        *(
            (
                each := reordered(24, unrolled=True),
                failed(each, f"lease-{status.name}", status),
                2.0,
            )
            for status in MeasurementStatus
            if status is not MeasurementStatus.OK
        ),
        (reordered(unrolled=True), never_built(reordered(unrolled=True)), 0.25),
    ):
        assert log.record(job, KIND, candidate, measurement, score)
    return job


def never_built(candidate: Candidate) -> Measurement:
    return Measurement(
        *(candidate.workload_key, candidate.key, MeasurementStatus.BUILD_ERROR),
        error="InternalError: no – such ✂ loop",
    )


def rows(log: TuningLog) -> list[dict[str, Any]]:
    """All measurements, without what a copy has of its own."""
    with log.reading() as connection:
        found = connection.execute(sa.select(measurements).order_by(measurements.c.id))
        return [
            {name: value for name, value in row.items() if name not in NOT_COPIED}
            for row in found.mappings()
        ]


def answers(log: TuningLog, kind: str = KIND) -> list[object]:
    """What a search would learn from a log, without the numbers of its rows."""
    found: list[object] = []
    for key in (operator(size).workload_key for size in (16, 24)):
        for cold in (False, True):
            outcomes = log.outcomes(key, kind, cold)
            found += [
                dataclasses.replace(each, measurement_id=0, imported=False) for each in outcomes
            ]
            found += log.evidence(key, kind, cold)
    return found
