"""Who is there: the sessions of connected agents and the leases they hold."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from protos.errors import Conflict
from protos.records import Device, DeviceState, DeviceStatus, Lease

HEARTBEAT_S = 2.0
SILENCE_S = 10.0
"""An agent that has said nothing for this long is gone."""


@dataclass
class Session:
    """One connected agent. ``outbox`` is what goes down its stream; None ends the stream."""

    device: Device
    session_id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    outbox: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    leases: dict[str, Lease] = field(default_factory=dict)
    sent_artifacts: set[str] = field(default_factory=set)
    last_heard: float = field(default_factory=time.monotonic)

    def heard(self) -> None:
        """Note a sign of life."""
        self.last_heard = time.monotonic()

    @property
    def silent(self) -> bool:
        """True if it must be taken for gone."""
        return time.monotonic() - self.last_heard > SILENCE_S


class Registry:
    """The sessions by id, and every device that was ever seen by this coordinator."""

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self._seen: dict[str, Device] = {}
        self._errors: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []

    def join(self, device: Device) -> Session:
        """A new session; raises Conflict if a live device of that name is here already."""
        for session in self.sessions.values():
            if session.device.name == device.name and not session.silent:
                raise Conflict(
                    f"a device named {device.name!r} is connected already; "
                    "start the agent with another --name, or stop the other one first"
                )
        session = Session(device)
        self.sessions[session.session_id] = session
        self._seen[device.name] = device
        self._errors.pop(device.name, None)
        self._notify()
        return session

    def leave(self, session: Session, error: str = "") -> None:
        """Forget a session; ``error`` is shown with the device."""
        self.sessions.pop(session.session_id, None)
        if error:
            self._errors[session.device.name] = error
        self._notify()

    def note_error(self, device: str, error: str) -> None:
        """Show ``error`` with the device from now on."""
        self._errors[device] = error

    def devices_for(self, target_json: str) -> list[Device]:
        """The connected devices that have exactly this target, by name."""
        devices = [s.device for s in self.sessions.values() if s.device.target_json == target_json]
        return sorted(devices, key=lambda device: device.name)

    def present(self, kind: str) -> int:
        """How many devices of this kind are connected."""
        return sum(session.device.kind == kind for session in self.sessions.values())

    async def wait_for_change(self) -> None:
        """Return when somebody has joined or left."""
        changed = self._changed
        await changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def statuses(self, measurements: dict[str, int]) -> list[DeviceStatus]:
        """Every device seen, with its state; ``measurements`` counts them by device name."""
        present = {session.device.name: session for session in self.sessions.values()}
        statuses = []
        for name, device in sorted(self._seen.items()):
            session = present.get(name)
            if session is None:
                state = DeviceState.GONE
            else:
                state = DeviceState.BUSY if session.leases else DeviceState.IDLE
            statuses.append(
                DeviceStatus(
                    device,
                    state,
                    device.kind,
                    measurements.get(name, 0),
                    self._errors.get(name, ""),
                )
            )
        return statuses
