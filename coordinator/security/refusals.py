"""Counts the calls that were refused, whoever refused them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc

from coordinator.security.handlers import around


class Refusals(grpc.aio.ServerInterceptor):
    """To be the first of a server's interceptors. ``counts`` is by method and status code, for the
    event loop's thread."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Every call comes through here."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = str(handler_call_details.method).rpartition("/")[2]

        @contextlib.contextmanager
        def counted(context: Any) -> Iterator[None]:
            try:
                yield
            except grpc.aio.AbortError:
                self.counts[method, context.code().name] += 1
                raise

        def unary(behavior: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
            async def call(request: Any, context: Any) -> Any:
                with counted(context):
                    return await behavior(request, context)

            return call

        def stream(behavior: Callable[..., AsyncIterator[Any]]) -> Callable[..., Any]:
            async def call(request: Any, context: Any) -> AsyncIterator[Any]:
                with counted(context):
                    async for message in behavior(request, context):
                        yield message

            return call

        return around(handler, unary, stream)
