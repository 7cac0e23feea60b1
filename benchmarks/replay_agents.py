"""Many replay devices in one process, each with a certificate and a stream of its own.

``python -m benchmarks.replay_agents PLAN ENROL_PORT PORT FIRST COUNT`` enrols them with the tokens
in its standard input (a line each), says "enrolled", dials in when it reads a line, says "joined"
when all of them are registered, and ends at the end of its input.

They are no ``tunefarm agent``: a thousand of those would need 80 GB. They speak its protocol with
grpc.aio and do nothing else: a device that holds a lease begins the next measurement when the one
before has ended, keeps its results until they are acknowledged, and sends them again when it dials
in anew. What it measured is drawn from the log (``benchmarks.fleet_plan``). Artifacts arrive with
the leases, and are dropped.

A measurement's end is the device's, not this process's: when the machine is too busy to wake a
device in time, its result is late, but its next measurement began on time if it had one to begin.
So what is counted as idle is what the device waited for the coordinator.

Each acknowledged result is a line in ``FIRST.results``: device, lease, candidate, and when its
measurement began and ended and when its acknowledgement was there, in seconds (CLOCK_MONOTONIC). At
the end those that were not acknowledged follow, with a dash.
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import grpc

from benchmarks.fleet_plan import Answer, Plan, device
from protos import certificates, convert, enrolment, farm_pb2
from protos.farm_pb2_grpc import AgentGatewayStub
from protos.records import (
    PROTOCOL_VERSION,
    Circumstances,
    EvaluatorConfig,
    Heartbeat,
    Measurement,
    MeasurementStatus,
    Registration,
    Telemetry,
)
from protos.rpc import CHANNEL_OPTIONS, COORDINATOR_NAME

TELEMETRY = Telemetry(51.0, 2596.096, "performance", 2.0)
AGAIN_S = 1.0
ENROLLING = 4
"""At a time."""


class ReplayAgent:
    """One device's presence in the farm."""

    def __init__(self, plan: Plan, number: int, address: str, results: IO[str]) -> None:
        self._device = device(number)
        self._address = address
        self._known = certificates.load_credentials(plan.credentials(number))
        self._answers = plan.drawn(number)
        self._instance = uuid.uuid4().hex[:16]
        self._results = results
        self._leases: asyncio.Queue[tuple[float, Any]] = asyncio.Queue()
        self._pending: dict[tuple[str, str], tuple[float, float, farm_pb2.AgentMessage]] = {}
        self._outgoing: asyncio.Queue[farm_pb2.AgentMessage] = asyncio.Queue()
        self._cancelled: set[str] = set()
        self._free_at = 0.0
        self._measuring: tuple[str, str, float, float] | None = None
        self._template = farm_pb2.AgentMessage()
        self.registered = asyncio.Event()
        self.sessions = 0

    async def run(self) -> None:
        """Be there until this is cancelled."""
        worker = asyncio.create_task(self._work())
        try:
            while True:
                try:
                    await self._attend()
                except grpc.aio.AioRpcError as error:
                    print(f"{self._device.name}: {error.details()}", file=sys.stderr, flush=True)
                await asyncio.sleep(AGAIN_S)
        finally:
            worker.cancel()
            self._unacknowledged()

    async def _attend(self) -> None:
        credentials = grpc.ssl_channel_credentials(
            self._known.authority, self._known.key, self._known.certificate
        )
        options = [
            *CHANNEL_OPTIONS,
            ("grpc.ssl_target_name_override", COORDINATOR_NAME),
            ("grpc.default_authority", COORDINATOR_NAME),
        ]
        self._outgoing = asyncio.Queue()
        async with grpc.aio.secure_channel(self._address, credentials, options) as channel:
            stub: Any = AgentGatewayStub(channel)  # type: ignore[no-untyped-call]
            call = stub.Session(self._messages())
            beating: asyncio.Task[None] | None = None
            try:
                async for message in call:
                    kind = message.WhichOneof("message")
                    if kind == "lease":
                        self._leases.put_nowait((time.monotonic(), LightLease(message.lease)))
                    elif kind == "acknowledgement":
                        self._acknowledged(message.acknowledgement)
                    elif kind == "cancel_lease":
                        self._cancelled.add(message.cancel_lease.lease_id)
                        self._drop(message.cancel_lease.lease_id)
                    elif kind == "registered":
                        self.sessions += 1
                        for _began, _ended, result in self._pending.values():
                            self._outgoing.put_nowait(result)
                        beating = asyncio.create_task(self._beat(message.registered.heartbeat_s))
                        self.registered.set()
            finally:
                if beating is not None:
                    beating.cancel()
                while not self._leases.empty():
                    self._leases.get_nowait()

    async def _messages(self) -> AsyncIterator[farm_pb2.AgentMessage]:
        outgoing = self._outgoing
        yield convert.to_agent_message(Registration(PROTOCOL_VERSION, self._device, self._instance))
        while True:
            yield await outgoing.get()

    async def _beat(self, heartbeat_s: float) -> None:
        beat = convert.to_agent_message(Heartbeat(TELEMETRY))
        while True:
            await asyncio.sleep(heartbeat_s)
            self._outgoing.put_nowait(beat)

    async def _work(self) -> None:
        while True:
            arrived, lease = await self._leases.get()
            self._free_at = max(self._free_at, arrived)
            for key, sha256 in lease.trials:
                if lease.lease_id in self._cancelled:
                    break
                answer = next(self._answers)
                began, ended = self._free_at, self._free_at + answer.busy_s
                self._measuring = lease.lease_id, key, began, ended
                await asyncio.sleep(ended - time.monotonic())
                self._measuring, self._free_at = None, ended
                message = self._measurement(lease, key, sha256, answer)
                self._pending[lease.lease_id, key] = began, ended, message
                self._outgoing.put_nowait(message)
            finished = farm_pb2.LeaseFinished(lease_id=lease.lease_id, canary_ratio=1.0)
            self._outgoing.put_nowait(farm_pb2.AgentMessage(lease_finished=finished))

    def _measurement(
        self, lease: LightLease, key: str, sha256: str, answer: Answer
    ) -> farm_pb2.AgentMessage:
        if not self._template.HasField("measurement"):
            self._template = convert.to_agent_message(
                Measurement(
                    *("", "", MeasurementStatus.OK),
                    circumstances=Circumstances(
                        *(self._device.name, self._device.tool_versions, EvaluatorConfig()),
                        *(self._device.num_threads, (), True, TELEMETRY, TELEMETRY),
                        canary_ratio=1.0,
                    ),
                )
            )
        made = farm_pb2.AgentMessage()
        made.CopyFrom(self._template)
        said = made.measurement
        said.lease_id, said.workload_key = lease.lease_id, lease.workload_key
        said.candidate_key, said.artifact_sha256 = key, sha256
        said.status = answer.status  # type: ignore[assignment]
        said.repeats_s.extend(answer.repeats_s)
        said.max_abs_error = answer.max_abs_error
        said.circumstances.evaluator.CopyFrom(lease.evaluator)
        for part in ("busy_s", "load_s", "check_s", "time_s"):
            setattr(said.circumstances, part, getattr(answer, part))
        return made

    def _acknowledged(self, said: farm_pb2.Acknowledgement) -> None:
        found = self._pending.pop((said.lease_id, said.candidate_key), None)
        if found is not None:
            began, ended, _message = found
            self._note(said.lease_id, said.candidate_key, began, ended, f"{time.monotonic():.6f}")

    def _drop(self, lease_id: str) -> None:
        """The coordinator has no use for what is left of a lease."""
        for key in [key for key in self._pending if key[0] == lease_id]:
            began, ended, _message = self._pending.pop(key)
            self._note(*key, began, ended, "-")

    def _unacknowledged(self) -> None:
        for key, (began, ended, _message) in self._pending.items():
            self._note(*key, began, ended, "-")
        if self._measuring is not None:
            self._note(*self._measuring, "-")

    def _note(self, lease_id: str, key: str, began: float, ended: float, at: str) -> None:
        words = (self._device.name, lease_id, key, f"{began:.6f}", f"{ended:.6f}", at)
        print(*words, file=self._results)


