"""What is done about devices that fail: set aside, looked at again, restarted, power-cycled.

The ladder's first step is the agent's own: a kernel's process that crashes or hangs is replaced,
and the measurement says so. The next are here, and each is an event in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shlex
import signal
import time
from collections.abc import Awaitable, Callable, Collection

from coordinator.fleet.health import GONE_S, Failure, Health
from coordinator.fleet.registry import Registry, Session
from coordinator.tuning_log import TuningLog, device_events
from protos.errors import BadRequest, LogUnavailable
from protos.records import Device, RestartAgent

log = logging.getLogger(__name__)

COMMAND_TIMEOUT_S = 60.0

Check = Callable[[Session], Awaitable[str]]
"""Looks whether a device is well; what is wrong, or nothing."""


def parse_command(text: str) -> tuple[str, ...]:
    """The words of a power-cycle command; raises BadRequest. No shell will see them."""
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise BadRequest(f"--power-cycle {text!r}: {error}") from error
    if not words:
        raise BadRequest("--power-cycle needs a command, for example 'poe-reset --port 7'")
    return words


class Medic:
    """Lives on the coordinator's event loop."""

    def __init__(
        self,
        tuning_log: TuningLog,
        registry: Registry,
        check: Check,
        power_cycle: tuple[str, ...] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``power_cycle`` is the command that switches a device off and on; none: nobody can."""
        self._log = tuning_log
        self._registry = registry
        self._check = check
        self._power_cycle = power_cycle
        self._clock = clock
        self._gone: dict[str, tuple[float, Device]] = {}
        self._busy: dict[str, asyncio.Task[None]] = {}

    async def stop(self) -> None:
        """End what is under way."""
        tasks = list(self._busy.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ------------------------------------------------------------- what happens to devices

    async def failed(self, session: Session, lease_id: str, why: str) -> None:
        """A device did not do a lease."""
        name = session.device.name
        before = self._registry.health(name)
        health = before.failed(Failure(self._clock(), lease_id, why))
        self._registry.set_health(name, health)
        await self._note(name, "failed", why)
        if health.aside and not before.aside:
            log.warning("device %s is set aside: %s", name, health.reason(self._clock()))
            await self._note(name, "set aside", health.reason(self._clock()))
            if session.restartable and self._registry.session_of(name) is session:
                session.outbox.put_nowait(RestartAgent(why))
                await self._note(name, "restart", "its agent was told to restart")

    def absolve(self, name: str, lease_ids: Collection[str]) -> None:
        """These failures were not the device's."""
        self._registry.set_health(name, self._registry.health(name).absolved(lease_ids))

    def joined(self, name: str) -> None:
        """A device is there (again)."""
        self._gone.pop(name, None)

    def vanished(self, device: Device) -> None:
        """A device has gone without a word."""
        self._gone[device.name] = (self._clock(), device)

    def forget(self, name: str) -> None:
        """Nobody wants to hear of a device any more."""
        self._gone.pop(name, None)

    # ------------------------------------------------------------- what is done about it

    def look(self) -> None:
        """Once a second: begin the health checks and power cycles that are due."""
        now = self._clock()
        for session in list(self._registry.sessions.values()):
            name = session.device.name
            due = self._registry.health(name).check_due(now) and not session.leases
            if due and name not in self._busy and not self._registry.is_held(name):
                self._begin(name, self._check_health(session))
        for name, (since, device) in list(self._gone.items()):
            health = self._registry.health(name)
            waited = now > since + GONE_S and not self._registry.is_held(name)
            if self._power_cycle and waited and health.may_be_cycled(now):
                self._begin(name, self._cycle(device, f"gone for {now - since:.0f} s"))

    def _begin(self, name: str, work: Awaitable[None]) -> None:
        if name in self._busy:
            return

        async def run() -> None:
            try:
                await work
            except Exception:  # nobody awaits it, and the next look must not find it busy
                log.exception("device %s: looking after it failed", name)
            finally:
                self._busy.pop(name, None)

        self._busy[name] = asyncio.create_task(run())

    async def _check_health(self, session: Session) -> None:
        name = session.device.name
        wrong = await self._check(session)
        if not wrong:
            self._registry.set_health(name, Health())
            log.warning("device %s passed its health check and works again", name)
            await self._note(name, "well", "passed its health check")
            return
        health = self._registry.health(name).check_failed(Failure(self._clock(), "", wrong))
        self._registry.set_health(name, health)
        log.warning("device %s failed its health check: %s", name, wrong)
        await self._note(name, "health check failed", wrong)
        if self._power_cycle and health.may_be_cycled(self._clock()):
            await self._cycle(session.device, wrong)

    async def _cycle(self, device: Device, why: str) -> None:
        now = self._clock()
        health = self._registry.health(device.name).cycled_at(now)
        self._registry.set_health(device.name, health)
        log.warning("device %s is power-cycled: %s", device.name, why)
        await self._note(device.name, "power cycle", why)
        answer = await _run(self._power_cycle, device)
        await self._note(device.name, "power cycle done", answer)
        log.warning("device %s: power cycle: %s", device.name, answer)

    async def _note(self, name: str, step: str, text: str) -> None:
        def write() -> None:
            with self._log.writing() as connection:
                device_events.add(connection, name, step, text)

        try:
            await asyncio.to_thread(write)
        except LogUnavailable as error:
            log.warning("device %s: %r is not noted: %s", name, step, error)


async def _run(command: tuple[str, ...], device: Device) -> str:
    """How the command ended, in words. It gets the device in its environment, never in its words:
    names are what agents say."""
    labels = {
        "TUNEFARM_LABEL_" + re.sub(r"[^A-Z0-9]", "_", key.upper()): value
        for key, value in device.labels.items()
    }
    told = {"TUNEFARM_DEVICE": device.name, "TUNEFARM_HOST": device.host, **labels}
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, **told},
            start_new_session=True,
        )
    except (OSError, ValueError) as error:  # a label with what no environment can hold
        return f"{command[0]} can't be run: {error}"
    try:
        said, _ = await asyncio.wait_for(process.communicate(), COMMAND_TIMEOUT_S)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        if isinstance(error, TimeoutError):
            return f"{command[0]} was ended after {COMMAND_TIMEOUT_S:.0f} s"
        raise
    last = said.decode(errors="replace").strip().splitlines()[-1:]
    return f"{command[0]} ended with {process.returncode}" + "".join(f": {line}" for line in last)
