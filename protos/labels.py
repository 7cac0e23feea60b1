"""Labels: what the owner of a device says of it, in a few short words by key.

They are of one device and no part of its kind: devices of a kind share their records whatever their
labels are. Reports reckon with two of them, which are numbers; one says what may be sent to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from .errors import BadRequest

PRICE = "price-per-hour"
"""What the device costs in an hour, in the unit of price that its owner reckons in."""

WATTS = "watts"
"""What the device draws while it runs a model, by its owner's word: nothing here meters it."""

NUMBERS = (PRICE, WATTS)

FRAGILE = "fragile"
"""``yes``: the device is hard to bring back once it hangs, so that nothing is sent to it that may
well make it so."""

YES, NO = "yes", "no"

MAX_LABELS = 16

MAX_CHARACTERS = 63
"""Of a key, and of a value."""

LEAST, MOST = 1e-6, 1e9
"""What a label that is a number may be, so that what is reckoned with it is finite."""

_KEY = re.compile(r"[a-z]([a-z0-9.-]*[a-z0-9])?")
_NUMBER = re.compile(r"[0-9]*\.?[0-9]+([eE][+-]?[0-9]+)?")
# No comma, no equals sign and no space, so that labels can stand in a list.
_VALUE = re.compile(r"[A-Za-z0-9._:/+-]+")


def check_labels(labels: Mapping[str, str]) -> None:
    """Raises BadRequest for too many labels, or for one that ``check_label`` refuses."""
    if len(labels) > MAX_LABELS:
        raise BadRequest(f"a device has {MAX_LABELS} labels at most, these are {len(labels)}")
    for key, value in labels.items():
        check_label(key, value)


def check_label(key: str, value: str) -> None:
    """Raises BadRequest for a key or value that is too long or has other characters than labels
    may have, and for a price or power that is no positive number."""
    if not _fits(_KEY, key):
        raise BadRequest(
            f"{_shown(key)} is no key of a label: write up to {MAX_CHARACTERS} small letters, "
            f"digits, '-' and '.', for example {PRICE}"
        )
    if key in NUMBERS and not (_fits(_NUMBER, value) and LEAST <= float(value) <= MOST):
        raise BadRequest(
            f"the label {key} is {_shown(value)}, which is no positive number from {LEAST:g} to "
            f"{MOST:g}; write for example 0.35"
        )
    if key == FRAGILE and value not in (YES, NO):
        raise BadRequest(f"the label {FRAGILE} is {_shown(value)}; write {YES} or {NO}")
    if not _fits(_VALUE, value):
        raise BadRequest(
            f"the label {key} is {_shown(value)}; write up to {MAX_CHARACTERS} letters, digits "
            "and characters of ._:/+-"
        )


def label_number(labels: Mapping[str, str], key: str) -> float | None:
    """The number that a label of NUMBERS is; None where there is no such label."""
    return float(labels[key]) if key in labels else None


def is_fragile(labels: Mapping[str, str]) -> bool:
    """Whether the device is marked as one that must not hang."""
    return labels.get(FRAGILE) == YES


def labels_text(labels: Mapping[str, str]) -> str:
    """All labels in one line, by key."""
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _fits(pattern: re.Pattern[str], text: str) -> bool:
    return len(text) <= MAX_CHARACTERS and pattern.fullmatch(text) is not None


def _shown(text: str) -> str:
    """As much of a text from outside as belongs into a message."""
    return f"{text[:MAX_CHARACTERS]!r}{'…' if len(text) > MAX_CHARACTERS else ''}"