class LightLease:
    """A lease without its artifacts' bytes."""

    def __init__(self, lease: farm_pb2.Lease) -> None:
        self.lease_id = lease.lease_id
        self.workload_key = lease.kernel.workload_key
        self.evaluator = farm_pb2.EvaluatorConfig()
        self.evaluator.CopyFrom(lease.kernel.evaluator)
        self.trials = [(t.candidate_key, t.artifact.sha256) for t in lease.kernel.trials]


def enrol_all(plan: Plan, port: int, first: int, tokens: list[str]) -> None:
    """A certificate for each device, out of its token."""

    def enrol(item: tuple[int, str]) -> None:
        number, token = item
        path = plan.credentials(number)
        enrolment.enrol(f"127.0.0.1:{port}", enrolment.parse_token(token), path)

    with ThreadPoolExecutor(ENROLLING) as pool:
        list(pool.map(enrol, enumerate(tokens, first)))


async def attend(agents: list[ReplayAgent]) -> None:
    """All agents, until the end of the standard input."""
    tasks = [asyncio.create_task(agent.run()) for agent in agents]
    await asyncio.gather(*(agent.registered.wait() for agent in agents))
    print("joined", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ended, Exception):
            raise ended
    print(sum(agent.sessions for agent in agents), flush=True)


def main() -> None:
    """The process."""
    plan = Plan.load(Path(sys.argv[1]))
    enrol_port, port, first, count = map(int, sys.argv[2:])
    enrol_all(plan, enrol_port, first, [sys.stdin.readline().strip() for _ in range(count)])
    print("enrolled", flush=True)
    sys.stdin.readline()
    with (Path(plan.folder) / f"{first}.results").open("w") as results:
        address = f"127.0.0.1:{port}"
        agents = [ReplayAgent(plan, first + i, address, results) for i in range(count)]
        asyncio.run(attend(agents))


if __name__ == "__main__":
    main()
