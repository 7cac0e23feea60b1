"""Messages drawn from their definitions by Hypothesis: every field with what nobody expects in it.

They are well formed, and most are out of bounds; ``mutations`` makes what is not well formed.
"""

from __future__ import annotations

import math
from typing import Any

import hypothesis
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

_TEXTS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        (
            "\x1b[2J\x1b]0;title\x07",
            "a\0b",
            "../../etc/passwd",
            "<script>alert(1)</script>",
            "\u202e",
        )
    ),
    st.integers(1, 20_000).map(lambda count: "x" * count),
)
_BYTES = st.one_of(st.binary(max_size=64), st.integers(1, 20_000).map(bytes))
_FLOATS = st.one_of(
    st.floats(),
    st.sampled_from((math.nan, math.inf, -math.inf, -1.0, 0.0, 1e308, 5e-324)),
)


def _integers(bits: int) -> st.SearchStrategy[int]:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return st.one_of(st.integers(low, high), st.sampled_from((low, -1, 0, 1, high)))


_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_DOUBLE: _FLOATS,
    FieldDescriptor.TYPE_INT64: _integers(64),
    FieldDescriptor.TYPE_INT32: _integers(32),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_STRING: _TEXTS,
    FieldDescriptor.TYPE_BYTES: _BYTES,
    FieldDescriptor.TYPE_ENUM: st.integers(-3, 40),
}

_COUNTS = st.sampled_from((0, 1, 1, 2, 3))


@st.composite
def field_values(draw: st.DrawFn, field: FieldDescriptor, valid: Message) -> None:
    """Put something else into one field of a message."""
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        key, value = (inner.fields_by_name[name] for name in ("key", "value"))
        target = getattr(valid, field.name)
        for _ in range(draw(_COUNTS)):
            name = draw(_SCALARS[key.type])
            if value.message_type is None:
                target[name] = draw(_SCALARS[value.type])
            else:
                draw(changes(value.message_type, target[name]))
    elif field.is_repeated:
        target = getattr(valid, field.name)
        if inner is None:
            item = draw(_SCALARS[field.type])
            many = 5 if isinstance(item, str | bytes) and len(item) > 100 else 5000
            target.extend([item] * draw(st.sampled_from((1, 2, 5, many))))
        else:
            for _ in range(draw(_COUNTS)):
                draw(changes(inner, target.add()))
    elif inner is None:
        setattr(valid, field.name, draw(_SCALARS[field.type]))
    elif draw(st.booleans()) and draw(st.booleans()):
        valid.ClearField(field.name)
    else:
        target = getattr(valid, field.name)
        target.SetInParent()
        draw(changes(inner, target))


@st.composite
def changes(draw: st.DrawFn, descriptor: Any, valid: Message) -> Message:
    """A message with one or some of its fields changed."""
    fields = descriptor.fields
    if fields:
        chosen = draw(st.lists(st.integers(0, len(fields) - 1), min_size=1, max_size=4))
        for index in chosen:
            draw(field_values(fields[index], valid))
    return valid


def generated(valid: list[Message], count: int, seed: int) -> list[bytes]:
    """So many messages like these, with fields changed; the same for one seed."""
    found: list[bytes] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        derandomize=False,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(st.data())
    def draw(data: st.DataObject) -> None:
        base = data.draw(st.sampled_from(valid))
        made = type(base)()
        made.CopyFrom(base)
        try:
            data.draw(changes(made.DESCRIPTOR, made))
        except UnicodeEncodeError:  # a lone surrogate, which no message can hold
            hypothesis.reject()
        found.append(made.SerializeToString())

    draw()
    return found
