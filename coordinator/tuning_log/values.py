"""Records to what a column can hold, and back. Whatever came from outside is bounded here."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from protos.records import canonical_json, sha256_hex

R = TypeVar("R")

MAX_ERROR_BYTES = 4096
MAX_NAME_BYTES = 256
MAX_REPEATS = 4096
MAX_TOOLS = 64


def clean(text: str, max_bytes: int = MAX_NAME_BYTES) -> str:
    """Text that every database takes: no NUL, valid UTF-8, at most ``max_bytes`` of it."""
    encoded = text[:max_bytes].replace("\0", "�").encode("utf-8", "replace")
    return encoded[:max_bytes].decode("utf-8", "ignore")


def clean_optional(text: str | None) -> str | None:
    """``clean`` for what may be absent."""
    return None if text is None else clean(text)


def finite(number: float | None) -> float | None:
    """None for what is absent, infinite or not a number: SQLite can't tell the three apart."""
    return number if number is not None and math.isfinite(number) else None


def or_nan(number: float | None) -> float:
    """The way back from ``finite`` where a number must be."""
    return math.nan if number is None else number


def clean_tools(versions: Mapping[str, str]) -> dict[str, str]:
    """Tool versions within bounds."""
    return {clean(name): clean(versions[name]) for name in sorted(versions)[:MAX_TOOLS]}


def tool_versions_key(versions: Mapping[str, str]) -> str:
    """One short name for a set of tool versions."""
    return sha256_hex(canonical_json(clean_tools(versions)).encode())[:16]


def numbers_to_json(numbers: Sequence[float]) -> str:
    """A JSON list; null stands for what is not finite."""
    return canonical_json([finite(number) for number in numbers[:MAX_REPEATS]])


def numbers_from_json(text: str) -> tuple[float, ...]:
    """The way back from ``numbers_to_json``."""
    return tuple(or_nan(number) for number in json.loads(text))


def to_json(value: Any) -> str:
    """A record, or a mapping or sequence of records, as canonical JSON."""
    return canonical_json(_plain(value))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return {field.name: _plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return finite(value) if isinstance(value, float) else value


def from_json(hint: type[R], text: str) -> R:
    """The value of type ``hint`` (a record class, a mapping or a tuple) that ``text`` says.

    Fields that the text lacks get their defaults and fields that the class lacks are dropped, so
    that what an earlier version wrote stays readable.
    """
    return typing.cast(R, _typed(hint, json.loads(text)))


@functools.cache
def _hints(record_type: type) -> dict[str, Any]:
    return typing.get_type_hints(record_type)


def _typed(hint: Any, value: Any) -> Any:
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        hint = next(item for item in typing.get_args(hint) if item is not types.NoneType)
    if hint is float:
        return or_nan(value)
    if dataclasses.is_dataclass(hint):
        hints = _hints(typing.cast(type, hint))
        known = {name: _typed(hints[name], value[name]) for name in hints if name in value}
        return typing.cast(type, hint)(**known)
    origin = typing.get_origin(hint)
    if origin is tuple:
        return tuple(_typed(typing.get_args(hint)[0], item) for item in value)
    if origin is not None and issubclass(origin, Mapping):
        return {key: _typed(typing.get_args(hint)[1], item) for key, item in value.items()}
    return value
