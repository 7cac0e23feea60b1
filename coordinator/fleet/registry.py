"""Who is there: the sessions of connected agents and the leases they hold."""

from __future__ import annotations

import asyncio
import logging
import math
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coordinator.fleet.health import Health
from coordinator.fleet.set_aside import REFERENCE, Standing, after_lease
from coordinator.fleet.siblings import Siblings
from coordinator.selection import ANY, Selector, listed
from coordinator.tuning_log.devices import Hold
from protos.errors import Conflict, Forbidden
from protos.identity import Identity
from protos.labels import is_fragile
from protos.records import Device, DeviceState, DeviceStatus, Lease

log = logging.getLogger(__name__)

HEARTBEAT_S = 2.0
SILENCE_S = 10.0
"""An agent that has said nothing for this long is gone."""


@dataclass
class Session:
    """One connected agent. ``outbox`` is what goes down its stream; None ends the stream.

    ``identity`` is whom its certificate names; None on loopback. ``instance`` names its process,
    and ``restartable`` says that something starts it again when it exits. One that ``said_goodbye``
    ends on purpose. ``told_of_compiler`` notes that people were told why it builds nothing,
    ``heard_out`` that all it had kept from before has come.
    """

    device: Device
    identity: Identity | None = None
    instance: str = ""
    restartable: bool = False
    session_id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    outbox: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    leases: dict[str, Lease] = field(default_factory=dict)
    sent_artifacts: set[str] = field(default_factory=set)
    last_heard: float = field(default_factory=time.monotonic)
    said_goodbye: bool = False
    told_of_compiler: bool = False
    heard_out: bool = False

    def heard(self) -> None:
        """Note a sign of life."""
        self.last_heard = time.monotonic()

    @property
    def silent(self) -> bool:
        """True if it must be taken for gone."""
        return time.monotonic() - self.last_heard > SILENCE_S


