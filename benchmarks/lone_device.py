"""One device as an agent has it, without a farm around: leases in, measurements out.

The leases go through the agent's own worker: the host lock, the zygote, the comparison of outputs
and the evaluator's policy, canary included, are those of every farm. What the fleet does with
measurements that are in doubt is done here: they are measured again, a few times.
"""

from __future__ import annotations

import itertools
import queue
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType

from benchmarks.process import progress
from benchmarks.timing import Contender
from coordinator.frontend.target import num_threads
from device_agent.artifacts import ArtifactCache
from device_agent.build import build_kernel
from device_agent.devices.cpu import describe_cpu
from device_agent.lease_worker import LeaseWorker
from protos.errors import NotFound
from protos.records import (
    UNTUNED_TRACE,
    Artifact,
    EvaluatorConfig,
    KernelWork,
    Lease,
    LeaseFinished,
    Measurement,
    MeasurementStatus,
    ModelMeasurement,
    Task,
    Trial,
)

LEASES = 12
"""How often a trial is leased before it stays without an answer: half a minute where the canary is
off all the time."""

PATIENT_LEASES = 60
"""The same for what the rest of a benchmark depends on."""

LEASE_S = 600.0


def trials_left(results: Sequence[Measurement | None]) -> list[int]:
    """Which trials have no answer yet: not measured, or measured while the device was in doubt."""
    return [
        index
        for index, result in enumerate(results)
        if result is None or result.status is MeasurementStatus.SUSPECT
    ]


def untuned(task: Task, target: str) -> Artifact:
    """What the task's candidates are compared with; raises RuntimeError if it does not build."""
    outcome = build_kernel(task.workload_json, UNTUNED_TRACE, target)
    if outcome.artifact is None:
        raise RuntimeError(f"the untuned {task.name} does not build: {outcome.error}")
    return outcome.artifact


def canary(target: str, evaluator: EvaluatorConfig) -> Artifact | None:
    """The canary of a target, if the evaluator wants one; raises RuntimeError."""
    if not evaluator.canary_every:
        return None
    from coordinator.canary import canary_workload

    outcome = build_kernel(canary_workload(num_threads(target)), UNTUNED_TRACE, target)
    if outcome.artifact is None:
        raise RuntimeError(f"the canary does not build: {outcome.error}")
    return outcome.artifact


class LoneDevice:
    """This machine's CPUs; use ``with``. ``suspect`` counts the measurements that were in doubt."""

    def __init__(self, target: str, evaluator: EvaluatorConfig) -> None:
        device = describe_cpu("benchmark", target, None, emulated=False)
        self._reports: queue.SimpleQueue[Measurement | ModelMeasurement | LeaseFinished] = (
            queue.SimpleQueue()
        )
        self._worker = LeaseWorker(device, ArtifactCache(_nowhere), self._reports.put)
        self._canary = canary(target, evaluator)
        self._numbers = itertools.count()
        self.evaluator = evaluator
        self.suspect = 0

    def __enter__(self) -> LoneDevice:
        """Start to take leases."""
        self._worker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End what runs."""
        self._worker.close()

    def measure(
        self,
        task: Task,
        reference: Artifact,
        kernels: Sequence[Contender],
        best_us: float = 0.0,
        evaluator: EvaluatorConfig | None = None,
        leases: int = LEASES,
        pacemaker: Contender | None = None,
    ) -> list[Measurement | None]:
        """Measure kernels in this order; None for one that stayed without an answer."""
        work = KernelWork(
            *(task.workload_key, task.args, task.num_outputs, 0, reference),
            *(evaluator or self.evaluator, (), best_us, self._canary),
            pacemaker=Artifact.of(pacemaker.artifact) if pacemaker is not None else None,
        )
        results: list[Measurement | None] = [None] * len(kernels)
        for _ in range(leases):
            left = trials_left(results)
            if not left:
                break
            trials = tuple(Trial(str(i), Artifact.of(kernels[i].artifact)) for i in left)
            for measurement in self._lease(replace(work, trials=trials)):
                results[int(measurement.candidate_key)] = measurement
                self.suspect += measurement.status is MeasurementStatus.SUSPECT
        unanswered = set(trials_left(results))
        return [None if i in unanswered else result for i, result in enumerate(results)]

    def _lease(self, work: KernelWork) -> list[Measurement]:
        lease_id = f"lease-{next(self._numbers)}"
        self._worker.submit(Lease(lease_id, "benchmark", LEASE_S, kernel=work))
        found: list[Measurement] = []
        while not isinstance(report := self._reports.get(), LeaseFinished):
            if isinstance(report, Measurement):
                found.append(report)
        if report.error:
            progress(f"{lease_id}: {report.error}")
        return found


def _nowhere(artifact: Artifact) -> bytes:
    raise NotFound(f"nobody has the artifact {artifact.sha256[:12]}; every lease carries its own")
