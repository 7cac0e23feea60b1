"""The agent's side of the zygote: keeps one alive and asks it to check and time candidates."""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_agent import containment
from device_agent.frames import Frame, FrameError
from device_agent.helper_process import HelperDiedError, HelperProcess, HelperTimeoutError
from device_agent.kernel_child import NO_PARTS, Parts
from device_agent.workloads import WorkloadSpec
from device_agent.zygote import evaluator_header
from protos import errors
from protos.records import Device, KernelWork, MeasurementStatus

log = logging.getLogger(__name__)

START_TIMEOUT_S = 120.0
ANSWER_GRACE_S = 30.0
"""What the zygote may take beside its child: making inputs, comparing large outputs."""

REFERENCE_TIMEOUT_FACTOR = 6.0
"""The reference is unscheduled, and so slower than the candidates."""


class LeaseFailedError(errors.FarmError):
    """The agent could not do the work, and no candidate is to blame."""


@dataclass(frozen=True)
class Outcome:
    """What became of one candidate; ``threads`` that its process had, ``parts`` of ``busy_s``."""

    status: MeasurementStatus
    error: str = ""
    repeats_s: tuple[float, ...] = ()
    max_abs_error: float = 0.0
    busy_s: float = 0.0
    threads: int = 0
    parts: Parts = NO_PARTS


class KernelRunner:
    """Runs kernels for one device. One thread uses it; ``close`` may come from another."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._lock = threading.Lock()  # of the fields below
        self._zygote: HelperProcess | None = None
        self._closed = False
        self._child = 0
        self._scratch: Path | None = None
        self._prepared: set[str] = set()

    @property
    def zygote_pid(self) -> int | None:
        """The running zygote's process, if there is one."""
        zygote = self._zygote
        return zygote.pid if zygote else None

    @property
    def child_pid(self) -> int:
        """The process that runs a kernel now; 0 if none does."""
        return self._child

    def prepare(self, work: KernelWork, reference: bytes) -> None:
        """Have the zygote make inputs and the truth; raises LeaseFailedError if it can't."""
        spec = WorkloadSpec.of(work)
        if self.is_prepared(work):
            return
        timeout_s = work.evaluator.timeout_s * REFERENCE_TIMEOUT_FACTOR
        header = {"op": "prepare", "workload": spec.to_header(), "timeout_s": timeout_s}
        try:
            try:
                answer = self._ask(header, reference, timeout_s)
            except HelperDiedError:  # not the reference's doing: that runs in a child
                answer = self._ask(header, reference, timeout_s)
        except (HelperDiedError, HelperTimeoutError) as error:
            raise LeaseFailedError(
                f"the agent's kernel process ended while it ran the reference: {error}"
            ) from error
        if answer["error"]:
            raise LeaseFailedError(str(answer["error"]))
        self._prepared.add(spec.key)

    def is_prepared(self, work: KernelWork) -> bool:
        """Whether, as far as is known, the zygote has this workload."""
        return self._zygote is not None and WorkloadSpec.of(work).key in self._prepared

    def measure(self, work: KernelWork, artifact: bytes) -> Outcome | None:
        """Check and time a candidate; None if ``prepare`` must come first (again)."""
        key = WorkloadSpec.of(work).key
        header = {
            "op": "measure",
            "workload": key,
            "evaluator": evaluator_header(work.evaluator),
            "best_us": work.best_us,
        }
        try:
            answer = self._ask(header, artifact, work.evaluator.timeout_s)
        except (HelperDiedError, HelperTimeoutError) as error:
            message = f"the agent's kernel process ended while it ran this: {error}"
            return Outcome(MeasurementStatus.CRASHED, message)
        if answer.get("unknown_workload"):
            self._prepared.discard(key)
            return None
        return Outcome(
            MeasurementStatus[answer["status"]],
            answer["error"],
            tuple(answer["repeats_s"]),
            answer["max_abs_error"],
            answer["busy_s"],
            answer["threads"],
            Parts(answer["load_s"], answer["check_s"], answer["time_s"]),
        )

    def close(self) -> None:
        """End the zygote and what it runs; later requests are refused."""
        with self._lock:
            self._closed = True
            zygote, self._zygote = self._zygote, None
        if zygote is not None:
            self._end(zygote)

    def _ask(self, header: dict[str, Any], blob: bytes, timeout_s: float) -> dict[str, Any]:
        zygote = self._started()
        try:
            zygote.send(header, [blob])
            while True:
                frame = zygote.receive(timeout_s + ANSWER_GRACE_S)
                if "child" not in frame.header:
                    return frame.header
                self._child = int(frame.header["child"])
        except (HelperDiedError, HelperTimeoutError):
            self._discard(zygote)
            raise
        except FrameError as error:
            self._discard(zygote)
            raise HelperDiedError(f"it answered what is no answer: {error}") from error
        finally:
            self._child = 0

    def _started(self) -> HelperProcess:
        """The running zygote, or a new one; raises LeaseFailedError if none can be started."""
        with self._lock:
            if self._closed:
                raise LeaseFailedError("the agent is shutting down")
            if self._zygote is not None:
                return self._zygote
            self._prepared.clear()
            cpus = ",".join(str(cpu) for cpu in self._device.cpus)
            threads = self._device.num_threads
            self._scratch = Path(tempfile.mkdtemp(prefix="tunefarm-kernels-"))
            zygote = self._zygote = HelperProcess(
                "device_agent.zygote",
                ["--cpus", cpus, "--threads", str(threads), "--scratch", str(self._scratch)],
                threads,
            )
        try:
            self._greet(zygote.receive(START_TIMEOUT_S))
        except (HelperDiedError, HelperTimeoutError, FrameError) as error:
            self._discard(zygote)
            raise LeaseFailedError(f"the kernel process does not start: {error}") from error
        except LeaseFailedError:
            self._discard(zygote)
            raise
        return zygote

    def _greet(self, frame: Frame) -> None:
        if not frame.header.get("ready"):
            raise LeaseFailedError(str(frame.header.get("error", "the kernel process refuses")))
        if frame.header["network"]:
            log.warning(
                "device %s: kernels keep the network; the system allows no network namespace",
                self._device.name,
            )
        if frame.header["threads"] != 1:
            log.warning(
                "device %s: the kernel process has %s threads before it forks",
                self._device.name,
                frame.header["threads"],
            )

    def _discard(self, zygote: HelperProcess) -> None:
        with self._lock:
            if self._zygote is zygote:
                self._zygote = None
        self._end(zygote)

    def _end(self, zygote: HelperProcess) -> None:
        child, scratch = self._child, self._scratch
        zygote.close()
        if child:  # a zygote that was killed could not see to it
            containment.kill_group(child)
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