class Registry:
    """The sessions by id, and every device that was ever seen by this coordinator."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` says, in seconds, when a device that is set aside may be tried again."""
        self._clock = clock
        self._standings: dict[str, Standing] = {}
        self._holds: dict[str, Hold] = {}
        self._healths: dict[str, Health] = {}
        self.sessions: dict[str, Session] = {}
        self._seen: dict[str, Device] = {}
        self._errors: dict[str, str] = {}
        self._siblings = Siblings()
        self._changed = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []

    def join(
        self,
        device: Device,
        identity: Identity | None = None,
        instance: str = "",
        restartable: bool = False,
    ) -> Session:
        """A new session; raises Conflict if a live device of that name is here already, Forbidden
        if it is not the one that ``identity`` names."""
        if identity is not None and identity.name != device.name:
            raise Forbidden(
                f"the certificate is {identity.name}'s, and this device is named {device.name!r}; "
                "start the agent with the name that it was enrolled with, or enrol it anew"
            )
        for session in self.sessions.values():
            if session.device.name == device.name and not session.silent:
                raise Conflict(
                    f"a device named {device.name!r} is connected already; "
                    "start the agent with another --name, or stop the other one first"
                )
        session = Session(device, identity, instance, restartable)
        self.sessions[session.session_id] = session
        self._seen[device.name] = device
        self._errors.pop(device.name, None)
        self._standings.pop(device.name, None)
        self._notify()
        return session

    def beat(self, session: Session) -> None:
        """A heartbeat: an agent says what it kept before the first."""
        if not session.heard_out:
            session.heard_out = True
            self._notify()

    @property
    def heard_out(self) -> set[str]:
        """The names of the connected devices that have said all that they had kept."""
        return {session.device.name for session in self.sessions.values() if session.heard_out}

    def leave(self, session: Session, error: str = "") -> None:
        """Forget a session; ``error`` is shown with the device."""
        self.sessions.pop(session.session_id, None)
        if error:
            self._errors[session.device.name] = error
        self._notify()

    def note_error(self, device: str, error: str) -> None:
        """Show ``error`` with the device from now on."""
        self._errors[device] = error

    def lease_ended(self, device: str, ratio: float, drifts: bool, of: str = REFERENCE) -> None:
        """Take into account what the canary of a lease said of its device."""
        now = self._clock()
        standing = after_lease(self._standing(device), ratio, drifts, now, of)
        if standing.aside(now) and not self._standing(device).aside(now):
            log.warning("device %s is set aside: %s", device, standing.reason(now))
        self._standings[device] = standing

    def canary_took(self, device: Device, canary: str, seconds: float) -> float | None:
        """Note what this canary (its SHA-256) takes on a device, seconds; returns what that is of
        what it takes on others of its kind, if it is this device that is not like them."""
        if not (math.isfinite(seconds) and seconds > 0):
            return None
        return self._siblings.note(device, canary, seconds)

    def _standing(self, device: str) -> Standing:
        return self._standings.get(device, Standing())

    def health(self, device: str) -> Health:
        """What its failures say of a device; ``Medic`` keeps them."""
        return self._healths.get(device, Health())

    def set_health(self, device: str, health: Health) -> None:
        """See ``health``."""
        self._healths[device] = health

    def set_aside(self, device: str) -> str:
        """Why this device gets no work now; empty if it does."""
        now = self._clock()
        return self.health(device).reason(now) or self._standing(device).reason(now)

    def decide(self, device: str, held: Hold | None) -> None:
        """What people decided of a device: it is held, or works again (None), whatever its canaries
        and failures said."""
        if held is None:
            self._holds.pop(device, None)
            self._standings.pop(device, None)
            self._healths.pop(device, None)
        else:
            self._holds[device] = held

    def withheld(self, device: str) -> str:
        """Why this device gets no work now, by people or by its canaries; empty if it does."""
        held = self._holds.get(device)
        if held is None:
            return self.set_aside(device)
        why = f": {held.reason}" if held.reason else ""
        return f"{held.state.name.lower()} by {held.held_by}{why}"

    def is_quarantined(self, device: str) -> bool:
        """Whether people said that this device is not to be trusted."""
        held = self._holds.get(device)
        return held is not None and held.state is DeviceState.QUARANTINED

    def is_held(self, device: str) -> bool:
        """Whether people have this device in hand."""
        return device in self._holds

    def session_of(self, device: str) -> Session | None:
        """The session of a device that is here."""
        return next((s for s in self.sessions.values() if s.device.name == device), None)

    def forget(self, device: str) -> None:
        """List a device that is gone no more."""
        for known in (*(self._seen, self._errors, self._standings, self._holds, self._healths),):
            known.pop(device, None)
        self._siblings.forget(device)

    def none_left(self, kind: str, selector: Selector = ANY) -> str:
        """Why nothing is measured if all devices of this kind are withheld, or are not those that a
        job asked for; empty otherwise."""
        devices = [device for device in self.connected() if device.kind == kind]
        reasons = [
            f"{device.name} ({why})"
            for device in devices
            if (why := selector.unmet(device) or self.withheld(device.name))
        ]
        return listed(reasons) if devices and len(reasons) == len(devices) else ""

    def connected(self) -> list[Device]:
        """The connected devices, by name."""
        devices = [session.device for session in self.sessions.values()]
        return sorted(devices, key=lambda device: device.name)

    def matching(self, selector: Selector) -> list[Device]:
        """The connected devices that may do such a job's work, by name."""
        return [device for device in self.connected() if selector.matches(device)]

    def missing(self, selector: Selector) -> str:
        """What such a job waits for, for people; empty if a device for it is connected."""
        return "" if self.matching(selector) else selector.missing(self.connected())

    def devices_for(self, target_json: str) -> list[Device]:
        """The connected devices that have exactly this target, by name."""
        return self.matching(Selector(target_json))

    def labels(self, device: str) -> Mapping[str, str]:
        """The labels of a device, by its name; none if it was never seen."""
        return self._seen[device].labels if device in self._seen else {}

    def present(self, kind: str, selector: Selector = ANY) -> int:
        """How many devices of this kind are connected that a job may have."""
        devices = [session.device for session in self.sessions.values()]
        return sum(device.kind == kind and not selector.unmet(device) for device in devices)

    def toolchains(self, kind: str, built_with: Mapping[str, str]) -> list[dict[str, str]]:
        """What a measurement depends on besides candidate and kind of device: the builder's tools
        and the device's, once for each set that a device of this kind has. Such devices measure for
        each other, whatever else differs between them."""
        found: list[dict[str, str]] = []
        for device in self._seen.values():
            tools = {**device.tool_versions, **built_with}
            if device.kind == kind and tools not in found:
                found.append(tools)
        return found

    def any_fragile(self, kind: str) -> bool:
        """Whether a connected device of this kind is marked as one that must not hang."""
        return any(
            session.device.kind == kind and is_fragile(session.device.labels)
            for session in self.sessions.values()
        )

    async def wait_for_change(self) -> None:
        """Return when somebody has joined or left."""
        changed = self._changed
        await changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def statuses(
        self, measurements: Mapping[str, int], known: Sequence[Device] = ()
    ) -> list[DeviceStatus]:
        """Every device seen or ``known`` otherwise, with its state; ``measurements`` counts them by
        device name."""
        present = {session.device.name: session for session in self.sessions.values()}
        statuses = []
        canaries = self._siblings.shown()
        every = {device.name: device for device in known} | self._seen
        for name, device in sorted(every.items()):
            state = self._state(name, present.get(name))
            statuses.append(
                DeviceStatus(
                    device,
                    state,
                    device.kind,
                    measurements.get(name, 0),
                    self._shown(name, state),
                    *canaries.get(name, (None, None)),
                )
            )
        return statuses

    def _state(self, name: str, session: Session | None) -> DeviceState:
        if session is None:
            return DeviceState.GONE
        if (held := self._holds.get(name)) is not None:
            return held.state
        if self.set_aside(name):
            return DeviceState.SET_ASIDE
        return DeviceState.BUSY if session.leases else DeviceState.IDLE

    def _shown(self, name: str, state: DeviceState) -> str:
        """What people see of a device beside its state."""
        error = self._errors.get(name, "")
        if state is DeviceState.GONE and name in self._holds:
            return "; ".join(text for text in (self.withheld(name), error) if text)
        return self.withheld(name) or error
