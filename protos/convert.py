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
import types
import typing
from collections.abc import Mapping
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
    for field in dataclasses.fields(record):
        _set(message, field.name, getattr(record, field.name))
    return message


def _set(message: Any, name: str, value: Any) -> None:
    if value is None:
        return
    if dataclasses.is_dataclass(value):
        getattr(message, name).CopyFrom(to_message(value))
    elif isinstance(value, Mapping):
        target = getattr(message, name)
        for key, item in value.items():
            if dataclasses.is_dataclass(item):
                target[key].CopyFrom(to_message(item))
            else:
                target[key] = item
    elif isinstance(value, tuple):
        items = [to_message(item) if dataclasses.is_dataclass(item) else item for item in value]
        if (text := bounds.text_of(message.DESCRIPTOR, name)) is not None:
            items = [text.cut(item) for item in items]
        getattr(message, name).extend(items)
    elif isinstance(value, str) and (text := bounds.text_of(message.DESCRIPTOR, name)) is not None:
        setattr(message, name, text.cut(value))
    else:
        setattr(message, name, value)


def from_message(message: Message, record_type: type[R]) -> R:
    """The record that ``message`` says.

    An unset enum that has a default is that: an older peer does not know it. Raises
    ProtocolViolation if any other is unset or unknown, if a value is out of its bounds, if an
    embedded record is missing, or if the record refuses its values.
    """
    bounds.check(message)
    return _record(message, record_type)


def _record(message: Message, record_type: type[R]) -> R:
    values = {}
    cast_type = typing.cast("type", record_type)
    for field in dataclasses.fields(typing.cast("Any", record_type)):
        if isinstance(field.default, enum.IntEnum) and not getattr(message, field.name):
            values[field.name] = field.default
            continue
        values[field.name] = _get(message, field.name, _hints(cast_type)[field.name])
    try:
        return record_type(**values)
    except BadRequest as error:
        raise ProtocolViolation(f"{type(message).__name__}: {error}") from error


def _get(message: Any, name: str, hint: Any) -> Any:
    optional = isinstance(hint, types.UnionType)
    if optional:
        hint = next(arg for arg in typing.get_args(hint) if arg is not types.NoneType)
        if not message.HasField(name):
            return None
    value = getattr(message, name)
    origin = typing.get_origin(hint)
    if origin is tuple:
        item_type = typing.get_args(hint)[0]
        if dataclasses.is_dataclass(item_type):
            return tuple(_record(item, typing.cast("type", item_type)) for item in value)
        return tuple(value)
    if origin is not None and issubclass(origin, Mapping):
        item_type = typing.get_args(hint)[1]
        if dataclasses.is_dataclass(item_type):
            item = typing.cast("type", item_type)
            return {key: _record(value[key], item) for key in value}
        return dict(value)
    if dataclasses.is_dataclass(hint):
        if not message.HasField(name):
            raise ProtocolViolation(f"{type(message).__name__}.{name} is missing")
        return _record(value, typing.cast("type", hint))
    if isinstance(hint, type) and issubclass(hint, enum.IntEnum):
        try:
            return hint(value)
        except ValueError as error:
            raise ProtocolViolation(
                f"{type(message).__name__}.{name} = {value} is no {hint.__name__}"
            ) from error
    return value


_AGENT_MESSAGES: dict[str, type] = {
    "registration": records.Registration,
    "heartbeat": records.Heartbeat,
    "measurement": records.Measurement,
    "model_measurement": records.ModelMeasurement,
    "lease_finished": records.LeaseFinished,
    "goodbye": records.Goodbye,
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
    getattr(envelope, name).CopyFrom(to_message(record))
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
    if isinstance(record, records.Lease) and (record.kernel is None) == (record.model is None):
        raise ProtocolViolation(f"lease {record.lease_id} must carry one kind of work")
    return record
