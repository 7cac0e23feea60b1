"""Results of leases that an earlier coordinator gave, or that were taken back meanwhile.

Agents keep them and say them first when they join again. A job that goes on after its coordinator
was killed waits for that, so that it measures nothing twice and its budget counts what was
measured; what comes later still, it is told.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from coordinator.fleet.lease_log import LeaseLog
from coordinator.fleet.registry import HEARTBEAT_S, Registry
from protos.records import Candidate, Measurement

log = logging.getLogger(__name__)

LONGEST_ABSENCE_S = 10.0 + 2 * HEARTBEAT_S
"""After this coordinator was started: an agent tries again after ten seconds at most
(``device_agent.agent.LONGEST_DELAY_S``), and its first heartbeat follows what it had kept."""

Listener = Callable[[Sequence[tuple[Candidate, Measurement]]], None]


class LateResults:
    """Who waits for late results. Lives on the event loop."""

    def __init__(self, registry: Registry, lease_log: LeaseLog) -> None:
        self._registry = registry
        self._lease_log = lease_log
        self._listeners: dict[str, Listener] = {}
        self._started = time.monotonic()

    async def hear_out(self, job_id: str) -> None:
        """Wait until the devices that hold leases of this job have said what they kept, or have
        been away for LONGEST_ABSENCE_S. Raises LogUnavailable."""
        devices = await self._lease_log.devices_with(job_id)
        left_s = self._started + LONGEST_ABSENCE_S - time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, left_s)):
                while not devices <= self._registry.heard_out:
                    await self._registry.wait_for_change()
        except TimeoutError:
            log.info(
                "job %s: not waiting any longer for what was measured by %s",
                *(job_id, ", ".join(sorted(devices - self._registry.heard_out))),
            )

    def listen(self, job_id: str, listener: Listener) -> None:
        """Tell this, and nobody else, of a job's late results from now on."""
        self._listeners[job_id] = listener

    def forget(self, job_id: str) -> None:
        """A job's run is over."""
        self._listeners.pop(job_id, None)

    def came(self, job_id: str, results: Sequence[tuple[Candidate, Measurement]]) -> None:
        """These are in the log now."""
        if job_id in self._listeners:
            self._listeners[job_id](results)
