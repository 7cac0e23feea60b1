"""Fake agents and clients, which say to a running coordinator what no real one says.

Fakes, because no real one lies. Bytes go as they are over real gRPC, so that what is no message
arrives, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

from benchmarks.fuzz.ledger import CLOSED, TAKEN, Ledger
from benchmarks.fuzz.mutations import mutated
from benchmarks.fuzz.samples import (
    Call,
    Pool,
    agents_messages,
    fake_device,
    measurement,
)
from coordinator.fleet.fleet import HEALTH_CHECK
from protos import convert, farm_pb2
from protos.records import (
    PROTOCOL_VERSION,
    Acknowledgement,
    CancelLease,
    Device,
    Heartbeat,
    Lease,
    LeaseFinished,
    Measurement,
    MeasurementStatus,
    Registered,
    Registration,
    Telemetry,
)

SESSION = "/tunefarm.v1.AgentGateway/Session"
DEADLINE_S = 60.0
MESSAGES_A_SESSION = 30
FIRST_LEASE_WITHIN_S = 120.0
MAX_REFUSED = 200
"""Registrations in a row that should have been taken, each a twentieth of a second."""

_LEAST_WAIT_S = 0.05

_OURS = "Internal error from Core"
"""What grpc.aio says on this side, in place of the status that arrived, where a stream ended while
something was written to it."""

HONEST, REPLAYED, HYPOTHETICAL = 0.6, 0.3, 0.35
"""Shares: of leases that are answered as they should be before anything else is said of them, of
their answers that are said twice, and of mutated messages that Hypothesis made."""


class Quota:
    """So many messages are still to be sent, by all who share it."""

    def __init__(self, messages: int) -> None:
        self.left = messages

    def take(self) -> bool:
        """Whether there is one more."""
        self.left -= 1
        return self.left >= 0


@dataclass
class _Session:
    """A fake agent's stream; ``leases`` are those that it holds."""

    call: Any
    device: Device
    leases: dict[str, Lease] = field(default_factory=dict)
    ended: str | None = None
    details: str = ""

    async def write(self, data: bytes) -> None:
        """Send bytes; that the stream has ended is seen by who reads."""
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self.call.write(data)

    async def say(self, record: object) -> None:
        await self.write(convert.to_agent_message(record).SerializeToString())

    async def read(self) -> object | None:
        """The coordinator's next word; None at the end, whose status is ``ended``."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                data = await self.call.read()
                if data is grpc.aio.EOF:
                    self.ended, self.details = (await self.call.code()).name, ""
                    self.details = await self.call.details() or ""
                    if self.details == _OURS:
                        self.ended = CLOSED
                    return None
        except grpc.aio.AioRpcError as error:
            self.ended, self.details = error.code().name, error.details() or ""
            if self.details == _OURS:
                self.ended = CLOSED
            return None
        except TimeoutError:
            self.ended, self.details = "NO_ANSWER", "nothing came"
            self.call.cancel()
            return None
        said: object = convert.from_gateway_message(farm_pb2.GatewayMessage.FromString(data))
        return said


class FakeAgents:
    """Agents of one kind. Their sessions are well-behaved but for the mutated messages in them."""

    def __init__(self, channel: Any, target: str, ledger: Ledger, pool: Pool, seed: int) -> None:
        self._open: Callable[[], Any] = channel.stream_stream(SESSION)
        self._target = target
        self._ledger = ledger
        self._pool = pool
        self._seed = seed
        self._probes = 0

    async def run(self, number: int, quota: Quota) -> None:
        """One agent, session after session, until the quota is used up."""
        rng = random.Random(f"{self._seed} agent {number}")
        device = fake_device(f"fake-{number}", self._target)
        refused = 0
        while quota.left > 0:
            if refused > MAX_REFUSED:
                self._ledger.violation(f"{device.name} is let in no more")
                return
            session = _Session(self._open(), device)
            try:
                if rng.random() < 0.1:
                    await self._register_badly(session, rng, quota)
                elif await self._register(session):
                    refused = 0
                    await self._talk(session, rng, quota)
                else:
                    refused += 1
            finally:
                await self._leave(session)

    async def first_lease(self) -> None:
        """Be an agent that behaves until it was given work and has answered it; raises TimeoutError
        if there is none."""
        session = _Session(self._open(), fake_device("first", self._target))
        if not await self._register(session):
            raise RuntimeError(f"a fake agent is refused: {session.details}")
        async with asyncio.timeout(FIRST_LEASE_WITHIN_S):
            while not session.leases:
                await asyncio.sleep(0.2)
                await self._settled(session)
        for lease in list(session.leases.values()):
            await self._answer(session, lease, random.Random(0))
        await self._settled(session)
        await self._leave(session)

    async def witness(self, stop: asyncio.Event) -> None:
        """A well-behaved session beside all others: it must not be disturbed."""
        session = _Session(self._open(), fake_device("witness", '{"kind":"llvm","num-cores":62}'))
        if not await self._register(session):
            self._ledger.violation(f"the witness could not join: {session.details}")
            return
        while not stop.is_set():
            await session.say(Heartbeat(Telemetry()))
            if not await self._settled(session):
                why = f"{session.ended}: {session.details}"
                self._ledger.violation(f"the witness's stream ended: {why}")
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 1.0)
        await self._leave(session)

    @staticmethod
    async def _register(session: _Session) -> bool:
        await session.say(Registration(PROTOCOL_VERSION, session.device))
        joined = isinstance(await session.read(), Registered)
        if not joined:
            await asyncio.sleep(_LEAST_WAIT_S)  # the session before is not over yet
        return joined

    async def _register_badly(self, session: _Session, rng: random.Random, quota: Quota) -> None:
        if not quota.take():
            return
        valid = convert.to_agent_message(Registration(PROTOCOL_VERSION, session.device))
        await session.write(mutated(rng, valid.SerializeToString()))
        joined = await session.read() is not None
        answer = TAKEN if joined else str(session.ended)
        self._ledger.note("first message", answer, session.details)

    async def _talk(self, session: _Session, rng: random.Random, quota: Quota) -> None:
        for _ in range(MESSAGES_A_SESSION):
            if not await self._settled(session):
                return
            for lease in list(session.leases.values()):
                if rng.random() < HONEST:
                    await self._answer(session, lease, rng)
            if not quota.take():
                return
            await session.write(self._mutated(session, rng))
            taken = await self._settled(session)
            self._ledger.note("Session", TAKEN if taken else str(session.ended), session.details)
            if not taken:
                return

    def _mutated(self, session: _Session, rng: random.Random) -> bytes:
        """Something wrong about a lease that it holds, or about none."""
        if rng.random() < HYPOTHETICAL:
            return rng.choice(self._pool.generated)
        if not session.leases or rng.random() < 0.3:
            return mutated(rng, rng.choice(self._pool.valid))
        lease = rng.choice(list(session.leases.values()))
        said = agents_messages(session.device, lease.lease_id)
        if lease.kernel is not None and lease.kernel.trials:
            key, trial = lease.kernel.workload_key, rng.choice(lease.kernel.trials)
            about = measurement(session.device, lease.lease_id, key, trial)
            said += [convert.to_agent_message(about)] * 6
        return mutated(rng, rng.choice(said).SerializeToString())

    async def _answer(self, session: _Session, lease: Lease, rng: random.Random) -> None:
        """As a real agent does; some of it twice, or after the lease was called finished."""
        del session.leases[lease.lease_id]
        said: list[Measurement | LeaseFinished] = []
        if lease.kernel is not None:
            key = lease.kernel.workload_key
            for trial in lease.kernel.trials:
                said.append(measurement(session.device, lease.lease_id, key, trial))
        said.append(LeaseFinished(lease.lease_id, "", 1.0))
        if rng.random() < REPLAYED:
            said += rng.sample(said, rng.randint(1, len(said)))
        for record in said:
            await session.say(record)

    async def _settled(self, session: _Session) -> bool:
        """Whether the stream goes on after all that was sent; takes in what came back.

        Asked by an answer to a lease that nobody has, which is called off.
        """
        self._probes += 1
        probe = f"probe-{self._probes}"
        await session.say(farm_probe(probe))
        while (said := await session.read()) is not None:
            if isinstance(said, CancelLease) and said.lease_id == probe:
                return True
            if isinstance(said, CancelLease):
                session.leases.pop(said.lease_id, None)
            elif isinstance(said, Lease):
                session.leases[said.lease_id] = said
                self._given(said)
            elif isinstance(said, Acknowledgement):
                self._acknowledged(said)
        return False

    def _given(self, lease: Lease) -> None:
        if lease.kernel is not None and lease.job_id != HEALTH_CHECK:
            self._ledger.given |= {(lease.lease_id, t.candidate_key) for t in lease.kernel.trials}

    def _acknowledged(self, said: Acknowledgement) -> None:
        self._ledger.acknowledged.add((said.lease_id, said.candidate_key))

    @staticmethod
    async def _leave(session: _Session) -> None:
        """Close the stream and wait until the coordinator has seen that."""
        if session.ended is None:
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await session.call.done_writing()
            while await session.read() is not None:
                pass


def farm_probe(lease_id: str) -> Measurement:
    """The answer to a lease that nobody has."""
    return Measurement("w", "c", MeasurementStatus.CRASHED, lease_id)


class Clients:
    """Who calls methods with mutated requests."""

    def __init__(self, ledger: Ledger, seed: int) -> None:
        self._ledger = ledger
        self._seed = seed

    async def run(
        self,
        number: int,
        calls: list[tuple[Any, Call, Pool, float]],
        quota: Quota,
        accepted: Callable[[str, bytes], Any],
    ) -> None:
        """One client, until the quota is used up.

        ``calls`` are channels with what is called there, what is mutated for it, and how often
        relative to the others; ``accepted`` is awaited with the method and what was answered.
        """
        rng = random.Random(f"{self._seed} client {number}")
        weights = [weight for _, _, _, weight in calls]
        while quota.take():
            channel, call, pool, _ = rng.choices(calls, weights)[0]
            name = call.method.rpartition("/")[2]
            code, details, answer = await _called(channel, call, _requests(call, pool, rng))
            self._ledger.note(name, code, details)
            if code == TAKEN and answer is not None:
                await accepted(name, answer)


def _requests(call: Call, pool: Pool, rng: random.Random) -> list[bytes]:
    """What is sent: one message, or a stream of which one message is wrong, missing or too much."""
    if not call.streams:
        hypothetical = rng.random() < HYPOTHETICAL
        return [
            rng.choice(pool.generated) if hypothetical else mutated(rng, rng.choice(pool.valid))
        ]
    said = list(pool.valid)
    at = rng.randrange(len(said))
    kind = rng.random()
    if kind < HYPOTHETICAL:
        said[at] = rng.choice(pool.generated)
    elif kind < 0.9:
        said[at] = mutated(rng, said[at])
    elif kind < 0.95:
        del said[at]
    else:
        said.insert(rng.randrange(len(said) + 1), said[at])
    return said


async def _called(channel: Any, call: Call, requests: list[bytes]) -> tuple[str, str, bytes | None]:
    """The status (or TAKEN), its details, and the last answer."""
    answer: bytes | None = None
    try:
        if call.streams:
            answer = await channel.stream_unary(call.method)(_each(requests), timeout=DEADLINE_S)
        elif call.answers:
            stream = channel.unary_stream(call.method)(requests[0], timeout=DEADLINE_S)
            answer = b"".join([piece async for piece in stream])
        else:
            answer = await channel.unary_unary(call.method)(requests[0], timeout=DEADLINE_S)
    except grpc.aio.AioRpcError as error:
        details = error.details() or ""
        return CLOSED if call.streams and details == _OURS else error.code().name, details, None
    return TAKEN, "", answer


async def _each(requests: list[bytes]) -> AsyncIterator[bytes]:
    for request in requests:
        yield request
