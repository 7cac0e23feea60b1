"""Build workers: warm, long-lived Ray actors with the compiler loaded.

No process is started, no linker run and no module imported for a candidate. A worker that crashes
or takes too long is replaced, and its candidate becomes a measurement with that status.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from coordinator.ray_runtime import Actor, ActorLost
from device_agent.build import BuildOutcome
from protos.records import Candidate, MeasurementStatus, Task

BUILD_TIMEOUT_S = 60.0
ATTEMPTS = 2
"""A worker that is lost once may have been killed by anything; twice, by the candidate."""
NICE = 15
"""Of a build worker: an agent on the same host loads candidates for the next turn meanwhile."""


class BuildWorker:
    """Lives in an actor. Everything that needs the compiler runs here."""

    def __init__(self) -> None:
        """Loads the compiler, so that the first build need not wait for it.

        An agent on this host that loads candidates meanwhile goes first: it is soon done.
        """
        from device_agent.build import tool_versions

        tool_versions()
        os.nice(NICE)

    def build(self, workload_json: str, trace_json: str, target_json: str) -> BuildOutcome:
        """One candidate to an object file."""
        from device_agent.build import build_kernel

        return build_kernel(workload_json, trace_json, target_json)

    def run(self, function: Any, *args: Any) -> Any:
        """Any other compiler work: importing, compiling and packaging models."""
        from protos import host_lock

        with host_lock.working():
            return function(*args)


@dataclass(frozen=True)
class BuildLoad:
    """How many workers there are and have work, and how many builds wait for one."""

    workers: int
    busy: int
    waiting: int


class Builders:
    """A pool of build workers."""

    def __init__(self, size: int, worker: type[BuildWorker] = BuildWorker) -> None:
        self._waiting = 0
        self._actors = [Actor(worker, f"builder-{i}") for i in range(size)]
        self._idle: asyncio.Queue[Actor[BuildWorker]] = asyncio.Queue()
        for actor in self._actors:
            self._idle.put_nowait(actor)

    def start(self) -> None:
        """Start the actors' processes."""
        for actor in self._actors:
            actor.start()

    @property
    def load(self) -> BuildLoad:
        """What they do now."""
        workers = len(self._actors)
        return BuildLoad(workers, workers - self._idle.qsize(), self._waiting)

    @asynccontextmanager
    async def _worker(self) -> AsyncIterator[Actor[BuildWorker]]:
        self._waiting += 1
        try:
            actor = await self._idle.get()
        finally:
            self._waiting -= 1
        try:
            yield actor
        finally:
            self._idle.put_nowait(actor)

    async def build(self, task: Task, candidate: Candidate, target_json: str) -> BuildOutcome:
        """Build a candidate; never raises for what the candidate did."""
        lost = ""
        for _ in range(ATTEMPTS):
            async with self._worker() as actor:
                try:
                    outcome: BuildOutcome = await actor.call(
                        "build",
                        task.workload_json,
                        candidate.trace_json,
                        target_json,
                        timeout_s=BUILD_TIMEOUT_S,
                    )
                except ActorLost as error:
                    lost = str(error)
                except TimeoutError:
                    return _failed(
                        MeasurementStatus.BUILD_TIMEOUT, f"not built after {BUILD_TIMEOUT_S:.0f} s"
                    )
                else:
                    return outcome
        return _failed(MeasurementStatus.BUILD_ERROR, f"the compiler crashed: {lost}")

    async def run(self, function: Any, *args: Any) -> Any:
        """Run a function of the compiler's side in a worker; raises what it raises."""
        async with self._worker() as actor:
            return await actor.call("run", function, *args)

    def stop(self) -> None:
        """Kill the actors."""
        for actor in self._actors:
            actor.stop()


def _failed(status: MeasurementStatus, error: str) -> BuildOutcome:
    return BuildOutcome(artifact=None, status=status, error=error, build_s=0.0, args=())
