"""What every field of every message may hold, checked where a message comes in.

A message is foreign until it was checked: ``convert`` does so before it makes a record of one, and
``wellformed`` for requests that no record stands for. A field has the bound of its name, or the one
of ``Message.field`` where two messages mean different things by a name. A field without a bound is
a KeyError as soon as its message is checked, and a test looks at all of them.

Only fields that are set are looked at: zero and empty are what an unset field says, and whoever
needs more than that says so (``records``). Texts are for people, and may hold anything: they are
escaped where they are shown. Names are compared, and have no control characters.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from .errors import ProtocolViolation
from .records import MAX_MODEL_BYTES

_SHOWN_CHARACTERS = 60
"""Of a value that is refused, in the message that says so."""

MAX_PIECE_BYTES = 4 << 20
"""Of a model, an artifact or a package in one message of a stream, four times what is sent."""

MAX_REQUEST_BYTES = 8192
"""Of a request for a certificate, and of a certificate."""

MAX_REPEATS = 4096
"""Samples of one candidate."""

MAX_PROGRAM_CHARACTERS = 2 << 20
"""Of a workload or a trace that an agent builds."""

MAX_CPUS = 4096
_LARGEST = 2**62
_INFINITE = math.inf


class OutOfBoundsError(Exception):
    """What is wrong with a value; its field is in front."""


@dataclass(frozen=True)
class Name:
    """A string that is compared: so many characters at most, all of which can be printed."""

    most: int

    def check(self, value: str) -> None:
        """Raises OutOfBoundsError."""
        if len(value) > self.most:
            raise OutOfBoundsError(f" has {len(value)} characters; it may have {self.most}")
        if not value.isprintable():
            raise OutOfBoundsError(f" is {_shown(value)}, which has control characters")


@dataclass(frozen=True)
class Code:
    """A string for programs, of which a piece is worth nothing: so many characters at most, without
    NUL, which PostgreSQL does not take."""

    most: int

    def check(self, value: str) -> None:
        """Raises OutOfBoundsError."""
        if len(value) > self.most:
            raise OutOfBoundsError(f" has {len(value)} characters; it may have {self.most}")
        if "\0" in value:
            raise OutOfBoundsError(" has a NUL character")


@dataclass(frozen=True)
class Text(Code):
    """A string for people. Who sends it cuts it (``convert.to_message``)."""

    def cut(self, value: str) -> str:
        """As much of it as may be sent, and valid UTF-8."""
        if len(value) > self.most:
            value = value[: self.most - 1] + "…"
        value = value.replace("\0", "�")
        return value if value.isascii() else value.encode("utf-8", "replace").decode()


@dataclass(frozen=True)
class Bytes:
    """So many at most, and at least so many if there are any."""

    most: int
    least: int = 0

    def check(self, value: bytes) -> None:
        """Raises OutOfBoundsError."""
        if not self.least <= len(value) <= self.most:
            wanted = f"{self.most}" if self.least == self.most else f"{self.most} at most"
            raise OutOfBoundsError(f" has {len(value)} bytes; it may have {wanted}")


@dataclass(frozen=True)
class Number:
    """From ``least`` to ``most``, which may be infinite; never NaN, unless ``nan``."""

    least: float
    most: float
    nan: bool = False

    def check(self, value: float) -> None:
        """Raises OutOfBoundsError."""
        # Written so that NaN does not pass.
        if not self.least <= value <= self.most and not (self.nan and value != value):
            raise OutOfBoundsError(f" is {value}; it may be {self.least:g} to {self.most:g}")


Scalar = Name | Text | Code | Bytes | Number


@dataclass(frozen=True)
class Many:
    """A repeated field: so many items at most, each within a bound (None: they are messages)."""

    most: int
    item: Scalar | None = None


@dataclass(frozen=True)
class Pairs:
    """A map: so many items at most; the bounds of its keys and values (None: messages)."""

    most: int
    key: Scalar
    value: Scalar | None


Bound = Scalar | Many | Pairs

_KEY = Name(128)
_WORD = Text(256)
_LINE = Text(4096)
_PROSE = Text(16384)
_SECONDS = Number(0, 1e9)
_DEVIATION = Number(0, _INFINITE, nan=True)  # NaN is what the log says of an infinite one
_LATENCY = Number(0, 1e15)
_COUNT = Number(0, _LARGEST)
_FEW = Number(0, 10**6)
_SAMPLES = Number(0, MAX_REPEATS)
_SHARE = Number(0, 1, nan=True)
_VERSIONS = Pairs(64, _WORD, _WORD)
_ANY_INTEGER = Number(-(2**63), 2**63 - 1)

BOUNDS: Mapping[str, Bound] = {
    # names
    **dict.fromkeys(
        ("artifact_sha256", "candidate_key", "instance", "job_id", "lease_id", "model_sha256"), _KEY
    ),
    "parent_id": _KEY,
    **dict.fromkeys(("package_sha256", "session_id", "sha256", "workload_key"), _KEY),
    **dict.fromkeys(("device_kind", "dtype", "DeviceStatus.kind", "ModelVariant.name"), _KEY),
    **dict.fromkeys(("project", "submitted_by"), _KEY),
    **dict.fromkeys(("device", "Device.name"), Name(64)),  # at most what the log keeps of it
    "target_json": Name(4096),
    "package_filename": Name(1024),
    # texts for people, and what comes out of a model or an operating system
    **dict.fromkeys(("board", "cpu_model", "governor", "host", "throttled", "version"), _WORD),
    **dict.fromkeys(("engine", "model_name", "kind", "step"), _WORD),
    **dict.fromkeys(("first", "last", "name", "stage", "tuning_ended", "wrong_output"), _LINE),
    **dict.fromkeys(("error", "last_error", "text"), _PROSE),
    "reason": Text(200),
    "RestartAgent.reason": _LINE,
    # bytes
    "certificate": Bytes(MAX_REQUEST_BYTES),
    "signing_request": Bytes(MAX_REQUEST_BYTES),
    "secret": Bytes(32, least=32),
    "data": Bytes(MAX_PIECE_BYTES),
    "model_chunk": Bytes(MAX_PIECE_BYTES),
    # what an agent says of its times
    **dict.fromkeys(("busy_s", "check_s", "load_s", "lock_wait_s", "time_s"), _SECONDS),
    "repeats_s": Many(MAX_REPEATS, _SECONDS),
    "part_s": Many(65536, _SECONDS),
    "max_abs_error": _DEVIATION,
    "max_rel_error": _DEVIATION,
    "canary_ratio": Number(0, _INFINITE),
    "canary_s": _SECONDS,
    "siblings_s": _SECONDS,
    **dict.fromkeys(("temperature_c", "frequency_mhz", "load_1m"), Number(-1e9, 1e9)),
    # the policy of timing
    "number": _FEW,
    "repeat": _SAMPLES,
    "max_repeat": _SAMPLES,
    "looks": _SAMPLES,
    "canary_every": _FEW,
    "min_repeat_ms": _FEW,
    "max_timing_ms": Number(0, 10**8),
    "timeout_s": Number(0, 86400),
    "expires_s": _SECONDS,
    **dict.fromkeys(
        ("canary_drift", "contender_ratio", "hopeless_ratio", "precision"), Number(0, 1e9)
    ),
    "best_us": _LATENCY,
    "heartbeat_s": Number(0.01, 3600),
    # the device
    "cpus": Many(MAX_CPUS, Number(0, 2**20)),
    "num_threads": Number(0, 2**16),
    "cpu_features": Many(1024, _WORD),
    "not_enforced": Many(64, _WORD),
    "tool_versions": _VERSIONS,
    "engine_versions": _VERSIONS,
    "builds_with": _VERSIONS,
    "labels": Pairs(64, _WORD, _WORD),  # labels.check_labels allows less, and says how to write it
    "protocol_version": Number(0, 2**31 - 1),
    # the work
    "args": Many(4096),
    "shape": Many(64, Number(0, 2**40)),
    "dims": Many(64, Number(-1, 2**40)),
    "num_outputs": Number(0, 4096),
    "KernelWork.trials": Many(65536),
    "builds": Many(256),
    **dict.fromkeys(("trace_json", "workload_json"), Code(MAX_PROGRAM_CHARACTERS)),
    "variants": Many(1024),
    "outputs": Many(65536),
    "size_bytes": Number(0, MAX_MODEL_BYTES),
    "input_seed": _ANY_INTEGER,
    "seed": _ANY_INTEGER,
    # the job
    "shapes": Pairs(4096, _LINE, None),
    "where": Many(64, Name(256)),
    "targets": Many(64, Name(4096)),
    "JobSpec.devices": Many(1024, Name(256)),
    "parts": Many(1024),
    "trials": _COUNT,
    "time_limit_s": _SECONDS,
    "target_latency_ms": _LATENCY,
    "flat_share": Number(0, 1e6),
    "limit": Number(0, 2**31 - 1),
    **dict.fromkeys(("jobs", "devices", "events", "tasks", "operators", "records"), Many(65536)),
    **dict.fromkeys(("regions", "threads", "engines"), Many(65536)),
    "left_to_engine": Many(65536, _LINE),
    "ModelResult.operators": Pairs(65536, _KEY, _COUNT),
    "best_before_us": Pairs(65536, _KEY, _LATENCY),
    "RegionResult.latency_ms": Pairs(64, _WORD, _LATENCY),
    "inner_ms": Pairs(64, _WORD, _LATENCY),
    "stage_s": Pairs(256, _WORD, _SECONDS),
    **dict.fromkeys(("elapsed_s", "remaining_s"), _SECONDS),
    **dict.fromkeys(("happened_at", "measured_at", "submitted_at"), Number(0, 1e12)),
    **dict.fromkeys(("latency_ms", "low_ms", "high_ms", "mixed_ms", "tuned_ms"), _LATENCY),
    **dict.fromkeys(("tuned_low_ms", "tuned_high_ms", "untuned_ms"), _LATENCY),
    **dict.fromkeys(("latency_us", "tuned_us", "tuned_low_us", "tuned_high_us"), _LATENCY),
    **dict.fromkeys(("untuned_us", "cache_gb_s", "memory_gb_s", "peak_gflops"), _LATENCY),
    "flops": Number(0, 1e30),
    **dict.fromkeys(("coverage", "pairwise", "peak_at_1", "peak_at_5"), _SHARE),
    **dict.fromkeys(("batches", "failed", "from_log", "learnt_models", "ok", "tied"), _COUNT),
    **dict.fromkeys(("learnt_operators", "measurements", "total", "weight"), _COUNT),
    **dict.fromkeys(("cache_bytes", "moved_bytes", "package_size_bytes", "resident_bytes"), _COUNT),
    **dict.fromkeys(("weights_bytes", "workspace_bytes"), _COUNT),
}


def bound_of(field: FieldDescriptor) -> Bound:
    """The bound of a field that is neither one message, nor true or false, nor one of an enum;
    raises KeyError if it has none."""
    assert field.containing_type is not None
    return BOUNDS.get(f"{field.containing_type.name}.{field.name}") or BOUNDS[field.name]


def has_bound_of_its_own(field: FieldDescriptor) -> bool:
    """False for what its type bounds already."""
    if field.is_repeated:
        return True
    return field.type not in (
        FieldDescriptor.TYPE_MESSAGE,
        FieldDescriptor.TYPE_BOOL,
        FieldDescriptor.TYPE_ENUM,
    )


def check(message: Message) -> None:
    """Raise ProtocolViolation if a field of the message, or of one in it, is out of its bounds."""
    try:
        _check(message, _checks(message.DESCRIPTOR))
    except OutOfBoundsError as error:
        raise ProtocolViolation(f"{message.DESCRIPTOR.name}{error}") from None


@functools.cache
def text_of(message: Descriptor, name: str) -> Text | None:
    """The bound of a text, or of each text in a repeated field; None for a field that is none."""
    field = message.fields_by_name[name]
    if not has_bound_of_its_own(field):
        return None
    bound = bound_of(field)
    item = bound.item if isinstance(bound, Many) else bound
    return item if isinstance(item, Text) else None


_Check = Callable[[Any], None]


def _check(message: Message, checks: Mapping[int, _Check]) -> None:
    for field, value in message.ListFields():
        try:
            checks[field.number](value)
        except OutOfBoundsError as error:
            raise OutOfBoundsError(f".{field.name}{error}") from None


@functools.cache
def _checks(message: Descriptor) -> Mapping[int, _Check]:
    """What is done with each field of a message, by its number."""
    return {field.number: _check_of(field) for field in message.fields}


def _check_of(field: FieldDescriptor) -> _Check:
    bound = bound_of(field) if has_bound_of_its_own(field) else None
    if isinstance(bound, Pairs):
        assert field.message_type is not None
        value_field = field.message_type.fields_by_name["value"]
        return _pairs(bound, _item(value_field, bound.value))
    if isinstance(bound, Many):
        return _many(bound.most, _item(field, bound.item))
    return _item(field, bound)


def _item(field: FieldDescriptor, bound: Scalar | None) -> _Check:
    if bound is not None:
        return bound.check
    if field.enum_type is not None:
        return _member(frozenset(field.enum_type.values_by_number), field.enum_type.name)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return _anything
    message = field.message_type
    return lambda value: _check(value, _checks(message))  # not before: a job holds jobs


def _anything(value: object) -> None:
    pass


def _member(numbers: frozenset[int], name: str) -> _Check:
    def check_member(value: int) -> None:
        if value not in numbers:
            raise OutOfBoundsError(f" = {value} is no {name}")

    return check_member


def _many(most: int, check_item: _Check) -> _Check:
    def check_many(values: Any) -> None:
        if len(values) > most:
            raise OutOfBoundsError(f" has {len(values)} items; it may have {most}")
        for value in values:
            check_item(value)

    return check_many


def _pairs(bound: Pairs, check_value: _Check) -> _Check:
    def check_pairs(values: Any) -> None:
        if len(values) > bound.most:
            raise OutOfBoundsError(f" has {len(values)} items; it may have {bound.most}")
        for key in values:
            bound.key.check(key)
            check_value(values[key])

    return check_pairs


def _shown(value: str) -> str:
    more = "…" if len(value) > _SHOWN_CHARACTERS else ""
    return f"{value[:_SHOWN_CHARACTERS]!r}{more}"
