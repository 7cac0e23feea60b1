"""How a lease's candidates are checked and timed (docs/decisions/0014-loaded-together.md).

They are loaded while builders work on the host, one after the other, and wait. Then the device has
its CPUs to itself, and they are checked and timed in turn: a piece of each, more pieces of those
that are contenders, so that a disturbance of some milliseconds does not hit all samples of one.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from device_agent import throttling
from device_agent.artifacts import ArtifactCache
from device_agent.best_known import BestKnown
from device_agent.canary_watch import CanaryWatch, LeaseGuard
from device_agent.devices.base import Runner
from device_agent.kernel_run import KernelRun, measure
from device_agent.kernel_runner import (
    ChildLostError,
    LeaseFailedError,
    Loaded,
    Outcome,
)
from device_agent.pacemaker import Pace, Pacemaker
from device_agent.telemetry import read_telemetry
from device_agent.turn import TimingTurn
from protos.records import (
    Artifact,
    Circumstances,
    Device,
    KernelWork,
    Measurement,
    Trial,
)

log = logging.getLogger(__name__)

MAX_WAITING = 16
"""Candidates that are loaded at a time."""

LEAST_FREE_SHARE = 0.25
"""Of the machine's memory: with less than that no further candidate is loaded before the others
were timed. Each has what its kernel allocates."""

ATTEMPTS = 2
"""The zygote may have dropped the workload, or be a new one."""


@dataclass
class KernelLease:
    """A lease that is being executed; ``dropped`` once nobody waits for the rest of it.

    ``canary_ratio`` is that of the canary that decided, ``canary_s`` what it takes on this device.
    ``expired`` says whether it is too late.
    """

    lease_id: str
    job_id: str
    work: KernelWork
    dropped: threading.Event
    expired: Callable[[], bool]
    canary_ratio: float | None = None
    canary_s: float | None = None


class KernelLeases:
    """Executes leases of candidates on one device. Used by one thread."""

    def __init__(
        self,
        device: Device,
        artifacts: ArtifactCache,
        runner: Runner,
        turn: TimingTurn,
        report: Callable[[Measurement], None],
        closed: threading.Event,
    ) -> None:
        """``closed`` is set when what runs is being killed."""
        self._device = device
        self._artifacts = artifacts
        self._runner = runner
        self._turn = turn
        self._report = report
        self._closed = closed
        self._best = BestKnown()
        self._pace = Pace()
        self._watch = CanaryWatch(self._canary, turn, closed, self._held_back)

    def execute(self, lease: KernelLease) -> None:
        """Measure its trials; raises LeaseFailedError and what the artifacts' transfer raises."""
        work = lease.work
        watchers = (work.canary, work.pacemaker)
        for artifact in (work.reference, *watchers, *(trial.artifact for trial in work.trials)):
            if artifact is not None:
                self._artifacts.keep(artifact)
        reference = self._fetch(work.reference)
        guard = LeaseGuard(self._watch, work, self._fetch, self._report, lease.dropped)
        left = deque(work.trials)
        try:
            while left and not self._stopped(lease):
                with (
                    self._paced(work, reference) as pacemaker,
                    self._loaded(lease, reference, left) as batch,
                ):
                    if not guard.ready():
                        return
                    lost = self._time(lease, guard, batch, pacemaker)
                    left.extendleft(reversed(lost))
                    if not guard.finish():
                        self._best.forget(work)
        finally:
            lease.canary_ratio, lease.canary_s = guard.canary_ratio, guard.canary_s

    def _stopped(self, lease: KernelLease) -> bool:
        return lease.dropped.is_set() or self._closed.is_set()

    def _fetch(self, artifact: Artifact) -> bytes:
        """The bytes; ends the turn if they have to come over the network."""
        if not self._artifacts.has(artifact):
            self._turn.end()
        return self._artifacts.get(artifact)

    @contextmanager
    def _loaded(
        self, lease: KernelLease, reference: bytes, left: deque[Trial]
    ) -> Iterator[list[KernelRun]]:
        """The next trials, taken from those that are left: loaded and waiting."""
        work = lease.work
        most = min(work.evaluator.canary_every or MAX_WAITING, MAX_WAITING)
        batch: list[KernelRun] = []
        try:
            while left and len(batch) < most and not self._stopped(lease):
                if batch and not _memory_left():
                    break
                if lease.expired():
                    if batch:
                        break
                    raise LeaseFailedError("the lease expired before it was done")
                data = self._fetch(left[0].artifact)
                with self._turn.working():
                    loaded = self._load(work, reference, data)
                batch.append(KernelRun(left.popleft(), loaded))
            yield batch
        finally:
            if not self._closed.is_set():  # else it ends with its zygote
                with self._turn.working():
                    for run in batch:
                        self._runner.end(run.loaded.child)

    @contextmanager
    def _paced(self, work: KernelWork, reference: bytes) -> Iterator[Pacemaker | None]:
        """The task's best program, loaded and waiting, if the lease names one."""
        if work.pacemaker is None or not self._pace.suits(work.pacemaker):
            yield None
            return
        data = self._fetch(work.pacemaker)
        with self._turn.working():
            loaded = self._load(work, reference, data)
        child = loaded.child
        if not child:
            log.warning("there is no pacemaker: %s", loaded.outcome.error)
        pacemaker = Pacemaker(
            *(self._runner, self._turn, self._pace, work.pacemaker),
            *(child, work.evaluator.timeout_s),
        )
        try:
            yield pacemaker
        finally:
            pacemaker.note()
            if child and not self._closed.is_set():
                with self._turn.working():
                    self._runner.end(child)

    def _load(self, work: KernelWork, reference: bytes, data: bytes) -> Loaded:
        for _attempt in range(ATTEMPTS):
            if self._closed.is_set():
                raise LeaseFailedError("the agent is shutting down")
            if not self._runner.is_prepared(work):
                self._runner.prepare(work, reference)
            loaded = self._runner.load(work, data)
            if loaded is not None:
                return loaded
        raise LeaseFailedError("the kernel process forgets its workload again and again")

    def _time(
        self,
        lease: KernelLease,
        guard: LeaseGuard,
        batch: Sequence[KernelRun],
        pacemaker: Pacemaker | None,
    ) -> list[Trial]:
        """Time the candidates of a batch in turn; those that were lost, to be loaded again."""
        work, waiting, lost = lease.work, deque(batch), []
        done: list[KernelRun] = []  # since the pacemaker's last run, by which they are judged
        while (waiting or done) and not self._stopped(lease):
            best_us = self._best.known(lease.job_id, work)
            steady = self._steady(lease, pacemaker, waiting)
            if steady is False:
                waiting.extend(run for run in done if run.doubt(work.evaluator, best_us))
            if steady is not None:
                for run in done:
                    if run not in waiting:
                        self._take(lease, guard, run, pacemaker)
                done = []
            if not waiting:
                continue
            run = waiting.popleft()
            try:
                more = bool(run.loaded.child) and self._piece(work, run, best_us)
            except ChildLostError:
                lost.append(run.trial)
                continue
            if run.progress is not None and run.progress.samples_s:
                self._best.note(work, run.progress.latency_s * 1e6)
            if self._closed.is_set():
                break  # what we killed ourselves says nothing of the candidate
            if not run.loaded.child:  # it failed, which says nothing of the device
                self._take(lease, guard, run, None)
            else:
                (waiting if more else done).append(run)
        return lost

    def _take(
        self, lease: KernelLease, guard: LeaseGuard, run: KernelRun, pacemaker: Pacemaker | None
    ) -> None:
        if run.progress is not None:
            self._pace.note(run.trial.artifact, run.progress.samples_s)
        measurement = self._measurement(lease, run)
        if pacemaker is not None:
            measurement = pacemaker.judged(measurement, lease.work.evaluator)
        if not guard.take(throttling.judged(measurement)):
            self._best.forget(lease.work)

    @staticmethod
    def _steady(
        lease: KernelLease, pacemaker: Pacemaker | None, waiting: Sequence[KernelRun]
    ) -> bool | None:
        """Whether the device has been as fast as ever since it was last asked; None: not known yet.

        The candidates' checks come first and need no fast device.
        """
        if pacemaker is None:
            return True
        if waiting and waiting[0].progress is None:
            return None
        return pacemaker.wait(lease.dropped, look=not waiting)

    def _piece(self, work: KernelWork, run: KernelRun, best_us: float) -> bool:
        """The run's next piece, while the host is the device's."""
        with self._turn.measuring() as waited_s:
            run.waited_s += waited_s
            run.before = run.before or read_telemetry(self._device.cpus)
            more = run.piece(self._runner, work.evaluator, best_us)
            if not more:
                run.after = read_telemetry(self._device.cpus)
            return more

    def _canary(self, work: KernelWork, data: bytes) -> Outcome:
        """Check and time a kernel that is its own reference."""
        with self._turn.measuring():
            loaded = self._load(work, data, data)
            return measure(self._runner, work, loaded)

    def _held_back(self) -> str:
        now = read_telemetry(self._device.cpus)
        return throttling.held_back(now, now)

    def _measurement(self, lease: KernelLease, run: KernelRun) -> Measurement:
        device, work, outcome = self._device, lease.work, run.result
        log.debug(
            "job %s lease %s candidate %s: %s %s",
            lease.job_id,
            lease.lease_id,
            run.trial.candidate_key[:12],
            outcome.status.name,
            outcome.error,
        )
        before = run.before or read_telemetry(device.cpus)
        return Measurement(
            workload_key=work.workload_key,
            candidate_key=run.trial.candidate_key,
            status=outcome.status,
            lease_id=lease.lease_id,
            artifact_sha256=run.trial.artifact.sha256,
            repeats_s=outcome.repeats_s,
            error=outcome.error,
            max_abs_error=outcome.max_abs_error,
            circumstances=Circumstances(
                device=device.name,
                tool_versions=device.tool_versions,
                evaluator=work.evaluator,
                num_threads=device.num_threads,
                cpus=device.cpus,
                emulated=device.emulated,
                before=before,
                after=run.after or before,
                lock_wait_s=run.waited_s,
                busy_s=outcome.busy_s,
                load_s=outcome.parts.load_s,
                check_s=outcome.parts.check_s,
                time_s=outcome.parts.time_s,
            ),
        )


def _memory_left() -> bool:
    memory = psutil.virtual_memory()
    return bool(memory.available > LEAST_FREE_SHARE * memory.total)
