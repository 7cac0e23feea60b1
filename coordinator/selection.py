"""For which devices a job is (pure).

A job names targets, kinds of device or conditions on labels. Before it begins these become one kind
or target for each of its parts; while it runs, leases go to the devices that match.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from coordinator.prediction.devices import choose_device
from protos.errors import BadRequest
from protos.records import Device, JobSpec
from protos.selectors import Condition, facts, parse_conditions

MAX_PARTS = 16
"""Kinds of device that one job may be for."""

MAX_NAME = 256

_SHOWN = 8


@dataclass(frozen=True)
class Selector:
    """The devices that may do a job's work: those of this target, if that is not empty, of one of
    these kinds, if there are any, for which all conditions hold."""

    target_json: str = ""
    kinds: tuple[str, ...] = ()
    where: tuple[Condition, ...] = ()

    @classmethod
    def of(cls, spec: JobSpec) -> Selector:
        """That of a job that was accepted, so that its ``devices`` are kinds; raises BadRequest for
        conditions that are none."""
        return cls(spec.target_json, spec.devices, parse_conditions(spec.where))

    def suits(self, device: Device) -> bool:
        """Whether it is of the right target and kind, whatever its labels are."""
        right_target = not self.target_json or device.target_json == self.target_json
        return right_target and (not self.kinds or device.kind in self.kinds)

    def unmet(self, device: Device) -> str:
        """Which conditions don't hold of a device that suits, for people; empty if all do."""
        if not self.where:
            return ""
        known = facts(device)
        return ", ".join(why for one in self.where if (why := one.unmet(known)))

    def matches(self, device: Device) -> bool:
        """Whether this device may do the job's work."""
        return self.suits(device) and not self.unmet(device)

    def missing(self, devices: Iterable[Device]) -> str:
        """What a job waits for that none of these match, and why they don't, for people."""
        of_its = " of its kind" if self.kinds else " of its target" if self.target_json else ""
        conditions = ", ".join(f"{one.key}{one.sign}{one.value}" for one in self.where)
        wanted = f"a device{of_its}{f' with {conditions}' if conditions else ''}"
        reasons = unmet(self, devices)
        return f"{wanted}: {listed(reasons)}" if reasons else wanted


ANY = Selector()
"""Every device."""


def unmet(selector: Selector, devices: Iterable[Device]) -> list[str]:
    """Of those that suit otherwise, each with the conditions that don't hold of it."""
    suitable = (device for device in devices if selector.suits(device))
    return [f"{device.name} ({why})" for device in suitable if (why := selector.unmet(device))]


def listed(texts: Sequence[str]) -> str:
    """The first of them, for people."""
    return ", ".join(texts[:_SHOWN]) + (
        f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    )


def parts_of(spec: JobSpec, present: Sequence[Device], known: Sequence[Device]) -> list[JobSpec]:
    """What a job is for, one spec for each kind of device or target; none if only devices to come
    can say.

    ``present`` are the devices that are connected, ``known`` all that were ever seen. Conditions
    alone choose among those present, or, if none of them matches, among all. Raises BadRequest and
    NotFound for what no device can be, too many kinds, and where there is nothing to choose by.
    """
    selector = Selector.of(replace(spec, devices=()))
    asked = [bool(spec.target_json), bool(spec.targets), bool(spec.devices)]
    if sum(asked) > 1:
        raise BadRequest("a job is for a target, for several targets or for devices: give one")
    if not any(asked) and not spec.where:
        raise BadRequest("a job needs devices, a target or a condition on devices' labels")
    plain = replace(spec, targets=(), devices=())
    if spec.devices:
        if len(spec.devices) > MAX_PARTS:
            raise _too_many(len(spec.devices))
        if long := [word for word in spec.devices if len(word) > MAX_NAME]:
            raise BadRequest(f"{long[0][:MAX_NAME]!r}… is longer than any device's name")
        newest = {device.name: device for device in (*known, *present)}.values()
        chosen = [choose_device(newest, word) for word in spec.devices]
    elif any(asked):
        targets = list(dict.fromkeys(spec.targets or (spec.target_json,)))
        parts = [replace(plain, target_json=target) for target in targets]
        return _checked(parts)
    else:
        chosen = [d for d in present if selector.matches(d)]
        chosen = chosen or [d for d in known if selector.matches(d)]
    kinds = {device.kind: device.target_json for device in chosen}
    return _checked(
        [replace(plain, target_json=target, devices=(kind,)) for kind, target in kinds.items()]
    )


def _checked(parts: list[JobSpec]) -> list[JobSpec]:
    if len(parts) > MAX_PARTS:
        raise _too_many(len(parts))
    return parts


def _too_many(count: int) -> BadRequest:
    return BadRequest(
        f"a job is for {MAX_PARTS} kinds of device at most, this one would be for {count}; submit "
        "several jobs"
    )
