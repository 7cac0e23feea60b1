"""Bytes of a message made wrong (pure, by a random generator that is given)."""

from __future__ import annotations

import random
from collections.abc import Callable

Mutation = Callable[[random.Random, bytes], bytes]

_LENGTH_DELIMITED = 2
_GROUP_START, _GROUP_END = 3, 4
_DEEP = 200
"""Levels of nesting; protobuf reads a hundred."""

_UNKNOWN_FIELD = 1999


def varint(number: int) -> bytes:
    """As protobuf writes an unsigned number."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _tag(field: int, wire_type: int) -> bytes:
    return varint(field << 3 | wire_type)


def bit_flips(rng: random.Random, data: bytes) -> bytes:
    """One to eight bits turned."""
    out = bytearray(data or b"\0")
    for _ in range(rng.randint(1, 8)):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def odd_bytes(rng: random.Random, data: bytes) -> bytes:
    """Some bytes in place of others."""
    out = bytearray(data or b"\0")
    start = rng.randrange(len(out))
    stop = min(len(out), start + rng.randint(1, 16))
    out[start:stop] = rng.randbytes(rng.randint(0, 32))
    return bytes(out)


def truncated(rng: random.Random, data: bytes) -> bytes:
    """Its beginning."""
    return data[: rng.randrange(len(data))] if data else b"\x0a"


def doubled(rng: random.Random, data: bytes) -> bytes:
    """Twice in one: what is repeated is longer, what is not has its last value."""
    return data * rng.randint(2, 4)


def other_length(rng: random.Random, data: bytes) -> bytes:
    """A byte that may be a length, with another one in its place."""
    out = bytearray(data or b"\0")
    at = rng.randrange(len(out))
    out[at : at + 1] = varint(rng.choice((0, 1, 127, 128, 2**14, 2**31 - 1, 2**32, 2**63 - 1)))
    return bytes(out)


def huge_length(rng: random.Random, data: bytes) -> bytes:
    """A field that says that it is far longer than the message."""
    field = rng.choice((1, 2, 3, 5, 9, _UNKNOWN_FIELD))
    return data + _tag(field, _LENGTH_DELIMITED) + varint(rng.choice((2**31 - 1, 2**40, 2**64 - 1)))


def unknown_fields(rng: random.Random, data: bytes) -> bytes:
    """Fields that no version of ours has."""
    more = b"".join(
        _tag(rng.randint(1000, 2**29 - 1), _LENGTH_DELIMITED) + varint(16) + rng.randbytes(16)
        for _ in range(rng.randint(1, 20))
    )
    return data + more


def deep(rng: random.Random, data: bytes) -> bytes:
    """An unknown field within itself, again and again: as messages, or as groups."""
    if rng.random() < 0.5:
        groups = _tag(_UNKNOWN_FIELD, _GROUP_START) * _DEEP
        return data + groups + _tag(_UNKNOWN_FIELD, _GROUP_END) * _DEEP
    inner = b""
    for _ in range(_DEEP):
        inner = _tag(rng.randint(1, 8), _LENGTH_DELIMITED) + varint(len(inner)) + inner
    return data + inner


def long_field(rng: random.Random, data: bytes) -> bytes:
    """A field of many bytes: of text that is UTF-8, or is not."""
    size = rng.choice((300, 5000, 70_000, 300_000))
    letter = rng.choice((b"a", b"\x1b", b"\0", b"\xff", b"\n"))
    field = rng.randint(1, 9)
    return data + _tag(field, _LENGTH_DELIMITED) + varint(size) + letter * size


def noise(rng: random.Random, data: bytes) -> bytes:
    """Nothing of it."""
    return rng.randbytes(rng.randint(0, 400))


MUTATIONS: tuple[Mutation, ...] = (
    *(bit_flips, odd_bytes, truncated, doubled, other_length, huge_length, unknown_fields),
    *(deep, long_field, noise),
)


def mutated(rng: random.Random, data: bytes) -> bytes:
    """One to three mutations, one after the other; never the message itself."""
    while True:
        made = data
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            made = rng.choice(MUTATIONS)(rng, made)
        if made != data:
            return made
