"""How an interceptor puts itself around a call's handler, whichever of the four kinds it is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

Unary = Callable[[Any, Any], Awaitable[Any]]
Stream = Callable[[Any, Any], AsyncIterator[Any]]


def around(
    handler: Any,
    unary: Callable[[Unary], Unary],
    stream: Callable[[Stream], Stream],
    deserializer: Callable[[Any], Any] | None = None,
) -> Any:
    """The handler with ``unary`` around what gives one answer, ``stream`` around what gives
    several, and its requests read by ``deserializer`` (default: as before)."""
    kinds: list[tuple[str, Any, Any]] = [
        ("unary_unary", unary, grpc.unary_unary_rpc_method_handler),
        ("stream_unary", unary, grpc.stream_unary_rpc_method_handler),
        ("unary_stream", stream, grpc.unary_stream_rpc_method_handler),
        ("stream_stream", stream, grpc.stream_stream_rpc_method_handler),
    ]
    for name, wrap, make in kinds:
        behavior = getattr(handler, name)
        if behavior is not None:
            return make(
                wrap(behavior),
                request_deserializer=deserializer or handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
    raise AssertionError("a handler of no kind")
