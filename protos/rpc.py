"""Channels, addresses, and one table from exceptions to gRPC status codes.

Loopback is plain text; every other address is refused until mutual TLS is there (DESIGN, 11).
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc

from . import errors

log = logging.getLogger(__name__)

STATUS_CODES: dict[type[errors.FarmError], grpc.StatusCode] = {
    errors.BadModel: grpc.StatusCode.INVALID_ARGUMENT,
    errors.BadTarget: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ProtocolViolation: grpc.StatusCode.INVALID_ARGUMENT,
    errors.BadRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.Conflict: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.StaleSchema: grpc.StatusCode.FAILED_PRECONDITION,
    errors.LogUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.JobFailed: grpc.StatusCode.ABORTED,
}

_ERRORS: dict[grpc.StatusCode, type[errors.FarmError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.BadRequest,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: errors.Conflict,
    grpc.StatusCode.ABORTED: errors.JobFailed,
}

MAX_MESSAGE_BYTES = 16 << 20

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 4_000),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    *CHANNEL_OPTIONS,
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 4_000),
    ("grpc.so_reuseport", 0),
)


def check_address(address: str) -> str:
    """``address`` if it is HOST:PORT on loopback.

    Raises BadRequest otherwise: outside loopback there is no plain-text port.
    """
    host, separator, port = address.rpartition(":")
    if not separator or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise errors.BadRequest(f"{address!r} is not HOST:PORT, for example 127.0.0.1:7411")
    name = host.strip("[]")
    try:
        loopback = name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise errors.BadRequest(
            f"{host} is not a loopback address. Traffic between machines needs mutual TLS, which "
            "this version does not have yet; use 127.0.0.1, or an SSH tunnel "
            "(ssh -L 7411:127.0.0.1:7411 COORDINATOR)"
        )
    return address


def channel(address: str) -> grpc.Channel:
    """A channel to a coordinator; raises BadRequest for an address that is not loopback."""
    return grpc.insecure_channel(check_address(address), options=list(CHANNEL_OPTIONS))


@contextlib.contextmanager
def client_errors(what: str, address: str) -> Iterator[None]:
    """Turn a failed call into one of our exceptions, with what was tried and where."""
    try:
        yield
    except grpc.RpcError as error:
        code, details = error.code(), error.details() or ""
        if code in _ERRORS:
            raise _ERRORS[code](details) from error
        if code is grpc.StatusCode.UNAVAILABLE:
            raise errors.Unavailable(
                f"{what}: no coordinator answers at {address} ({details}). "
                "Is `tunefarm serve` running there?"
            ) from error
        raise errors.Unavailable(f"{what} at {address}: {code.name}: {details}") from error


def _status(error: errors.FarmError) -> grpc.StatusCode:
    return next(STATUS_CODES[kind] for kind in type(error).__mro__ if kind in STATUS_CODES)


def aborts(method: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate an async unary servicer method: a FarmError aborts the call with its status."""

    @functools.wraps(method)
    async def wrapper(self: Any, request: Any, context: Any) -> Any:
        try:
            return await method(self, request, context)
        except errors.FarmError as error:
            log.info("%s refused: %s", method.__name__, error)
            await context.abort(_status(error), str(error))

    return wrapper


def stream_aborts(method: Callable[..., AsyncIterator[Any]]) -> Callable[..., Any]:
    """Decorate an async streaming servicer method: a FarmError aborts the stream."""

    @functools.wraps(method)
    async def wrapper(self: Any, request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async for message in method(self, request, context):
                yield message
        except errors.FarmError as error:
            log.info("%s ended: %s", method.__name__, error)
            await context.abort(_status(error), str(error))

    return wrapper
