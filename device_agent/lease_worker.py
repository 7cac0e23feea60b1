"""Executes leases, one after the other, in a thread of its own."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from device_agent.artifacts import ArtifactCache
from device_agent.devices.base import Runner
from device_agent.kernel_leases import KernelLease, KernelLeases
from device_agent.kernel_runner import KernelRunner, LeaseFailedError
from device_agent.telemetry import read_telemetry
from device_agent.turn import TimingTurn
from protos import errors
from protos.records import (
    Circumstances,
    Device,
    EvaluatorConfig,
    KernelWork,
    Lease,
    LeaseFinished,
    Measurement,
    ModelMeasurement,
    ModelWork,
    Telemetry,
)

if TYPE_CHECKING:
    from device_agent.model_runner import ModelRunner

log = logging.getLogger(__name__)

Report = Callable[[Measurement | ModelMeasurement | LeaseFinished], None]

JOIN_TIMEOUT_S = 1.0

MAX_HELD = 256
"""Leases that a device holds; a coordinator gives it two at a time."""


@dataclass
class _Held:
    """A lease that has arrived; ``dropped`` once nobody waits for the rest of it.

    ``canary_ratio`` and ``canary_s`` are what LeaseFinished says.
    """

    lease: Lease
    arrived: float = field(default_factory=time.monotonic)
    dropped: threading.Event = field(default_factory=threading.Event)
    canary_ratio: float | None = None
    canary_s: float | None = None

    def expired(self) -> bool:
        expires_s = self.lease.expires_s
        return expires_s > 0 and time.monotonic() > self.arrived + expires_s


class LeaseWorker:
    """Takes leases in order and reports every result as soon as it is there and can be trusted.

    The next lease waits here while the current one runs, so the device is never idle for a round
    trip. ``report`` is called from the worker's thread. ``kernels`` runs the candidates (default:
    the device's CPUs do).
    """

    def __init__(
        self,
        device: Device,
        artifacts: ArtifactCache,
        report: Report,
        kernels: Runner | None = None,
    ) -> None:
        self._device = device
        self._artifacts = artifacts
        self._report = report
        self.kernels = kernels or KernelRunner(device)
        self._models: ModelRunner | None = None
        self._turn = TimingTurn(device.cpus)
        self._closed = threading.Event()
        self._leases = KernelLeases(
            device, artifacts, self.kernels, self._turn, report, self._closed
        )
        self._queue: queue.SimpleQueue[_Held | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}
        self._busy_s = 0.0
        self._busy_since: float | None = None
        self._thread = threading.Thread(
            target=self._work, name=f"leases of {device.name}", daemon=True
        )

    def start(self) -> None:
        """Begin to take leases."""
        self._thread.start()

    def submit(self, lease: Lease) -> None:
        """Queue a lease; one that is here already is not done twice. Raises ProtocolViolation for
        more than MAX_HELD."""
        held = _Held(lease)
        with self._lock:
            if lease.lease_id in self._held:
                log.warning("lease %s came twice", lease.lease_id)
                return
            if len(self._held) >= MAX_HELD:
                raise errors.ProtocolViolation(f"a lease more than the {MAX_HELD} that wait here")
            self._held[lease.lease_id] = held
        self._queue.put(held)

    def cancel(self, lease_id: str) -> None:
        """Drop the trials of a lease that have not begun; unknown names are ignored."""
        with self._lock:
            held = self._held.get(lease_id)
        if held is not None:
            held.dropped.set()

    def drop_all(self) -> None:
        """Cancel every lease: their session is over."""
        with self._lock:
            for held in self._held.values():
                held.dropped.set()

    def close(self) -> None:
        """Kill what runs and end the thread, within about two seconds."""
        self._closed.set()
        self.drop_all()
        self._queue.put(None)
        self.kernels.close()
        with self._lock:
            models = self._models
        if models is not None:
            models.close()
        if self._thread.is_alive():
            self._thread.join(JOIN_TIMEOUT_S)

    def _work(self) -> None:
        try:
            self._take_leases()
        finally:
            self._turn.end()

    def _take_leases(self) -> None:
        while (held := self._next()) is not None and not self._closed.is_set():
            lease = held.lease
            error = ""
            self._begin_lease()
            try:
                self._execute(held)
            except errors.FarmError as failure:
                error = str(failure)
            except OSError as failure:
                log.warning("lease %s of job %s", lease.lease_id, lease.job_id, exc_info=True)
                error = f"the system of this device refused: {failure}"
            except Exception as failure:
                # A defect of ours must not take the device from the farm.
                log.exception("lease %s of job %s", lease.lease_id, lease.job_id)
                error = f"a defect of the agent: {type(failure).__name__}: {failure}"
            self._end_lease()
            with self._lock:
                if self._held.get(lease.lease_id) is held:
                    del self._held[lease.lease_id]
            if self._closed.is_set():
                return
            if error:
                log.warning("lease %s of job %s: %s", lease.lease_id, lease.job_id, error)
            self._report(LeaseFinished(lease.lease_id, error, held.canary_ratio, held.canary_s))

    def _begin_lease(self) -> None:
        with self._lock:
            self._busy_since = time.monotonic()

    def _end_lease(self) -> None:
        with self._lock:
            self._busy_s, self._busy_since = self._busy_s_now(), None

    def _busy_s_now(self) -> float:
        running = 0.0 if self._busy_since is None else time.monotonic() - self._busy_since
        return self._busy_s + running

    @property
    def busy_s(self) -> float:
        """Seconds that leases have taken so far, the one that runs included."""
        with self._lock:
            return self._busy_s_now()

    def _next(self) -> _Held | None:
        """The next lease; whoever builds on this host has its turn while there is none."""
        try:
            return self._queue.get_nowait()
        except queue.Empty:
            self._turn.end()
            return self._queue.get()

    def _execute(self, held: _Held) -> None:
        if held.dropped.is_set():
            return
        if held.lease.kernel is not None:
            self._execute_kernels(held, held.lease.kernel)
        elif held.lease.model is not None:
            self._execute_model(held.lease, held.lease.model)

    def _execute_kernels(self, held: _Held, work: KernelWork) -> None:
        lease = KernelLease(
            held.lease.lease_id, held.lease.job_id, work, held.dropped, held.expired
        )
        try:
            self._leases.execute(lease)
        finally:
            held.canary_ratio, held.canary_s = lease.canary_ratio, lease.canary_s

    def _execute_model(self, lease: Lease, work: ModelWork) -> None:
        if not self._device.cpus:
            raise LeaseFailedError(
                "a replay device runs no whole models: have the job done by a real device"
            )
        self._turn.end()
        before = read_telemetry(self._device.cpus)
        run = self._model_runner().run(work, self._artifacts.get)
        circumstances = self._circumstances(
            work.evaluator, work.num_threads, before, run.lock_wait_s, run.busy_s
        )
        if not self._closed.is_set():
            self._report(ModelMeasurement(lease.lease_id, run.variants, circumstances))

    def _model_runner(self) -> ModelRunner:
        """Made when the first whole model comes: it needs NumPy, a quarter of an agent's memory."""
        from device_agent.model_runner import ModelRunner

        with self._lock:
            if self._closed.is_set():
                raise LeaseFailedError("the agent is shutting down")
            self._models = self._models or ModelRunner(self._device)
            return self._models

    def _circumstances(
        self,
        evaluator: EvaluatorConfig,
        num_threads: int,
        before: Telemetry,
        lock_wait_s: float,
        busy_s: float,
    ) -> Circumstances:
        return Circumstances(
            device=self._device.name,
            tool_versions=self._device.tool_versions,
            evaluator=evaluator,
            num_threads=num_threads,
            cpus=self._device.cpus,
            emulated=self._device.emulated,
            before=before,
            after=read_telemetry(self._device.cpus),
            lock_wait_s=lock_wait_s,
            busy_s=busy_s,
        )
