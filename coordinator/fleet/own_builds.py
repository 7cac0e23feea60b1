"""Builds by the devices themselves, where an agent has the coordinator's compiler.

A batch goes to one device, which builds it, sends what it built, and measures it; nobody else runs
a byte of that. What a device does not build, because it left or has no time, the coordinator's own
builders do. Nothing here is durable: a build that is lost is made again.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from coordinator.fleet.builders import BUILD_TIMEOUT_S
from coordinator.fleet.registry import Registry, Session
from coordinator.selection import Selector
from device_agent.build import BuildOutcome
from protos.bounds import MAX_PROGRAM_CHARACTERS
from protos.errors import ProtocolViolation
from protos.records import (
    Build,
    BuildWork,
    Built,
    CancelLease,
    Candidate,
    Lease,
    LeaseFinished,
    MeasurementStatus,
    Task,
)

log = logging.getLogger(__name__)

BATCHES_PER_DEVICE = 2
"""One that is built while the other is measured."""

SLACK_S = 60.0

FAILED_BUILDS = (MeasurementStatus.BUILD_ERROR, MeasurementStatus.BUILD_TIMEOUT)


@dataclass
class _Order:
    """A lease of builds: the keys of its candidates, and what became of them so far."""

    session: Session
    keys: frozenset[str]
    outcomes: dict[str, BuildOutcome] = field(default_factory=dict)
    over: asyncio.Event = field(default_factory=asyncio.Event)


class OwnBuilds:
    """Leases of builds. Lives on the coordinator's event loop."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._orders: dict[str, _Order] = {}

    def builder(
        self, kind: str, selector: Selector, built_with: Mapping[str, str]
    ) -> Session | None:
        """The device with the least to build of those of this kind that build with just these
        tools, work, and have room; None if there is none."""
        self._compare_compilers(kind, built_with)
        orders = Counter(order.session.session_id for order in self._orders.values())
        able = [
            (orders[session.session_id], session)
            for session in self._registry.sessions.values()
            if session.device.builds_with == built_with
            and session.device.kind == kind
            and not selector.unmet(session.device)
            and not self._registry.withheld(session.device.name)
        ]
        fewest, session = min(able, key=lambda one: one[0], default=(0, None))
        return session if fewest < BATCHES_PER_DEVICE else None

    def _compare_compilers(self, kind: str, built_with: Mapping[str, str]) -> None:
        """Say once of each device why it builds nothing although it could."""
        for session in self._registry.sessions.values():
            own = session.device.builds_with
            if (
                own
                and own != built_with
                and session.device.kind == kind
                and not session.told_of_compiler
            ):
                session.told_of_compiler = True
                why = f"it builds nothing: its compiler is {_said(own)}, not {_said(built_with)}"
                log.warning("device %s: %s", session.device.name, why)
                self._registry.note_error(session.device.name, why)

    async def build(
        self, session: Session, job_id: str, task: Task, candidates: Sequence[Candidate]
    ) -> dict[str, BuildOutcome]:
        """What became of each candidate that the device built, by its key."""
        builds = tuple(
            Build(candidate.key, candidate.trace_json)
            for candidate in candidates
            if len(candidate.trace_json) <= MAX_PROGRAM_CHARACTERS
        )
        if not builds or len(task.workload_json) > MAX_PROGRAM_CHARACTERS:
            return {}
        work = BuildWork(task.workload_key, task.workload_json, builds, BUILD_TIMEOUT_S)
        expires_s = SLACK_S + BUILD_TIMEOUT_S * len(builds)
        lease = Lease(uuid.uuid4().hex[:16], job_id, expires_s, build=work)
        order = _Order(session, frozenset(build.candidate_key for build in builds))
        self._orders[lease.lease_id] = order
        session.outbox.put_nowait(lease)
        try:
            async with asyncio.timeout(expires_s):
                await order.over.wait()
        except TimeoutError:
            log.warning("device %s has not built in %.0f s", session.device.name, expires_s)
        finally:
            del self._orders[lease.lease_id]
            if not order.over.is_set():
                session.outbox.put_nowait(CancelLease(lease.lease_id))
        return order.outcomes

    def received(self, session: Session, built: Built) -> None:
        """What became of a candidate; nobody may wait for it any more. Raises ProtocolViolation for
        what no build can be."""
        failed = built.status in FAILED_BUILDS
        artifact = built.artifact
        if failed == (built.status is MeasurementStatus.OK) or failed == (artifact is not None):
            raise ProtocolViolation(f"a build that is {built.status.name}, with or without bytes")
        if artifact is not None and (
            not artifact.data or artifact != type(artifact).of(artifact.data)
        ):
            raise ProtocolViolation("a build whose bytes are not what it says of them")
        order = self._orders.get(built.lease_id)
        if order is None or order.session is not session:
            return
        if built.candidate_key not in order.keys:
            raise ProtocolViolation(f"a build of {built.candidate_key[:12]}, which was not leased")
        order.outcomes[built.candidate_key] = BuildOutcome(
            artifact, built.status, built.error, 0.0, ()
        )
        if len(order.outcomes) == len(order.keys):
            order.over.set()

    def finished(self, session: Session, message: LeaseFinished) -> bool:
        """Whether that was a lease of builds, which is over then."""
        order = self._orders.get(message.lease_id)
        if order is None or order.session is not session:
            return False
        if message.error:
            self._registry.note_error(session.device.name, message.error)
            log.warning("device %s does not build: %s", session.device.name, message.error)
        order.over.set()
        return True

    def left(self, session: Session) -> None:
        """A device is gone, and builds nothing more."""
        for order in self._orders.values():
            if order.session is session:
                order.over.set()


def _said(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {versions[name]}" for name in sorted(versions)) or "none"
