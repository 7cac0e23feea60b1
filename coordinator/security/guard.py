"""In front of every port: who calls, whether they are still known, and whether they may.

On loopback nobody shows a certificate, and everybody may do everything.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc

from coordinator.security.handlers import Stream, Unary, around
from coordinator.security.permissions import check_may_call
from coordinator.tuning_log import TuningLog
from coordinator.tuning_log.identities import good_serials
from protos import certificates
from protos.errors import FarmError, Forbidden
from protos.identity import Identity
from protos.rpc import as_details, status_of

log = logging.getLogger(__name__)

REFRESH_S = 2.0
"""Revoking a certificate has an effect within this time."""


@functools.lru_cache(maxsize=4096)
def _identity(pem: bytes) -> Identity | None:
    return certificates.identity_of(pem)


def caller(context: Any) -> Identity | None:
    """Who calls; None on loopback. Raises Forbidden for a certificate of nobody."""
    shown = context.auth_context().get("x509_pem_cert")
    if not shown:
        return None
    identity = _identity(shown[0])
    if identity is None:
        raise Forbidden("this certificate carries no identity of a farm")
    return identity


class Guard(grpc.aio.ServerInterceptor):
    """Refuses calls of those who may not make them, before anything else looks at these."""

    def __init__(self, tuning_log: TuningLog) -> None:
        self._log = tuning_log
        self._good: frozenset[str] = frozenset()

    async def refresh(self) -> None:
        """Read which certificates are good."""
        self._good = await asyncio.to_thread(self._read)

    def _read(self) -> frozenset[str]:
        with self._log.reading() as connection:
            return good_serials(connection)

    async def watch(self, expel: Callable[[Callable[[Identity], bool]], Awaitable[None]]) -> None:
        """For ever: read again, and ``expel`` whose certificate is good no more. A log that can't
        be read is said, and changes nothing."""
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                await self.refresh()
                await expel(self.is_good)
            except FarmError as error:
                log.warning("which certificates are good is not known: %s", error)

    def is_good(self, who: Identity) -> bool:
        """Whether this certificate was issued, not revoked, and has not ended."""
        return who.serial in self._good

    async def admit(self, method: str, who: Identity | None) -> None:
        """Raise Forbidden unless this caller may call this now."""
        if who is None:
            return
        if not self.is_good(who):
            await self.refresh()  # it may be newer than what was read last
        if not self.is_good(who):
            raise Forbidden(
                f"the certificate of {who.name} has ended or was revoked; a new token of "
                "`tunefarm ca token` lets in again"
            )
        check_may_call(method, who)

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

        async def abort(context: Any, error: FarmError) -> NoReturn:
            log.warning("%s refused: %s", method, error)
            await context.abort(status_of(error), as_details(error))
            raise error  # the line before has ended the call

        async def enter(context: Any) -> Identity | None:
            try:
                who = caller(context)
                await self.admit(method, who)
            except FarmError as error:
                await abort(context, error)
            return who

        async def stay(context: Any, who: Identity | None) -> None:
            try:
                await self.admit(method, who)
            except FarmError as error:
                await abort(context, error)

        return _guarded(handler, enter, stay)


def _guarded(
    handler: Any,
    enter: Callable[[Any], Awaitable[Identity | None]],
    stay: Callable[[Any, Identity | None], Awaitable[None]],
) -> Any:
    """The handler, behind ``enter``, and in a stream behind ``stay`` before every answer. Who calls
    is asked once: gRPC takes long to say it, and it can't change."""

    def unary(behavior: Unary) -> Unary:
        async def call(request: Any, context: Any) -> Any:
            await enter(context)
            return await behavior(request, context)

        return call

    def stream(behavior: Stream) -> Stream:
        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            who = await enter(context)
            async for message in behavior(request, context):
                await stay(context, who)
                yield message

        return call

    return around(handler, unary, stream)
