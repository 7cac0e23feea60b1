"""What a job is for when it is submitted, and while no device is known that it could be for; what
users may have."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from coordinator.fleet.registry import Registry
from coordinator.selection import Selector, parts_of
from coordinator.tuning_log import TuningLog
from coordinator.tuning_log.users import Quota, quotas
from device_agent.build import parse_target
from protos.boards import canonical_target
from protos.errors import Forbidden
from protos.records import Device, JobSpec, Priority


class Submissions:
    """Holds what jobs ask for against the devices that are connected and those ever seen."""

    def __init__(self, tuning_log: TuningLog, registry: Registry) -> None:
        self._log = tuning_log
        self._registry = registry

    async def parts_of(self, spec: JobSpec) -> list[JobSpec]:
        """One spec for each kind of device; see ``selection.parts_of``. Raises BadTarget, too."""
        spec = replace(
            spec,
            target_json=spec.target_json and canonical_target(spec.target_json),
            targets=tuple(map(canonical_target, spec.targets)),
        )
        known = await asyncio.to_thread(self._log.devices)
        parts = parts_of(spec, self._registry.connected(), known)
        for part in parts:
            await asyncio.to_thread(parse_target, part.target_json)
        return parts

    def settled(self, spec: JobSpec) -> list[JobSpec]:
        """The same for a job that waited, by the devices that are connected now."""
        return parts_of(spec, self._registry.connected(), ())

    async def never_matched(self, spec: JobSpec) -> str:
        """What to say if no device that was ever seen matches, for people; empty if one does."""
        selector = Selector.of(spec)
        known: Sequence[Device] = await asyncio.to_thread(self._log.devices)
        if any(selector.matches(device) for device in (*self._registry.connected(), *known)):
            return ""
        return (
            f"no device that was ever seen is {selector.missing(known)}. The job waits for one; "
            "see `tunefarm devices`"
        )

    async def quotas(self) -> dict[str, Quota]:
        """What users may have; those who may have anything are left out."""

        def read() -> dict[str, Quota]:
            with self._log.reading() as connection:
                return quotas(connection)

        return await asyncio.to_thread(read)

    async def check_priority(self, user: str, priority: Priority) -> None:
        """Raises Forbidden for a priority above what the user's jobs may have."""
        highest = (await self.quotas()).get(user, Quota()).highest_priority
        if highest is not None and priority > highest:
            raise Forbidden(
                f"{user}'s jobs have the priority {highest.name.lower()} at most; an administrator "
                "may change that: tunefarm users set"
            )
