"""The agent's side of the zygote: keeps one alive and asks it to check and time candidates."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_agent import containment
from device_agent.frames import Frame, FrameError
from device_agent.helper_process import HelperDiedError, HelperProcess, HelperTimeoutError
from device_agent.timing import Plan
from device_agent.workload_spec import WorkloadSpec
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
class Parts:
    """Where the time of a measurement went, seconds: getting ready, the runs for the outputs with
    their comparison, and the timing."""

    load_s: float = 0.0
    check_s: float = 0.0
    time_s: float = 0.0


NO_PARTS = Parts()


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


@dataclass(frozen=True)
class Loaded:
    """A candidate that waits in ``child`` to be run; or, with ``child`` 0, one for which that was
    the end. ``outcome`` says what is known of it."""

    child: int
    outcome: Outcome


class ChildLostError(Exception):
    """The candidate's process went with the zygote, for which it is not to blame."""


class KernelRunner:
    """Runs kernels for one device. One thread uses it; ``close`` may come from another."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._lock = threading.Lock()  # of the fields below
        self._zygote: HelperProcess | None = None
        self._closed = False
        self._children: set[int] = set()
        self._scratch: Path | None = None
        self._prepared: set[str] = set()

    @property
    def zygote_pid(self) -> int | None:
        """The running zygote's process, if there is one."""
        zygote = self._zygote
        return zygote.pid if zygote else None

    @property
    def child_pids(self) -> frozenset[int]:
        """The processes of candidates, running or waiting."""
        return frozenset(self._children)

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
        self._children.discard(int(answer.get("pid", 0)))
        if answer["error"]:
            raise LeaseFailedError(str(answer["error"]))
        self._prepared.add(spec.key)

    def is_prepared(self, work: KernelWork) -> bool:
        """Whether, as far as is known, the zygote has this workload."""
        return self._zygote is not None and WorkloadSpec.of(work).key in self._prepared

    def load(self, work: KernelWork, artifact: bytes) -> Loaded | None:
        """Load a candidate; None if ``prepare`` must come first (again)."""
        key, timeout_s = WorkloadSpec.of(work).key, work.evaluator.timeout_s
        header = {"op": "load", "workload": key, "timeout_s": timeout_s}
        try:
            answer = self._ask(header, artifact, timeout_s)
        except (HelperDiedError, HelperTimeoutError) as error:
            return Loaded(0, Outcome(MeasurementStatus.CRASHED, _died(error)))
        if answer.get("unknown_workload"):
            self._prepared.discard(key)
            return None
        status, load_s = MeasurementStatus[answer["status"]], answer["busy_s"]
        outcome = Outcome(status, answer["error"], busy_s=load_s, parts=Parts(load_s))
        child = int(answer["pid"])
        if status is not MeasurementStatus.OK:
            self._children.discard(child)
            child = 0
        return Loaded(child, outcome)

    def check(self, child: int, timeout_s: float) -> Outcome:
        """Run a loaded candidate and compare its outputs; raises ChildLostError.

        ``repeats_s`` has one run, the faster of two if there was time for them. If the
        outcome is not OK, the child has ended.
        """
        answer = self._ask_child("check", child, timeout_s)
        return Outcome(
            MeasurementStatus[answer["status"]],
            answer["error"],
            (answer["run_s"],) if "run_s" in answer else (),
            answer.get("max_abs_error", 0.0),
            answer.get("busy_s", 0.0),
            answer.get("threads", 0),
            Parts(check_s=answer.get("busy_s", 0.0)),
        )

    def sample(self, child: int, plan: Plan, timeout_s: float) -> Outcome:
        """Time a candidate that was right, by a plan; raises ChildLostError.

        ``repeats_s`` are seconds per run. If the outcome is not OK, the child has ended.
        """
        answer = self._ask_child("sample", child, timeout_s, {"plan": dataclasses.asdict(plan)})
        return Outcome(
            MeasurementStatus[answer["status"]],
            answer["error"],
            tuple(answer.get("repeats_s", ())),
            busy_s=answer.get("busy_s", 0.0),
        )

    def _ask_child(
        self, op: str, child: int, timeout_s: float, more: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        if child not in self._children:
            raise ChildLostError
        header = {"op": op, "child": child, "timeout_s": timeout_s, **(more or {})}
        try:
            answer = self._ask(header, b"", timeout_s)
        except (HelperDiedError, HelperTimeoutError) as error:
            return {"status": MeasurementStatus.CRASHED.name, "error": _died(error)}
        if answer["status"] != MeasurementStatus.OK.name:
            self._children.discard(child)
        return answer

    def end(self, child: int) -> None:
        """End the process of a loaded candidate, if there is one."""
        if child in self._children:
            self._children.discard(child)
            with contextlib.suppress(HelperDiedError, HelperTimeoutError, LeaseFailedError):
                self._ask({"op": "end", "child": child}, b"", ANSWER_GRACE_S)

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
                self._children.add(int(frame.header["child"]))
        except (HelperDiedError, HelperTimeoutError):
            self._discard(zygote)
            raise
        except FrameError as error:
            self._discard(zygote)
            raise HelperDiedError(f"it answered what is no answer: {error}") from error

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
                [
                    *("--cpus", cpus, "--threads", str(threads)),
                    *("--scratch", str(self._scratch), "--parent", str(os.getpid())),
                ],
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
        scratch = self._scratch
        zygote.close()
        while self._children:  # a zygote that was killed could not see to it
            containment.kill_group(self._children.pop())
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def _died(error: Exception) -> str:
    return f"the agent's kernel process ended while it ran this: {error}"
