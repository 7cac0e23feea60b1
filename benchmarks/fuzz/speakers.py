"""Everybody who talks to the coordinator, on all its ports."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from benchmarks.fuzz.ledger import Ledger
from benchmarks.fuzz.processes import Ports, run
from benchmarks.fuzz.samples import (
    NO_DEVICE_TARGET,
    Call,
    Pool,
    agents_messages,
    enrolment_call,
    fake_device,
    farm_calls,
    renewal_call,
)
from benchmarks.fuzz.to_coordinator import Clients, FakeAgents, Quota
from coordinator.client import FarmClient
from protos import errors, farm_pb2
from protos.certificates import load_credentials
from protos.enrolment import enrol, parse_token
from protos.records import JobSpec, sha256_hex
from protos.rpc import COORDINATOR_NAME

FAKE_AGENTS, CLIENTS, ENROLLING = 12, 6, 2

SHARES = {"agents": 0.5, "clients": 0.3, "enrolling": 0.05, "coordinator": 0.15}
"""Of all messages, by who says them."""

_MODELS = ("SubmitJob", "PredictModel")
_MODEL_WEIGHT = 0.1
"""How often a model comes, relative to other calls: each is parsed, and many are kept."""


@dataclass(frozen=True)
class Plan:
    """How much is sent, of which seed, beside a job of so many trials, to so many agents."""

    messages: int
    seed: int
    trials: int
    agents: int

    @property
    def hypothetical(self) -> int:
        """How many messages Hypothesis makes of each kind; each is said several times."""
        return max(12, min(200, self.messages // 300))

    def quota(self, who: str, share: float) -> Quota:
        """A part of the messages of one kind of speaker."""
        return Quota(round(self.messages * SHARES[who] * share))


def fakes_target(target: str) -> str:
    """Another target than the real agent's, for which kernels are built all the same."""
    described = json.loads(target)
    return json.dumps({**described, "num-cores": 2}, sort_keys=True, separators=(",", ":"))


class Speakers:
    """Everybody who talks to the coordinator."""

    def __init__(
        self,
        plan: Plan,
        ledger: Ledger,
        ports: Ports,
        folder: Path,
        client: FarmClient,
        model: bytes,
        target: str,
    ) -> None:
        self._plan = plan
        self._ledger = ledger
        self._ports = ports
        self._folder = folder
        self._client = client
        self._model = model
        self._target = fakes_target(target)

    @contextlib.asynccontextmanager
    async def channels(self) -> Any:
        """Open channels to each port, and what is said there."""
        plan = self._plan
        token = run(
            *("ca", "token", "fuzzer", "--role", "viewer", "--ca", str(self._folder / "ca.pem")),
            *("--log", str(self._folder / "log.db")),
        )
        path = self._folder / "fuzzer.pem"
        enrol(self._ports.enrolment, parse_token(token), path)
        known = load_credentials(path)
        named = [
            ("grpc.ssl_target_name_override", COORDINATOR_NAME),
            ("grpc.default_authority", COORDINATOR_NAME),
        ]
        nobody = grpc.ssl_channel_credentials(known.authority)
        somebody = grpc.ssl_channel_credentials(known.authority, known.key, known.certificate)
        device = fake_device("fake-0", self._target)
        pool = Pool(agents_messages(device, "no-lease"), plan.hypothetical, plan.seed)
        async with (
            grpc.aio.insecure_channel(self._ports.plain) as plain,
            grpc.aio.secure_channel(self._ports.secure, somebody, named) as secure,
            grpc.aio.secure_channel(self._ports.enrolment, nobody, named) as enrolling,
        ):
            self._agents = FakeAgents(plain, self._target, self._ledger, pool, plan.seed)
            self._calls = [
                *self._weighted(plain, farm_calls(self._a_job(), "fake-0", self._model)),
                *self._weighted(secure, [renewal_call()], 1.0),
            ]
            self._enrolments = self._weighted(enrolling, [enrolment_call()])
            yield self

    def _weighted(
        self, channel: Any, calls: list[Call], weight: float | None = None
    ) -> list[tuple[Any, Call, Pool, float]]:
        count = max(self._plan.hypothetical // 4, 8)
        return [
            (
                channel,
                call,
                Pool(call.valid, count, self._plan.seed),
                weight or (_MODEL_WEIGHT if call.method.endswith(_MODELS) else 1.0),
            )
            for call in calls
        ]

    def _a_job(self) -> str:
        """One that waits for a device that never comes."""
        spec = JobSpec("waiting", sha256_hex(self._model), NO_DEVICE_TARGET, 4)
        job = self._client.submit(spec, self._model)
        self._client.cancel(job.job_id)
        return job.job_id

    async def first_lease(self) -> None:
        """Return when fake agents are given work."""
        await self._agents.first_lease()

    async def witness(self, stop: asyncio.Event) -> None:
        """Watch that a session is not disturbed, until it is told to stop."""
        await self._agents.witness(stop)

    async def say(self, share: float) -> None:
        """This share of all messages."""
        plan = self._plan
        agents, clients, enrolling = (
            plan.quota(who, share) for who in ("agents", "clients", "enrolling")
        )
        clients_of = Clients(self._ledger, plan.seed)
        await asyncio.gather(
            *(self._agents.run(number, agents) for number in range(FAKE_AGENTS)),
            *(
                clients_of.run(number, self._calls, clients, self._accepted)
                for number in range(CLIENTS)
            ),
            *(
                clients_of.run(CLIENTS + number, self._enrolments, enrolling, self._accepted)
                for number in range(ENROLLING)
            ),
        )

    async def _accepted(self, method: str, answer: bytes) -> None:
        """A job that was let in is not wanted."""
        if method == "SubmitJob":
            job_id = farm_pb2.Job.FromString(answer).job_id
            with contextlib.suppress(errors.Conflict):
                await asyncio.to_thread(self._client.cancel, job_id)
