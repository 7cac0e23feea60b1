"""A million measurements that look like a farm's: made up, and the same in every process.

Workloads and traces are those of ``benchmarks.log_workloads``, with other decisions in each
candidate. A batch is what one lease brings: results of one workload that arrive together
and are one transaction. One result in eight measures a candidate of an earlier batch once more, as
re-measured winners are; one in twenty is no measurement that counts.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from protos.records import (
    Candidate,
    Circumstances,
    EvaluatorConfig,
    Measurement,
    MeasurementStatus,
    Telemetry,
    sha256_hex,
)

DEVICE_KIND = "7a750563663add8f"
SIZES = (16, 48, 32, 64)
"""Of the batches; the farm's leases hold as many trials."""

AGAIN_EVERY = 8
REPEATS = 6
_STEP = 0x9E3779B97F4A7C15

Result = tuple[str, str, Candidate, Measurement, float | None]

_TOOLS = {
    "kernel": "6.18.44",
    "onnxruntime": "1.31.1",
    "orcjit": "0.1.3",
    "python": "3.11.7",
    "tvm-ffi": "0.1.14.post1",
    "tvm-runtime": "43544bbeaea3cd3f",
}
_EVALUATOR = EvaluatorConfig(
    repeat=2, min_repeat_ms=1, max_repeat=12, max_timing_ms=40, looks=2, canary_every=16
)


@dataclass(frozen=True)
class Plan:
    """What is written: each writer's share is ``measurements / writers``.

    ``traces`` are pairs: the instructions as text, and the decisions, which differ.
    """

    measurements: int
    writers: int
    job_ids: tuple[str, ...]
    workload_keys: tuple[str, ...]
    traces: tuple[tuple[str, list[Any]], ...]

    def save(self, path: Path) -> None:
        """As JSON, for the writers."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Plan:
        """What ``save`` wrote."""
        saved = json.loads(path.read_text())
        traces = tuple((text, decisions) for text, decisions in saved["traces"])
        names = {name: tuple(saved[name]) for name in ("job_ids", "workload_keys")}
        return cls(saved["measurements"], saved["writers"], traces=traces, **names)

    def share(self, writer: int) -> int:
        """How many measurements are this writer's."""
        return self.measurements // self.writers + (writer < self.measurements % self.writers)

    def sizes(self, writer: int) -> list[int]:
        """How many results each of a writer's batches has."""
        sizes: list[int] = []
        left = self.share(writer)
        while left:
            sizes.append(min(SIZES[(len(sizes) + writer) % len(SIZES)], left))
            left -= sizes[-1]
        return sizes


def lease_id(writer: int, batch: int) -> str:
    """Of 16 characters, as the farm's are; tells the batch."""
    return f"{writer:04x}{batch:012x}"


def writer_and_batch(lease: str) -> tuple[int, int]:
    """The way back from ``lease_id``."""
    return int(lease[:4], 16), int(lease[4:], 16)


def trace_json(instructions: str, decisions: Sequence[Any], number: int) -> str:
    """A candidate's trace: the first tile tells its number, the others look drawn.

    MetaSchedule takes what is left of the loop for the first factor of a tile, whatever it says.
    """
    drawn, changed = (number + 1) * _STEP & (1 << 64) - 1, []
    for position, (index, decision) in enumerate(decisions):
        if isinstance(decision, list):
            digits = [1 << (drawn >> 3 * (position + i) & 7) for i in range(len(decision))]
            changed.append([index, digits])
        else:
            changed.append([index, decision])
    next(item for item in changed if isinstance(item[1], list))[1][0] = number + 1
    return f"[{instructions},{json.dumps(changed, separators=(',', ':'))}]"


def batch_of(plan: Plan, writer: int, batch: int, size: int) -> list[Result]:
    """What one lease brings."""
    position = batch * plan.writers + writer
    workload, turn = position % len(plan.workload_keys), position // len(plan.workload_keys)
    key, job_id = plan.workload_keys[workload], plan.job_ids[workload % len(plan.job_ids)]
    lease, chance = lease_id(writer, batch), random.Random(position)
    results: list[Result] = []
    for item in range(size):
        again = turn > 0 and item % AGAIN_EVERY == AGAIN_EVERY - 1 and item < min(SIZES)
        number = (turn - again) * max(SIZES) + item
        candidate = Candidate(key, trace_json(*plan.traces[workload % len(plan.traces)], number))
        measurement = _measurement(candidate, lease, f"device-{writer}", workload, chance)
        results.append((job_id, DEVICE_KIND, candidate, measurement, chance.random()))
    return results


def _measurement(
    candidate: Candidate, lease: str, device: str, workload: int, chance: random.Random
) -> Measurement:
    candidate_key, fate = candidate.key, chance.random()
    least_s = (50 + workload % 1000) * 1e-6 * (1.0 + chance.expovariate(0.5))
    status, error = MeasurementStatus.OK, ""
    if fate < 0.04:
        status = MeasurementStatus.SUSPECT
    elif fate < 0.05:
        status, error = MeasurementStatus.CRASHED, f"signal 11 in the kernel {candidate_key}; " * 2
    telemetry = Telemetry(None, 2596.096, None, 2.0 + fate)
    return Measurement(
        candidate.workload_key,
        candidate_key,
        status,
        lease_id=lease,
        artifact_sha256=sha256_hex(candidate_key.encode()),
        repeats_s=tuple(least_s * (1.0 + 0.1 * chance.random()) for _ in range(REPEATS)),
        error=error,
        circumstances=Circumstances(
            *(device, _TOOLS, _EVALUATOR, 2, (0, 1), False, telemetry, telemetry),
            *(0.0, 0.02 + fate / 100, 0.009, 0.001, 0.01 + fate / 100, 1.0 + fate / 100),
        ),
    )


def everything(plan: Plan) -> Iterator[tuple[int, Result]]:
    """All measurements with their workloads' positions, a writer's share after the other's."""
    for writer in range(plan.writers):
        for batch, size in enumerate(plan.sizes(writer)):
            workload = (batch * plan.writers + writer) % len(plan.workload_keys)
            for result in batch_of(plan, writer, batch, size):
                yield workload, result
