"""What the fleet keeps of trials and leases on their way."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from coordinator.fleet.registry import Session
from coordinator.stages import StageClock
from protos.errors import NotFound
from protos.records import (
    MAX_INLINE_BYTES,
    Artifact,
    Candidate,
    KernelWork,
    Lease,
    Measurement,
    ModelMeasurement,
    ModelWork,
)

REMEMBERED_LEASES = 64
"""Leases that are over, but whose late results would still be taken."""


REST_S, LONGER = 5.0, 3.0
"""How long a device that could not do a lease gets none of the same batch, and how many times as
long after each further one: others have their chance, and a full disk is emptied meanwhile."""


@dataclass
class PendingTrial:
    """A trial on its way: its candidate, and the future that its measurement resolves.

    One that is ``alone`` was on a device that vanished, and waits in a batch of its own;
    ``lost_with`` are those devices and leases.
    """

    candidate: Candidate
    artifact: Artifact
    predicted_score: float | None
    result: asyncio.Future[Measurement]
    attempts: int = 0
    alone: bool = False
    lost_with: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Batch:
    """Trials of one workload (``work`` without trials), or one run of a whole model.

    ``kind`` is the kind of device that it is for. ``clock`` counts what sending trials takes; the
    model's transfer belongs to packaging. Measurements that are not ``kept`` are no experiments on
    an operator: the log does not get them. ``built_with`` are the versions of the tools that built
    the artifacts, as a part of a measurement's circumstances. ``parts`` are batches that were taken
    out of this one, by their ids, and end with it. A ``health_check`` is never repeated.
    ``builder`` is the device that built the artifacts, and alone may have them (None: all may).
    ``rests`` says of sessions whose devices could not do a lease of it how often that was, and
    until when they get no other, by the monotonic clock.
    """

    job_id: str
    kind: str
    work: KernelWork | ModelWork
    waiting: list[PendingTrial] = field(default_factory=list)
    clock: StageClock | None = None
    model_result: asyncio.Future[ModelMeasurement] | None = None
    model_waits: bool = False
    model_attempts: int = 0
    kept: bool = True
    built_with: Mapping[str, str] = field(default_factory=dict)
    parts: list[int] = field(default_factory=list)
    health_check: bool = False
    builder: Session | None = None
    rests: dict[str, tuple[int, float]] = field(default_factory=dict)

    def rest(self, session: Session) -> None:
        """A device could not do a lease of this. A replay device never will, and need not wait."""
        if session.device.cpus:
            times, _until = self.rests.get(session.session_id, (0, 0.0))
            until = time.monotonic() + REST_S * LONGER**times
            self.rests[session.session_id] = (times + 1, until)

    @property
    def resting(self) -> frozenset[str]:
        """The sessions that get no lease of it now."""
        now = time.monotonic()
        return frozenset(one for one, (_times, until) in self.rests.items() if now < until)

    @property
    def left(self) -> int:
        """How many trials still wait for a device."""
        return len(self.waiting) + int(self.model_waits)


@dataclass
class Outstanding:
    """A lease that a device holds; ``suspect`` are the keys of trials to be measured again,
    ``said_finished`` that its device is done with it."""

    lease: Lease
    batch: Batch
    session: Session
    deadline: float
    trials: dict[str, PendingTrial]
    suspect: set[str] = field(default_factory=set)
    said_finished: bool = False

    @property
    def done(self) -> bool:
        """True if every result has come."""
        model = self.batch.model_result
        return all(trial.result.done() for trial in self.trials.values()) and (
            model is None or model.done()
        )

    def sending(self) -> contextlib.AbstractContextManager[None]:
        """While it, or what it names, goes to its device."""
        clock = self.batch.clock
        return clock.stage("transfer") if clock else contextlib.nullcontext()


class Leases:
    """The leases that devices hold, and the last of those that are over."""

    def __init__(self) -> None:
        self._held: dict[str, Outstanding] = {}
        self._over: OrderedDict[str, Outstanding] = OrderedDict()

    def __iter__(self) -> Iterator[Outstanding]:
        """Those that are held; they may be ended meanwhile."""
        return iter(list(self._held.values()))

    def add(self, held: Outstanding) -> None:
        """A device holds this from now on."""
        lease = held.lease
        held.session.leases[lease.lease_id] = lease
        self._held[lease.lease_id] = held

    def held(self, lease_id: str) -> Outstanding | None:
        """What a device holds under this id."""
        return self._held.get(lease_id)

    def known(self, lease_id: str) -> Outstanding | None:
        """What a device holds under this id, or held lately."""
        return self._held.get(lease_id) or self._over.get(lease_id)

    def end(self, lease_id: str) -> Outstanding | None:
        """The device holds it no more; None if it did not."""
        held = self._held.pop(lease_id, None)
        if held is not None:
            self._over[lease_id] = held
            while len(self._over) > REMEMBERED_LEASES:
                self._over.popitem(last=False)
            held.session.leases.pop(lease_id, None)
        return held

    def naming(self, sha256: str, device: str | None) -> tuple[Outstanding, Artifact]:
        """A lease of this device (None: of any) that names this artifact, and the artifact; raises
        NotFound if none does."""
        for held in self._held.values():
            if device is not None and held.session.device.name != device:
                continue
            for artifact in artifacts(held.lease):
                if artifact.sha256 == sha256:
                    return held, artifact
        raise NotFound(f"no lease names the artifact {sha256!r}")


def artifacts(lease: Lease) -> list[Artifact]:
    if lease.kernel is not None:
        watchers = (lease.kernel.canary, lease.kernel.pacemaker)
        trials = (trial.artifact for trial in lease.kernel.trials)
        return [lease.kernel.reference, *(a for a in watchers if a is not None), *trials]
    assert lease.model is not None
    return [lease.model.examples, *(variant.artifact for variant in lease.model.variants)]


def as_it_travels(lease: Lease, session: Session, built_there: bool = False) -> Lease:
    """The lease as it travels: small artifacts new to the session carry their bytes, but not those
    of trials that were ``built_there``."""

    def travel(artifact: Artifact) -> Artifact:
        if artifact.size_bytes > MAX_INLINE_BYTES or artifact.sha256 in session.sent_artifacts:
            return artifact.without_data()
        return artifact

    if lease.model is not None:
        work = lease.model
        variants = tuple(replace(v, artifact=v.artifact.without_data()) for v in work.variants)
        return replace(
            lease, model=replace(work, variants=variants, examples=work.examples.without_data())
        )
    assert lease.kernel is not None

    def once(artifact: Artifact) -> Artifact:
        travelling = travel(artifact)
        session.sent_artifacts.add(artifact.sha256)
        return travelling

    def of_trial(artifact: Artifact) -> Artifact:
        return artifact.without_data() if built_there else travel(artifact)

    kernel = lease.kernel
    return replace(
        lease,
        kernel=replace(
            kernel,
            reference=once(kernel.reference),
            canary=once(kernel.canary) if kernel.canary is not None else None,
            pacemaker=once(kernel.pacemaker) if kernel.pacemaker is not None else None,
            trials=tuple(replace(t, artifact=of_trial(t.artifact)) for t in kernel.trials),
        ),
    )
