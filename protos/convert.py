"""Records to messages and back.

A record and its message have the same name and the same field names (a test holds it), so one
function per direction serves all of them: nested records, tuples, mappings, enums and optional
fields are followed by the record's type hints. What comes in is within its bounds (``bounds``)
before a record is made of it, and texts that go out are cut to theirs.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import operator
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from google.protobuf.message import Message

from . import bounds, farm_pb2, records
from .errors import BadRequest, ProtocolViolation

R = TypeVar("R")


@functools.cache
def _hints(record_type: type) -> dict[str, Any]:
    return typing.get_type_hints(record_type)


def message_type(record_type: type) -> type[Message]:
    """The message class of a record class; raises AttributeError if it does not travel."""
    return typing.cast("type[Message]", getattr(farm_pb2, record_type.__name__))


def to_message(record: Any) -> Any:
    """The message that says what ``record`` says."""
    message = message_type(type(record))()
    _fill(message, record)
    return message


def _fill(message: Any, record: Any) -> None:
    """Say in an empty message what ``record`` says. Nested ones are filled where they are: a lease
    carries artifacts that are not to be copied level by level."""
    record_type: type = type(record)
    for name, write in _writers(record_type):
        value = getattr(record, name)
        if value is not None:
            write(message, name, value)


_Writer = Callable[[Any, str, Any], None]


@functools.cache
def _writers(record_type: type) -> tuple[tuple[str, _Writer], ...]:
    """How each field of a record goes into its message."""
    hints = _hints(record_type)
    descriptor = message_type(record_type).DESCRIPTOR
    return tuple(
        (name, _writer(_required(hints[name]), bounds.text_of(descriptor, name)))
        for name in (field.name for field in dataclasses.fields(typing.cast("Any", record_type)))
    )


def _writer(hint: Any, text: bounds.Text | None) -> _Writer:
    """``text`` bounds what is text there: longer ones are cut."""
    origin = typing.get_origin(hint)
    if origin is tuple:
        nested = dataclasses.is_dataclass(typing.get_args(hint)[0])
        if nested:
            return _set_records
        return _set_items if text is None else functools.partial(_set_texts, text)
    if origin is not None and issubclass(origin, Mapping):
        nested = dataclasses.is_dataclass(typing.get_args(hint)[1])
        return _set_mapped_records if nested else _set_mapping
    if dataclasses.is_dataclass(hint):
        return _set_record
    return setattr if text is None else functools.partial(_set_text, text)


def _set_record(message: Any, name: str, value: Any) -> None:
    nested = getattr(message, name)
    nested.SetInParent()  # one that says nothing is there, too
    _fill(nested, value)


def _set_records(message: Any, name: str, value: Any) -> None:
    items = getattr(message, name)
    for item in value:
        _fill(items.add(), item)


def _set_items(message: Any, name: str, value: Any) -> None:
    getattr(message, name).extend(value)


def _set_text(text: bounds.Text, message: Any, name: str, value: str) -> None:
    setattr(message, name, text.cut(value))


def _set_texts(text: bounds.Text, message: Any, name: str, value: Any) -> None:
    getattr(message, name).extend([text.cut(item) for item in value])


def _set_mapped_records(message: Any, name: str, value: Any) -> None:
    items = getattr(message, name)
    for key, item in value.items():
        _fill(items[key], item)


def _set_mapping(message: Any, name: str, value: Any) -> None:
    getattr(message, name).update(value)


def from_message(message: Message, record_type: type[R]) -> R:
    """The record that ``message`` says.

    An unset enum that has a default is that: an older peer does not know it. Raises
    ProtocolViolation if any other is unset or unknown, if a value is out of its bounds, if an
    embedded record is missing, or if the record refuses its values.
    """
    bounds.check(message)
    return _record(message, record_type)


def _record(message: Message, record_type: type[R]) -> R:
    read = _readers(typing.cast("type", record_type))
    try:
        return record_type(*[reader(message) for reader in read])
    except BadRequest as error:
        raise ProtocolViolation(f"{type(message).__name__}: {error}") from error


_Reader = Callable[[Any], Any]


@functools.cache
def _readers(record_type: type) -> tuple[_Reader, ...]:
    """How each field of a record, in its order, is read off its message."""
    hints = _hints(record_type)
    return tuple(
        _reader(field.name, hints[field.name], field.default)
        for field in dataclasses.fields(typing.cast("Any", record_type))
    )


def _required(hint: Any) -> Any:
    """The type of a value that is there."""
    if isinstance(hint, types.UnionType):
        return next(arg for arg in typing.get_args(hint) if arg is not types.NoneType)
    return hint


def _reader(name: str, hint: Any, default: Any) -> _Reader:
    if isinstance(hint, types.UnionType):
        there = _reader(name, _required(hint), dataclasses.MISSING)
        return lambda message: there(message) if message.HasField(name) else None
    value = operator.attrgetter(name)
    origin = typing.get_origin(hint)
    if origin is tuple:
        return _tuple_reader(value, typing.get_args(hint)[0])
    if origin is not None and issubclass(origin, Mapping):
        return _mapping_reader(value, typing.get_args(hint)[1])
    if dataclasses.is_dataclass(hint):
        return _record_reader(name, typing.cast("type", hint))
    if isinstance(hint, type) and issubclass(hint, enum.IntEnum):
        return _enum_reader(name, hint, default)
    return value


def _tuple_reader(value: _Reader, item_type: Any) -> _Reader:
    if dataclasses.is_dataclass(item_type):
        record_type = typing.cast("type", item_type)
        return lambda message: tuple(_record(item, record_type) for item in value(message))
    return lambda message: tuple(value(message))


def _mapping_reader(value: _Reader, item_type: Any) -> _Reader:
    if not dataclasses.is_dataclass(item_type):
        return lambda message: dict(value(message))
    record_type = typing.cast("type", item_type)

    def read(message: Any) -> Any:
        items = value(message)
        return {key: _record(items[key], record_type) for key in items}

    return read


def _record_reader(name: str, record_type: type) -> _Reader:
    def read(message: Any) -> Any:
        if not message.HasField(name):
            raise ProtocolViolation(f"{type(message).__name__}.{name} is missing")
        return _record(getattr(message, name), record_type)

    return read


def _enum_reader(name: str, enum_type: type[enum.IntEnum], default: Any) -> _Reader:
    known: dict[int, enum.IntEnum] = {int(member): member for member in enum_type}
    if isinstance(default, enum.IntEnum):
        known.setdefault(0, default)

    def read(message: Any) -> Any:
        value = getattr(message, name)
        if value not in known:
            raise ProtocolViolation(
                f"{type(message).__name__}.{name} = {value} is no {enum_type.__name__}"
            )
        return known[value]

    return read


_AGENT_MESSAGES: dict[str, type] = {
    "registration": records.Registration,
    "heartbeat": records.Heartbeat,
    "measurement": records.Measurement,
    "model_measurement": records.ModelMeasurement,
    "lease_finished": records.LeaseFinished,
    "goodbye": records.Goodbye,
    "built": records.Built,
}
_GATEWAY_MESSAGES: dict[str, type] = {
    "registered": records.Registered,
    "lease": records.Lease,
    "acknowledgement": records.Acknowledgement,
    "cancel_lease": records.CancelLease,
    "restart_agent": records.RestartAgent,
}


def _wrap(envelope: Any, kinds: Mapping[str, type], record: Any) -> Any:
    name = next(name for name, record_type in kinds.items() if type(record) is record_type)
    _set_record(envelope, name, record)
    return envelope


def _unwrap(envelope: Any, kinds: Mapping[str, type]) -> Any:
    name = envelope.WhichOneof("message")
    if name is None:
        raise ProtocolViolation(f"an empty {type(envelope).__name__}")
    return from_message(getattr(envelope, name), kinds[name])


def to_agent_message(record: Any) -> farm_pb2.AgentMessage:
    """Wrap what an agent sends."""
    return typing.cast(
        "farm_pb2.AgentMessage", _wrap(farm_pb2.AgentMessage(), _AGENT_MESSAGES, record)
    )


def from_agent_message(message: farm_pb2.AgentMessage) -> Any:
    """Unwrap what an agent sent; raises ProtocolViolation if it is empty or malformed."""
    return _unwrap(message, _AGENT_MESSAGES)


def to_gateway_message(record: Any) -> farm_pb2.GatewayMessage:
    """Wrap what the coordinator sends to an agent."""
    return typing.cast(
        "farm_pb2.GatewayMessage", _wrap(farm_pb2.GatewayMessage(), _GATEWAY_MESSAGES, record)
    )


def from_gateway_message(message: farm_pb2.GatewayMessage) -> Any:
    """Unwrap what the coordinator sent; raises ProtocolViolation if it is empty or malformed."""
    record = _unwrap(message, _GATEWAY_MESSAGES)
    if isinstance(record, records.Lease) and not record.is_one_work:
        raise ProtocolViolation(f"lease {record.lease_id} must carry one kind of work")
    return record
