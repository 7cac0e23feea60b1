"""Messages between the agent and its helper processes: a JSON header and raw bytes, no pickle."""

from __future__ import annotations

import json
import os
import select
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from protos.records import MAX_MODEL_BYTES

_PREFIX = struct.Struct("!4sI")
_MAGIC = b"tfa1"
MAX_HEADER_BYTES = 16 << 20


class FrameError(Exception):
    """What came is no frame."""


class FrameTimeoutError(Exception):
    """No whole frame came in time."""


@dataclass(frozen=True)
class Frame:
    """One message."""

    header: dict[str, Any]
    blobs: tuple[bytes, ...] = ()


def write_frame(
    descriptor: int, header: dict[str, Any], blobs: Sequence[bytes | memoryview] = ()
) -> None:
    """Write one message; raises BrokenPipeError if nobody reads any more."""
    body = json.dumps({"header": header, "blobs": [len(blob) for blob in blobs]}).encode()
    for part in (_PREFIX.pack(_MAGIC, len(body)) + body, *blobs):
        view = memoryview(part)
        while view:
            view = view[os.write(descriptor, view) :]


def read_frame(descriptor: int, deadline: float | None = None) -> Frame | None:
    """Read one message; None at the end of the stream.

    ``deadline`` is on ``time.monotonic``'s clock. Raises FrameError for junk or a message cut
    short, FrameTimeoutError at the deadline.
    """
    prefix = _read(descriptor, _PREFIX.size, deadline)
    if not prefix:
        return None
    if len(prefix) < _PREFIX.size:
        raise FrameError("the stream ends inside a message")
    magic, size = _PREFIX.unpack(prefix)
    if magic != _MAGIC or size > MAX_HEADER_BYTES:
        raise FrameError(f"not a message: {prefix!r}")
    try:
        body = json.loads(_exactly(descriptor, size, deadline))
        header, sizes = body["header"], [int(size) for size in body["blobs"]]
    except (ValueError, KeyError, TypeError) as error:
        raise FrameError(f"a message with a broken header: {error}") from error
    if not isinstance(header, dict) or any(not 0 <= size <= MAX_MODEL_BYTES for size in sizes):
        raise FrameError("a message with a broken header")
    return Frame(header, tuple(_exactly(descriptor, size, deadline) for size in sizes))


def take_standard_streams() -> tuple[int, int]:
    """Move the messages away from descriptors 0 and 1, where libraries print; returns those to read
    requests from and to write answers to."""
    requests, answers = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    return requests, answers


def _exactly(descriptor: int, size: int, deadline: float | None) -> bytes:
    data = _read(descriptor, size, deadline)
    if len(data) < size:
        raise FrameError("the stream ends inside a message")
    return data


def _read(descriptor: int, size: int, deadline: float | None) -> bytes:
    """``size`` bytes, fewer at the end of the stream."""
    data = bytearray()
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while len(data) < size:
        if deadline is not None:
            left_ms = (deadline - time.monotonic()) * 1e3
            if left_ms <= 0 or not poll.poll(left_ms):
                raise FrameTimeoutError("no answer in time")
        piece = os.read(descriptor, min(size - len(data), 1 << 20))
        if not piece:
            break
        data += piece
    return bytes(data)
