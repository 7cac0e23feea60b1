"""Conditions on a device: what must hold of its labels for it to do a job's work (pure).

``rack=3``, ``rack!=3``, ``price-per-hour<0.5``; also ``<=``, ``>`` and ``>=``. Beside labels there
are four words for what a device says of itself: ``name``, ``board``, ``cores`` (the threads that a
kernel may use) and ``emulated`` (yes or no); a label of such a name is not looked at.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .errors import BadRequest
from .records import Device

MAX_CONDITIONS = 16
MAX_CHARACTERS = 160
"""Of one condition: key and value of the longest label, with room for a board's name."""

_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_CONDITION = re.compile(r"([a-z](?:[a-z0-9.-]*[a-z0-9])?)(!=|<=|>=|=|<|>)(.+)")
_NUMBER = re.compile(r"[0-9]*\.?[0-9]+([eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class Condition:
    """What must hold of one label; ``sign`` is ``=``, ``!=``, ``<``, ``<=``, ``>`` or ``>=``."""

    key: str
    sign: str
    value: str

    def unmet(self, facts: Mapping[str, str]) -> str:
        """Why it does not hold, for people; empty if it does. As ``facts`` a device has its labels.

        A device without the label is like no value of it: ``!=`` holds, nothing else does.
        """
        found = facts.get(self.key)
        if self.sign == "!=":
            return f"{self.key} is {found}" if found == self.value else ""
        if found is None:
            return f"no {self.key}"
        if self.sign == "=":
            return "" if found == self.value else f"{self.key} is {found}"
        if not _NUMBER.fullmatch(found):
            return f"{self.key} is {found}, which is no number"
        holds = _COMPARISONS[self.sign](float(found), float(self.value))
        return "" if holds else f"{self.key} is {found}"


def parse_condition(text: str) -> Condition:
    """Raises BadRequest for what is none."""
    match = _CONDITION.fullmatch(text) if len(text) <= MAX_CHARACTERS else None
    if match is None or not match[3].isprintable():
        raise BadRequest(
            f"{text[:MAX_CHARACTERS]!r} is no condition on a device; write rack=3, rack!=3 or "
            "'price-per-hour<0.5' (in quotes, or the shell takes < for its own)"
        )
    condition = Condition(*match.groups())
    if condition.sign in _COMPARISONS and not _NUMBER.fullmatch(condition.value):
        raise BadRequest(
            f"{condition.value!r} in {text!r} is no number, which {condition.sign} needs"
        )
    return condition


def parse_conditions(texts: Sequence[str]) -> tuple[Condition, ...]:
    """All of which must hold; raises BadRequest for too many, or for one that is none."""
    if len(texts) > MAX_CONDITIONS:
        raise BadRequest(f"a job has {MAX_CONDITIONS} conditions at most, these are {len(texts)}")
    return tuple(parse_condition(text) for text in texts)


def facts(device: Device) -> dict[str, str]:
    """What conditions are held against."""
    return {
        **{key: value for key, value in device.labels.items() if key not in _OWN},
        "name": device.name,
        "cores": str(device.num_threads),
        "emulated": "yes" if device.emulated else "no",
        **({"board": device.board} if device.board else {}),
    }


_OWN = ("name", "board", "cores", "emulated")
