"""The gRPC side of the fleet: one stream per agent, and the artifacts they fetch."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

from coordinator.fleet import registry
from coordinator.fleet.fleet import Fleet
from coordinator.security.guard import caller
from protos import convert, farm_pb2, farm_pb2_grpc
from protos.errors import Conflict, FarmError, ProtocolViolation
from protos.records import (
    CHUNK_BYTES,
    PROTOCOL_VERSION,
    Acknowledgement,
    Built,
    Goodbye,
    Heartbeat,
    Lease,
    LeaseFinished,
    Measurement,
    ModelMeasurement,
    Registered,
    Registration,
)
from protos.rpc import stream_aborts

log = logging.getLogger(__name__)

MAX_UNREAD = 4096
"""Messages that wait for an agent to read them; one that sends and does not read is thrown out."""


class Gateway(farm_pb2_grpc.AgentGatewayServicer):
    """Agents dial in here."""

    def __init__(self, fleet: Fleet, registered_within_s: float = registry.SILENCE_S) -> None:
        """Who has not registered within this time is hung up on."""
        self._fleet = fleet
        self.acknowledged = 0
        """Results that agents need not send again."""
        self._registered_within_s = registered_within_s

    @stream_aborts
    async def Session(  # noqa: N802 (the RPC's name)
        self, messages: AsyncIterator[farm_pb2.AgentMessage], context: Any
    ) -> AsyncIterator[farm_pb2.GatewayMessage]:
        """One agent, from its registration until it leaves."""
        try:
            async with asyncio.timeout(self._registered_within_s):
                said = await self._registration(messages)
        except TimeoutError:
            raise ProtocolViolation("nothing was heard: no registration has come") from None
        session = self._fleet.registry.join(
            said.device, caller(context), said.instance, said.restartable
        )
        session.outbox.put_nowait(Registered(session.session_id, registry.HEARTBEAT_S))
        log.info("device %s joined as %s", session.device.name, session.session_id)
        sender = asyncio.current_task()
        assert sender is not None
        reader = asyncio.create_task(self._read(session, messages, sender))
        try:
            await self._fleet.joined(session)
            while (message := await session.outbox.get()) is not None:
                if not await self._may_go(message):
                    continue
                self.acknowledged += isinstance(message, Acknowledgement)
                with self._sending(message):
                    yield convert.to_gateway_message(message)
            if reader.done() and (error := reader.exception()):
                raise error
        finally:
            reader.cancel()
            failure = _failure(reader)
            why = f"{type(failure).__name__}: {failure}" if failure else "the stream ended"
            if session.said_goodbye:
                why = "its agent was stopped"
            log.info("device %s left: %s", session.device.name, why)
            # A session that we ended, as it broke the contract or the log was away, took no device.
            ended_by_us = isinstance(failure, FarmError)
            await asyncio.shield(self._fleet.left(session, why, blameless=ended_by_us))

    async def _may_go(self, message: object) -> bool:
        """A lease of measurements goes when it is in the log, if it is waited for by then."""
        if not isinstance(message, Lease) or message.build is not None:
            return True
        return await self._fleet.keep(message.lease_id)

    @staticmethod
    async def _registration(messages: AsyncIterator[farm_pb2.AgentMessage]) -> Registration:
        async for message in messages:
            first = convert.from_agent_message(message)
            if not isinstance(first, Registration):
                raise ProtocolViolation("the first message must be a registration")
            if first.protocol_version != PROTOCOL_VERSION:
                raise Conflict(
                    f"the agent speaks protocol version {first.protocol_version}, this coordinator "
                    f"{PROTOCOL_VERSION}; install the same version of tunefarm on both"
                )
            if not first.device.name or not first.device.target_json:
                raise ProtocolViolation("a device needs a name and a target")
            return first
        raise ProtocolViolation("the stream ended before a registration")

    async def _read(
        self,
        session: registry.Session,
        messages: AsyncIterator[farm_pb2.AgentMessage],
        sender: asyncio.Task[Any],
    ) -> None:
        """Take what the agent sends; always ends the outbox so that the stream ends too."""
        try:
            async for envelope in messages:
                session.heard()
                if session.outbox.qsize() > MAX_UNREAD:
                    log.warning("device %s does not read what it is sent", session.device.name)
                    sender.cancel()  # it waits for the agent to read, and would wait for ever
                    return
                await self._take(session, convert.from_agent_message(envelope))
        finally:
            session.outbox.put_nowait(None)

    async def _take(self, session: registry.Session, message: Any) -> None:
        if isinstance(message, Measurement):
            await self._fleet.received(session, [message])
        elif isinstance(message, ModelMeasurement):
            await self._fleet.received_model(session, message)
        elif isinstance(message, Built):
            self._fleet.own_builds.received(session, message)
        elif isinstance(message, LeaseFinished):
            await self._fleet.finished(session, message)
        elif isinstance(message, Goodbye):
            session.said_goodbye = True
        elif isinstance(message, Heartbeat):
            self._fleet.registry.beat(session)
        else:
            raise ProtocolViolation(f"a second {type(message).__name__} in one session")

    @stream_aborts
    async def FetchArtifact(  # noqa: N802
        self, request: farm_pb2.FetchArtifactRequest, context: Any
    ) -> AsyncIterator[farm_pb2.Chunk]:
        """The bytes of an artifact that a lease names."""
        who = caller(context)
        held, artifact = self._fleet.queue.leases.naming(request.sha256, who.name if who else None)
        with held.sending():
            for start in range(0, artifact.size_bytes, CHUNK_BYTES):
                yield farm_pb2.Chunk(data=artifact.data[start : start + CHUNK_BYTES])

    def _sending(self, message: object) -> contextlib.AbstractContextManager[None]:
        """Around the turn of a message: gRPC comes back for the next when it has taken this one."""
        held = (
            self._fleet.queue.leases.held(message.lease_id) if isinstance(message, Lease) else None
        )
        return held.sending() if held else contextlib.nullcontext()


def _failure(task: asyncio.Task[None]) -> BaseException | None:
    return task.exception() if task.done() and not task.cancelled() else None
