"""Every field of every message has a bound, and what is out of it is refused by name."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from protos import bounds, convert, farm_pb2, records
from protos.bounds import BOUNDS, Bytes, Many, Name, Number, Pairs, Text
from protos.errors import ProtocolViolation
from tests.test_protos import CIRCUMSTANCES, DEVICE, FULL, MINIMAL

MESSAGES = list(farm_pb2.DESCRIPTOR.message_types_by_name.values())
FIELDS = [f for message in MESSAGES for f in message.fields if bounds.has_bound_of_its_own(f)]


def _id(field: FieldDescriptor) -> str:
    assert field.containing_type is not None
    return f"{field.containing_type.name}.{field.name}"


def test_every_field_has_a_bound_and_no_bound_is_of_nothing() -> None:
    lacking = [_id(f) for f in FIELDS if _id(f) not in BOUNDS and f.name not in BOUNDS]
    assert not lacking, f"add their bounds to protos/bounds.py: {lacking}"
    used = {_id(field) if _id(field) in BOUNDS else field.name for field in FIELDS}
    assert used == set(BOUNDS)


def _too_much(bound: bounds.Scalar) -> Iterator[Any]:
    """What the bound refuses, as far as a message can hold it."""
    if isinstance(bound, Number):
        yield bound.least - 1
        if math.isfinite(bound.most):
            yield bound.most * 2 + 1
        if not bound.nan:
            yield math.nan
    elif isinstance(bound, Bytes):
        yield bytes(bound.most + 1)
    else:
        yield "x" * (bound.most + 1)
        yield "a\0"
        if isinstance(bound, Name):
            yield from ("a\nb", "\x1b[2J")


def _spoilt(field: FieldDescriptor) -> Iterator[Message]:
    """Messages with nothing in them but too much of this field."""
    assert field.containing_type is not None
    bound = bounds.bound_of(field)

    def new() -> Any:
        return GetMessageClass(field.containing_type)()  # type: ignore[arg-type]

    if isinstance(bound, Pairs):
        assert field.message_type is not None
        scalar = field.message_type.fields_by_name["value"].message_type is None
        message = new()
        for number in range(bound.most + 1):
            entry = getattr(message, field.name)
            if scalar:
                kind = field.message_type.fields_by_name["value"].type
                entry[str(number)] = "" if kind == FieldDescriptor.TYPE_STRING else 0
            else:
                entry[str(number)].SetInParent()
        yield message
    elif isinstance(bound, Many):
        message = new()
        item: Any = "" if field.type == FieldDescriptor.TYPE_STRING else 0
        if field.message_type is not None:
            item = GetMessageClass(field.message_type)()
        getattr(message, field.name).extend([item] * (bound.most + 1))
        yield message
        for value in _too_much(bound.item) if bound.item is not None else ():
            yield from _with(new, lambda m, v=value: getattr(m, field.name).append(v))
    else:
        for value in _too_much(bound):
            yield from _with(new, lambda m, v=value: setattr(m, field.name, v))


def _with(new: Any, change: Any) -> Iterator[Message]:
    message = new()
    try:
        change(message)
    except (ValueError, TypeError, OverflowError):  # the field's type does not hold it
        return
    yield message


@pytest.mark.parametrize("field", FIELDS, ids=_id)
def test_too_much_of_a_field_is_refused_by_its_name(field: FieldDescriptor) -> None:
    for message in _spoilt(field):
        if not message.ListFields():
            continue  # zero is what an unset field says
        with pytest.raises(ProtocolViolation, match=_id(field)) as caught:
            bounds.check(message)
        assert len(str(caught.value)) < 300
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("record", FULL + MINIMAL, ids=lambda record: type(record).__name__)
def test_what_is_right_passes(record: Any) -> None:
    bounds.check(convert.to_message(record))


def test_what_is_wrong_deep_inside_is_named_with_its_way() -> None:
    message = convert.to_agent_message(records.Registration(3, DEVICE))
    message.registration.device.tool_versions["tvm"] = "9" * 300
    with pytest.raises(ProtocolViolation, match=r"^AgentMessage\.registration\.device\.tool_versi"):
        bounds.check(message)
    with pytest.raises(ProtocolViolation, match=r"^Registration\.device\.tool_versions has 300"):
        convert.from_agent_message(message)


def test_an_enum_that_is_none_is_refused() -> None:
    request = farm_pb2.ControlDeviceRequest(device="d", action=77)  # type: ignore[arg-type]
    with pytest.raises(ProtocolViolation, match=r"action = 77 is no DeviceAction"):
        bounds.check(request)


def test_both_sides_check_what_they_are_told() -> None:
    infinite = records.Measurement(
        "w", "c", records.MeasurementStatus.OK, repeats_s=(math.inf,), circumstances=CIRCUMSTANCES
    )
    with pytest.raises(ProtocolViolation, match="repeats_s"):
        convert.from_agent_message(convert.to_agent_message(infinite))
    with pytest.raises(ProtocolViolation, match="heartbeat_s"):
        convert.from_gateway_message(convert.to_gateway_message(records.Registered("s", 1e-9)))


def test_texts_are_cut_by_who_sends_them_and_names_are_not() -> None:
    assert isinstance(BOUNDS["error"], Text)
    error = "x" * BOUNDS["error"].most + "more"
    sent = records.LeaseFinished("l", error)
    arrived = convert.from_message(convert.to_message(sent), records.LeaseFinished)
    assert len(arrived.error) == BOUNDS["error"].most
    assert arrived.error.endswith("x…")
    odd = records.LeaseFinished("l", "bytes that are no text: \0\udcff")
    assert convert.from_message(convert.to_message(odd), records.LeaseFinished).error.endswith("�?")
    spec = records.ModelResult(*(1.0, 1.0, 0.0, 0.0, "", "", 0), left_to_engine=("y" * 9999,))
    (cut,) = convert.from_message(convert.to_message(spec), records.ModelResult).left_to_engine
    assert len(cut) == 4096
    with pytest.raises(ProtocolViolation, match=r"Device\.name has 100 characters; it may have 64"):
        convert.from_message(convert.to_message(replace(DEVICE, name="d" * 100)), records.Device)
