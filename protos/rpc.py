"""Channels, addresses, and one table from exceptions to gRPC status codes.

Loopback is plain text; every other address takes mutual TLS (docs/decisions/0032-mutual-tls.md).
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from . import errors

log = logging.getLogger(__name__)

STATUS_CODES: dict[type[errors.FarmError], grpc.StatusCode] = {
    errors.BadModel: grpc.StatusCode.INVALID_ARGUMENT,
    errors.BadTarget: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ProtocolViolation: grpc.StatusCode.INVALID_ARGUMENT,
    errors.BadRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.Conflict: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.StaleSchema: grpc.StatusCode.FAILED_PRECONDITION,
    errors.LogUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.JobFailed: grpc.StatusCode.ABORTED,
}

_ERRORS: dict[grpc.StatusCode, type[errors.FarmError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.BadRequest,
    grpc.StatusCode.PERMISSION_DENIED: errors.Forbidden,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: errors.Conflict,
    grpc.StatusCode.ABORTED: errors.JobFailed,
}

COORDINATOR_NAME = "coordinator.tunefarm"
"""The DNS name in every coordinator's certificate, whatever its address is: the authority is the
farm's own, and gives that name to coordinators only."""

AGENT_NAME = "agent.tunefarm"
"""The DNS name in every agent's certificate, by which its port for metrics is known."""

MAX_MESSAGE_BYTES = 16 << 20
"""Of one message, either way; a stream may have as many as it takes."""

MAX_METADATA_BYTES = 16 << 10
"""Of what travels before a call's messages and behind them."""

MAX_DETAILS = 1000
"""Characters of what a refusal says. Some take nine bytes on the way."""

MAX_STREAMS = 1024
"""Calls at a time on one connection; an agent has two."""

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 4_000),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    *CHANNEL_OPTIONS,
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 4_000),
    ("grpc.http2.max_ping_strikes", 2),
    ("grpc.max_concurrent_streams", MAX_STREAMS),
    ("grpc.server_handshake_timeout_ms", 10_000),
    # Nothing compressed: what a message takes unpacked would have no limit.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.so_reuseport", 0),
)


@dataclass(frozen=True)
class Address:
    """HOST:PORT, and whether that is on this machine's loopback."""

    host: str
    port: int
    loopback: bool

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def parse_address(address: str) -> Address:
    """What ``address`` says; raises BadRequest if it is not HOST:PORT."""
    host, separator, port = address.rpartition(":")
    if not host or not separator or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise errors.BadRequest(f"{address!r} is not HOST:PORT, for example 127.0.0.1:7411")
    name = host.strip("[]")
    try:
        loopback = name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        loopback = False
    return Address(host, int(port), loopback)


def check_plain(address: str) -> str:
    """``address`` if plain text may be spoken there; raises BadRequest if it is not on loopback."""
    parsed = parse_address(address)
    if not parsed.loopback:
        raise errors.BadRequest(
            f"{parsed.host} is not a loopback address; between machines there is no plain-text "
            "port. With --listen-tls the coordinator listens there for those who have a "
            "certificate (docs/security.md)"
        )
    return address


def channel(address: str, credentials: Path | None = None) -> grpc.Channel:
    """A channel to a coordinator: with mutual TLS by the credentials of a file, or without in plain
    text to loopback. Raises BadRequest for an address or credentials that can't be used."""
    if credentials is None:
        if not parse_address(address).loopback:
            raise errors.BadRequest(
                f"{address} is on another machine, which takes mutual TLS. Enrol first (`tunefarm "
                "enroll`, or `tunefarm agent enroll` on a device), or use an SSH tunnel "
                "(ssh -L 7411:127.0.0.1:7411 COORDINATOR)"
            )
        return grpc.insecure_channel(address, options=list(CHANNEL_OPTIONS))
    from .certificates import load_credentials

    known = load_credentials(credentials)
    return secure_channel(address, known.authority, known.key, known.certificate)


def secure_channel(
    address: str, authority: bytes, key: bytes | None = None, certificate: bytes | None = None
) -> grpc.Channel:
    """A channel to a coordinator that this authority knows (PEM); with key and certificate, the
    caller shows who it is. Raises BadRequest for what is no address."""
    parse_address(address)
    return grpc.secure_channel(
        address,
        grpc.ssl_channel_credentials(authority, key, certificate),
        options=[
            *CHANNEL_OPTIONS,
            ("grpc.ssl_target_name_override", COORDINATOR_NAME),
            ("grpc.default_authority", COORDINATOR_NAME),
        ],
    )


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


def status_of(error: errors.FarmError) -> grpc.StatusCode:
    """What a call ends with that raised this."""
    return next(STATUS_CODES[kind] for kind in type(error).__mro__ if kind in STATUS_CODES)


def as_details(error: errors.FarmError) -> str:
    """What a call that raised this says: no longer than what travels behind its status."""
    text = str(error)
    return text if len(text) <= MAX_DETAILS else f"{text[: MAX_DETAILS - 1]}…"


async def refuse(method: str, error: errors.FarmError, context: Any) -> None:
    """End a call with the status of an error; raises what ``grpc.aio`` ends calls with."""
    log.info("%s refused: %s", method, as_details(error))
    await context.abort(status_of(error), as_details(error))


def aborts(method: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate an async unary servicer method: a FarmError aborts the call with its status."""

    @functools.wraps(method)
    async def wrapper(self: Any, request: Any, context: Any) -> Any:
        try:
            return await method(self, request, context)
        except errors.FarmError as error:
            await refuse(method.__name__, error, context)

    return wrapper


def stream_aborts(method: Callable[..., AsyncIterator[Any]]) -> Callable[..., Any]:
    """Decorate an async streaming servicer method: a FarmError aborts the stream."""

    @functools.wraps(method)
    async def wrapper(self: Any, request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async for message in method(self, request, context):
                yield message
        except errors.FarmError as error:
            await refuse(method.__name__, error, context)

    return wrapper
