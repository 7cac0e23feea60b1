"""A real fleet for tests: gRPC on a loopback port, a SQLite log, agents as their own processes."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc

from coordinator.client import FarmClient
from coordinator.fleet.fleet import Fleet
from coordinator.fleet.gateway import Gateway
from coordinator.security.wellformed import WellFormed
from coordinator.tuning_log import TuningLog
from coordinator.tuning_log.database import Observer
from protos import farm_pb2_grpc
from protos.records import Job, JobSpec, Task, TensorSpec
from protos.rpc import SERVER_OPTIONS

PATIENCE_S = 200.0
"""No test waits longer for anything."""


class RealFleet:
    """A fleet whose gateway listens; use ``async with``."""

    def __init__(self, log_path: Path, observer: Observer | None = None) -> None:
        self.log = TuningLog.open(str(log_path), observer)
        self.fleet = Fleet(self.log)
        self.gateway = Gateway(self.fleet)
        self.port = 0
        self._server: Any = None
        self._reaper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> RealFleet:
        self._server = grpc.aio.server(interceptors=[WellFormed()], options=list(SERVER_OPTIONS))
        farm_pb2_grpc.add_AgentGatewayServicer_to_server(self.gateway, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        self._reaper = asyncio.create_task(self.fleet.reap())
        return self

    async def __aexit__(self, *exception: object) -> None:
        assert self._reaper is not None
        self._reaper.cancel()
        await asyncio.gather(self._reaper, return_exceptions=True)
        await self._server.stop(grace=0.2)
        self.log.close()

    def job_with(self, workload_key: str, args: tuple[TensorSpec, ...]) -> str:
        """A job in the log with one task, so that measurements have somewhere to belong."""
        spec = JobSpec("a model", "0" * 64, "{}", trials=100)
        job = self.log.add_job(spec, "test", embedded=True)
        self.log.set_tasks(job.job_id, [Task("a task", workload_key, "{}", 1, args, 1, 1.0)])
        return job.job_id

    async def devices(self, target_json: str, count: int) -> None:
        """Return when this many devices with this target are connected."""
        while len(self.fleet.registry.devices_for(target_json)) != count:
            await asyncio.wait_for(self.fleet.registry.wait_for_change(), PATIENCE_S)


def start_agent(
    port: int,
    name: str,
    target_json: str,
    cpus: str | None = None,
    replay: str | None = None,
    labels: Sequence[str] = (),
    build: int = 0,
) -> subprocess.Popen[bytes]:
    """`tunefarm agent` as a user starts it."""
    command = [
        *(sys.executable, "-m", "coordinator.cli.main", "agent"),
        *("--coordinator", f"127.0.0.1:{port}", "--name", name, "--target", target_json),
        *(("--cpus", cpus) if cpus else ()),
        *(("--replay", replay) if replay else ()),
        *(("--build", str(build)) if build else ()),
        *(part for label in labels for part in ("--label", label)),
    ]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL)


@contextlib.contextmanager
def agent(
    port: int,
    name: str,
    target_json: str,
    cpus: str | None = None,
    replay: str | None = None,
    labels: Sequence[str] = (),
    build: int = 0,
) -> Iterator[subprocess.Popen[bytes]]:
    """An agent that is stopped at the end, unless the test has killed it."""
    process = start_agent(port, name, target_json, cpus, replay, labels, build)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


@contextlib.contextmanager
def served(folder: Path, *options: str) -> Iterator[int]:
    """`tunefarm serve` as a user starts it, with its log in this folder; its port on loopback."""
    said = folder / "serve.err"
    command = [sys.executable, "-m", "coordinator.cli.main", "serve", "--listen", "127.0.0.1:0"]
    with said.open("w") as file:
        process = subprocess.Popen(
            [*command, "--log", str(folder / "log.db"), *options], stderr=file
        )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while (found := re.search(r"on 127.0.0.1:(\d+)", said.read_text())) is None:
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield int(found[1])
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def until(farm: FarmClient, job: Job, condition: Callable[[Job], bool]) -> Job:
    """The job as soon as the condition holds; that it ends, or takes too long, is a failure."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition(now := farm.job(job.job_id)):
        assert not now.state.ended, now.error or now
        assert time.monotonic() < deadline, now.stage or now
        time.sleep(0.1)
    return now


@contextlib.asynccontextmanager
async def real_fleet(directory: Path, observer: Observer | None = None) -> AsyncIterator[RealFleet]:
    """A fleet on a new log in this directory."""
    async with RealFleet(directory / "log.db", observer) as fleet:
        yield fleet
