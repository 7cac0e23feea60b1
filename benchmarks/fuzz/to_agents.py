"""A fake coordinator, which says to running agents what no real one says.

A fake, because no real one lies. Bytes go as they are over real gRPC.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc

from benchmarks.fuzz.ledger import ENDED, SENT, TAKEN, Ledger
from benchmarks.fuzz.mutations import mutated
from benchmarks.fuzz.samples import ARGS, ARTIFACT, LARGE, Pool
from benchmarks.fuzz.to_coordinator import HYPOTHETICAL, SESSION, Quota
from protos import convert, farm_pb2
from protos.records import (
    CHUNK_BYTES,
    Acknowledgement,
    EvaluatorConfig,
    KernelWork,
    Lease,
    LeaseFinished,
    Measurement,
    ModelMeasurement,
    Registered,
)

FETCH = "/tunefarm.v1.AgentGateway/FetchArtifact"
HEARTBEAT_S = 2.0
ANSWERS_WITHIN_S = 60.0


@dataclass
class _Conversation:
    """One session of an agent: what it has said of the leases that ask whether it is there."""

    context: Any
    finished: asyncio.Queue[str] = field(default_factory=asyncio.Queue)

    async def say(self, record: object) -> None:
        await self.context.write(convert.to_gateway_message(record).SerializeToString())

    async def listen(self) -> None:
        """Take what the agent says, and acknowledge its results."""
        while (data := await self.context.read()) is not grpc.aio.EOF:
            said = convert.from_agent_message(farm_pb2.AgentMessage.FromString(data))
            if isinstance(said, Measurement):
                await self.say(Acknowledgement(said.lease_id, said.candidate_key))
            elif isinstance(said, ModelMeasurement):
                await self.say(Acknowledgement(said.lease_id))
            elif isinstance(said, LeaseFinished):
                self.finished.put_nowait(said.lease_id)


class FakeCoordinator(grpc.GenericRpcHandler):
    """Serves agents, each of them with mutated messages, until the quota is used up."""

    def __init__(self, ledger: Ledger, pool: Pool, quota: Quota, seed: int) -> None:
        self._ledger = ledger
        self._pool = pool
        self._quota = quota
        self._rng = random.Random(f"{seed} coordinator")
        self._probes = 0
        self._well: asyncio.Queue[str] = asyncio.Queue()
        self._again = asyncio.Event()

    async def all_well(self, agents: int) -> None:
        """Return when the quota is used up and so many agents still answer."""
        names: set[str] = set()
        while len(names) < agents:
            names.add(await self._well.get())

    def go_on(self, quota: Quota) -> None:
        """With more messages."""
        self._quota = quota
        waiting, self._again = self._again, asyncio.Event()
        waiting.set()

    def service(self, handler_call_details: Any) -> Any:
        """Raw bytes in and out."""
        if handler_call_details.method == SESSION:
            return grpc.stream_stream_rpc_method_handler(self._session)
        if handler_call_details.method == FETCH:
            return grpc.unary_stream_rpc_method_handler(self._fetch)
        return None

    async def _session(self, _requests: AsyncIterator[bytes], context: Any) -> None:
        first = convert.from_agent_message(farm_pb2.AgentMessage.FromString(await context.read()))
        conversation = _Conversation(context)
        listener: asyncio.Task[None] | None = None
        try:
            if self._rng.random() < 0.1 and self._quota.take():
                valid = convert.to_gateway_message(Registered("a session", HEARTBEAT_S))
                listener = asyncio.create_task(conversation.listen())
                data = mutated(self._rng, valid.SerializeToString())
                await self._tried("first message to an agent", conversation, data, listener)
                return
            await conversation.say(Registered("a session", HEARTBEAT_S))
            listener = asyncio.create_task(conversation.listen())
            while not listener.done():
                while self._quota.take():
                    if not await self._tried(
                        "Session of an agent", conversation, self._mutated(), listener
                    ):
                        return
                again = asyncio.create_task(self._again.wait())
                if await self._answers(conversation, listener):
                    self._well.put_nowait(first.device.name)
                    await asyncio.wait({again, listener}, return_when=asyncio.FIRST_COMPLETED)
                again.cancel()
        finally:
            if listener is not None:
                listener.cancel()
                await asyncio.gather(listener, return_exceptions=True)

    def _mutated(self) -> bytes:
        if self._rng.random() < HYPOTHETICAL:
            return self._rng.choice(self._pool.generated)
        return mutated(self._rng, self._rng.choice(self._pool.valid))

    async def _tried(
        self, kind: str, conversation: _Conversation, data: bytes, listener: asyncio.Task[None]
    ) -> bool:
        """Say it; whether the session goes on."""
        goes_on = False
        answer = ENDED
        try:
            await conversation.context.write(data)
            goes_on = await self._answers(conversation, listener)
            answer = TAKEN if goes_on else ENDED
        except TimeoutError:
            answer = "NO_ANSWER"
        finally:  # a call that the agent cancels ends this task
            self._ledger.note(kind, answer)
        return goes_on

    async def _answers(self, conversation: _Conversation, listener: asyncio.Task[None]) -> bool:
        """Whether the agent finishes a lease without trials; raises TimeoutError if it says
        nothing."""
        self._probes += 1
        probe = f"probe-{self._probes}"
        nothing = KernelWork("w" * 64, ARGS, 1, 7, ARTIFACT, EvaluatorConfig(), ())
        await conversation.say(Lease(probe, "j-probe", 60.0, kernel=nothing))
        async with asyncio.timeout(ANSWERS_WITHIN_S):
            while True:
                answer = asyncio.create_task(conversation.finished.get())
                try:
                    await asyncio.wait({answer, listener}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    answer.cancel()
                if not answer.done():
                    return False
                if answer.result() == probe:
                    return True

    async def _fetch(self, request: bytes, context: Any) -> None:
        """The bytes that were asked for, often others, or more than there should be."""
        asked = farm_pb2.FetchArtifactRequest.FromString(request)
        data = LARGE.data if asked.sha256 == LARGE.sha256 else ARTIFACT.data
        for start in range(0, len(data), CHUNK_BYTES // 8):
            piece = farm_pb2.Chunk(data=data[start : start + CHUNK_BYTES // 8]).SerializeToString()
            if self._rng.random() < 0.5 and self._quota.take():
                piece = mutated(self._rng, piece)
                self._ledger.note("Chunk to an agent", SENT)
            await context.write(piece)


@contextlib.asynccontextmanager
async def listening(fake: FakeCoordinator) -> AsyncIterator[str]:
    """The fake coordinator's address, while it listens."""
    server = grpc.aio.server(handlers=[fake])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(grace=0.2)
