"""What the fleet keeps of trials and leases on their way."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from coordinator.fleet.registry import Session
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


@dataclass
class PendingTrial:
    """A trial on its way: its candidate, and the future that its measurement resolves."""

    candidate: Candidate
    artifact: Artifact
    predicted_score: float | None
    result: asyncio.Future[Measurement]
    attempts: int = 0


@dataclass
class Batch:
    """Trials of one workload (``work`` without trials), or one run of a whole model.

    ``kind`` is the kind of device that it is for.
    """

    job_id: str
    kind: str
    work: KernelWork | ModelWork
    waiting: list[PendingTrial] = field(default_factory=list)
    model_result: asyncio.Future[ModelMeasurement] | None = None
    model_waits: bool = False
    model_attempts: int = 0

    @property
    def left(self) -> int:
        """How many trials still wait for a device."""
        return len(self.waiting) + int(self.model_waits)


@dataclass
class Outstanding:
    """A lease that a device holds; ``suspect`` are the keys of trials to be measured again."""

    lease: Lease
    batch: Batch
    session: Session
    deadline: float
    trials: dict[str, PendingTrial]
    suspect: set[str] = field(default_factory=set)

    @property
    def done(self) -> bool:
        """True if every result has come."""
        model = self.batch.model_result
        return all(trial.result.done() for trial in self.trials.values()) and (
            model is None or model.done()
        )


def artifacts(lease: Lease) -> list[Artifact]:
    if lease.kernel is not None:
        watchers = (lease.kernel.canary, lease.kernel.pacemaker)
        trials = (trial.artifact for trial in lease.kernel.trials)
        return [lease.kernel.reference, *(a for a in watchers if a is not None), *trials]
    assert lease.model is not None
    return [lease.model.examples, *(variant.artifact for variant in lease.model.variants)]


def as_it_travels(lease: Lease, session: Session) -> Lease:
    """The lease as it travels: small artifacts new to the session carry their bytes."""

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

    kernel = lease.kernel
    return replace(
        lease,
        kernel=replace(
            kernel,
            reference=once(kernel.reference),
            canary=once(kernel.canary) if kernel.canary is not None else None,
            pacemaker=once(kernel.pacemaker) if kernel.pacemaker is not None else None,
            trials=tuple(replace(t, artifact=travel(t.artifact)) for t in kernel.trials),
        ),
    )
