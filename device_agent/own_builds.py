"""Leases of builds: an agent with the compiler builds what it is going to measure.

Each of its build processes stays warm. What becomes of a candidate is what becomes of it in the
coordinator's builders (``coordinator.fleet.builders``): one that takes too long is BUILD_TIMEOUT,
one that takes down the compiler twice is BUILD_ERROR.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from device_agent.artifacts import ArtifactCache
from device_agent.frames import Frame, FrameError
from device_agent.helper_process import (
    HelperDiedError,
    HelperProcess,
    HelperTimeoutError,
    environment,
)
from protos import errors
from protos.bounds import MAX_PIECE_BYTES
from protos.records import (
    Artifact,
    Build,
    BuildWork,
    Built,
    Device,
    Lease,
    LeaseFinished,
    MeasurementStatus,
)

log = logging.getLogger(__name__)

START_TIMEOUT_S = 120.0
ATTEMPTS = 2
"""A process that is lost once may have been killed by anything; twice, by the candidate."""

JOIN_TIMEOUT_S = 1.0

MAX_WAITING = 4096
"""Candidates that wait here; a coordinator gives an agent two batches."""

Report = Callable[[Built | LeaseFinished], None]


_PRINT_VERSIONS = """
import json
from device_agent.build import tool_versions
print(json.dumps(tool_versions()))
"""


def compiler_versions() -> dict[str, str]:
    """The versions of the compiler that this machine has; raises BadRequest if it has none.

    Asked for in a process of its own: an agent that has loaded a compiler takes 200 MB more.
    """
    asked = subprocess.run(
        [sys.executable, "-c", _PRINT_VERSIONS],
        env=environment(1),
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode:
        why = asked.stderr.strip().splitlines()[-1:] or [f"exit code {asked.returncode}"]
        raise errors.BadRequest(
            f"this agent can't build: {why[0]}; install tunefarm[agent,compiler] here, or start it "
            "without --build"
        )
    versions: dict[str, str] = json.loads(asked.stdout.splitlines()[-1])
    return versions


@dataclass
class _Held:
    """A lease that has arrived; ``left`` counts its builds that are not done."""

    lease: Lease
    work: BuildWork
    left: int
    expires: float
    dropped: threading.Event = field(default_factory=threading.Event)
    error: str = ""


class OwnBuilds:
    """Builds in so many processes at a time. ``report`` is called from their threads."""

    def __init__(
        self, device: Device, artifacts: ArtifactCache, report: Report, processes: int
    ) -> None:
        self._device = device
        self._artifacts = artifacts
        self._report = report
        self._queue: queue.SimpleQueue[tuple[_Held, Build] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}
        self._closed = threading.Event()
        self._builders: set[HelperProcess] = set()
        self._threads = [
            threading.Thread(target=self._work, name=f"builds {index}", daemon=True)
            for index in range(processes)
        ]

    def start(self) -> None:
        """Start the processes, and begin to build."""
        for thread in self._threads:
            thread.start()

    def submit(self, lease: Lease) -> None:
        """Queue a lease's builds. Raises ProtocolViolation for more than can wait."""
        work = lease.build
        assert work is not None
        expires = time.monotonic() + lease.expires_s
        held = _Held(lease, work, len(work.builds), expires)
        with self._lock:
            waiting = sum(other.left for other in self._held.values())
            if lease.lease_id in self._held or waiting + held.left > MAX_WAITING:
                raise errors.ProtocolViolation(
                    f"lease {lease.lease_id} came twice, or {waiting} builds wait already"
                )
            if not held.left:
                raise errors.ProtocolViolation(f"lease {lease.lease_id} has nothing to build")
            self._held[lease.lease_id] = held
        for build in work.builds:
            self._queue.put((held, build))

    def cancel(self, lease_id: str) -> None:
        """Drop the builds of a lease that have not begun; unknown names are ignored."""
        with self._lock:
            held = self._held.get(lease_id)
        if held is not None:
            held.dropped.set()

    def drop_all(self) -> None:
        """Cancel every lease: their session is over."""
        with self._lock:
            for held in self._held.values():
                held.dropped.set()
            self._held.clear()

    def close(self) -> None:
        """Kill what runs and end the threads, within about two seconds."""
        self._closed.set()
        self.drop_all()
        for _ in self._threads:
            self._queue.put(None)
        with self._lock:
            running = list(self._builders)
        for process in running:
            process.close(grace_s=0.0)
        for thread in self._threads:
            if thread.is_alive():
                thread.join(JOIN_TIMEOUT_S)

    def _work(self) -> None:
        process: HelperProcess | None = None
        try:
            process = self._warm()
            while (job := self._queue.get()) is not None and not self._closed.is_set():
                process = self._do(process, *job)
        finally:
            self._end(process)

    def _warm(self) -> HelperProcess | None:
        """A process before the first candidate waits for it; None, said, if it does not start."""
        try:
            return self._start()
        except _NotBuiltHereError as error:
            log.warning("device %s: %s", self._device.name, error)
            return None

    def _do(self, process: HelperProcess | None, held: _Held, build: Build) -> HelperProcess | None:
        """Build one candidate and say what became of it; returns the process to go on with."""
        if not held.dropped.is_set() and time.monotonic() < held.expires:
            try:
                process = process or self._start()
                process, built = self._build(process, held, build)
                if not self._closed.is_set() and not held.dropped.is_set():
                    self._say(built)
            except _NotBuiltHereError as error:
                held.error = str(error)
            except Exception as failure:
                # A defect of ours must not end the thread: the coordinator builds it instead.
                log.exception("lease %s of job %s", held.lease.lease_id, held.lease.job_id)
                held.error = f"a defect of the agent: {type(failure).__name__}: {failure}"
        self._done(held)
        # One that was ended, and whose successor did not start, is not asked again.
        with self._lock:
            return process if process in self._builders else None

    def _say(self, built: Built) -> None:
        if built.artifact is not None:
            self._artifacts.keep(built.artifact)
        self._report(built)

    def _done(self, held: _Held) -> None:
        with self._lock:
            held.left -= 1
            if held.left or self._held.pop(held.lease.lease_id, None) is None:
                return
        if held.error:
            log.warning("lease %s: %s", held.lease.lease_id, held.error)
        if not held.dropped.is_set():
            self._report(LeaseFinished(held.lease.lease_id, held.error))

    def _build(
        self, process: HelperProcess, held: _Held, build: Build
    ) -> tuple[HelperProcess | None, Built]:
        """What becomes of a candidate, and the process if it is still good. Raises
        _NotBuiltHereError."""
        work, lease_id, lost = held.work, held.lease.lease_id, ""
        request = [work.workload_json.encode(), build.trace_json.encode()]
        for attempt in range(ATTEMPTS):
            if attempt:
                process = self._start()
            try:
                process.send({}, request)
                return process, _built(lease_id, build, process.receive(work.timeout_s))
            except HelperTimeoutError:
                self._end(process)
                error = f"not built after {work.timeout_s:.0f} s"
                status = MeasurementStatus.BUILD_TIMEOUT
                return None, Built(lease_id, build.candidate_key, status, error)
            except (HelperDiedError, FrameError) as failure:
                self._end(process)
                lost = str(failure)
                if self._closed.is_set():
                    break
        error = f"the compiler crashed: {lost}"
        return None, Built(lease_id, build.candidate_key, MeasurementStatus.BUILD_ERROR, error)

    def _start(self) -> HelperProcess:
        cpus = ",".join(str(cpu) for cpu in self._device.cpus)
        with self._lock:
            if self._closed.is_set():
                raise _NotBuiltHereError("the agent is shutting down")
            process = HelperProcess(
                "device_agent.build_process",
                [
                    *("--target", self._device.target_json, "--cpus", cpus),
                    *("--parent", str(os.getpid())),
                ],
                self._device.num_threads,
            )
            self._builders.add(process)
        try:
            tools = process.receive(START_TIMEOUT_S).header.get("tools")
        except (HelperDiedError, HelperTimeoutError, FrameError) as error:
            self._end(process)
            raise _NotBuiltHereError(f"the build process does not start: {error}") from error
        if tools != self._device.builds_with:
            self._end(process)
            raise _NotBuiltHereError(
                f"the compiler is {tools} now, and was {self._device.builds_with} when the agent "
                "was started: start the agent again"
            )
        return process

    def _end(self, process: HelperProcess | None) -> None:
        if process is not None:
            process.close(grace_s=0.0)
            with self._lock:
                self._builders.discard(process)


class _NotBuiltHereError(Exception):
    """It is the coordinator's to build; the message says why."""


def _built(lease_id: str, build: Build, answer: Frame) -> Built:
    """The answer of a build process; raises FrameError if it is none, and _NotBuiltHereError."""
    if "refused" in answer.header:
        raise _NotBuiltHereError(str(answer.header["refused"]))
    try:
        status = MeasurementStatus[str(answer.header["status"])]
        error = str(answer.header["error"])
    except KeyError as missing:
        raise FrameError(f"an answer without {missing}") from missing
    if status is not MeasurementStatus.OK:
        return Built(lease_id, build.candidate_key, status, error)
    if len(answer.blobs) != 1:
        raise FrameError("an answer without its artifact")
    if len(answer.blobs[0]) > MAX_PIECE_BYTES:
        raise _NotBuiltHereError(
            f"{len(answer.blobs[0])} bytes of code are more than an agent may send"
        )
    return Built(lease_id, build.candidate_key, status, "", Artifact.of(answer.blobs[0]))
