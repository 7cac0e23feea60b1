"""Which kind of device is meant (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from protos.errors import BadRequest, NotFound
from protos.records import Device

_LEAST_DIGITS = 4
_SHOWN = 8


def choose_device(devices: Iterable[Device], word: str) -> Device:
    """A device of the kind that ``word`` names: a device's name, or the first digits of a kind;
    empty if there is only one kind.

    Raises NotFound if there is none, and BadRequest if it may be several.
    """
    known = list(devices)
    if not known:
        raise NotFound("no device is known yet; start one: tunefarm agent, or tune a model here")
    found = [device for device in known if device.name == word or not word]
    if not found and re.fullmatch(rf"[0-9a-f]{{{_LEAST_DIGITS},}}", word):
        found = [device for device in known if device.kind.startswith(word)]
    kinds = _one_each(found)
    if len(kinds) == 1:
        return found[0]
    if kinds:
        meant = (
            "several kinds of device are known" if not word else f"{word!r} may be several kinds"
        )
        raise BadRequest(f"{meant}; choose one with --device: {_listed(kinds.values())}")
    there = _listed(_one_each(known).values())
    raise NotFound(f"no device and no kind of device is called {word!r}; there are {there}")


def _one_each(devices: Iterable[Device]) -> dict[str, Device]:
    """The first device of each kind."""
    kinds: dict[str, Device] = {}
    for device in devices:
        kinds.setdefault(device.kind, device)
    return kinds


def _listed(devices: Iterable[Device]) -> str:
    names = [f"{device.name} ({device.kind[:8]}, {device.cpu_model})" for device in devices]
    return ", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")
