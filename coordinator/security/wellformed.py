"""Behind the guard of every port: requests that can't be read, or are out of bounds, end their call
with INVALID_ARGUMENT before a servicer sees them.

gRPC would end a call whose bytes are no message with UNKNOWN, and log that as a defect. Messages
within a stream are checked where ``convert`` makes records of them.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

from coordinator.security.handlers import Stream, Unary, around
from protos import bounds, farm_pb2
from protos.errors import ProtocolViolation
from protos.rpc import refuse

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Malformed:
    """Stands for a message that can't be read."""

    why: str


class WellFormed(grpc.aio.ServerInterceptor):
    """Lets through what its message's definition and bounds allow."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Every call comes through here."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = str(handler_call_details.method)
        streams_requests = handler.stream_unary or handler.stream_stream

        def taken(request: Any) -> Any:
            return _each(request) if streams_requests else _one(request)

        def unary(behavior: Unary) -> Unary:
            async def call(request: Any, context: Any) -> Any:
                try:
                    return await behavior(taken(request), context)
                except ProtocolViolation as error:
                    await refuse(method, error, context)

            return call

        def stream(behavior: Stream) -> Stream:
            async def call(request: Any, context: Any) -> AsyncIterator[Any]:
                try:
                    async for message in behavior(taken(request), context):
                        yield message
                except ProtocolViolation as error:
                    await refuse(method, error, context)

            return call

        return around(handler, unary, stream, _reader(handler.request_deserializer))


def _reader(deserializer: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read(data: bytes) -> Any:
        try:
            return deserializer(data)
        except DecodeError as error:
            return _Malformed(f"{len(data)} bytes that are no message: {error}")

    return read


def _one(request: Any) -> Any:
    """The request; raises ProtocolViolation."""
    if isinstance(request, _Malformed):
        raise ProtocolViolation(request.why)
    if isinstance(request, Message) and request.DESCRIPTOR.file is farm_pb2.DESCRIPTOR:
        bounds.check(request)
    return request


async def _each(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The requests; raises ProtocolViolation at the first that can't be read."""
    async for request in requests:
        if isinstance(request, _Malformed):
            raise ProtocolViolation(request.why)
        yield request
