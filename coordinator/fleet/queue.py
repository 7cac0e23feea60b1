"""What waits for devices, and how it becomes leases.

Trials wait in batches, ``dispatcher`` decides who gets them, and the leases go down the sessions'
streams.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from coordinator.fleet import dispatcher
from coordinator.fleet.leases import Batch, Leases, Outstanding, PendingTrial, as_it_travels
from coordinator.fleet.registry import Registry, Session
from coordinator.fleet.terms import NO_TERMS, Terms
from protos.records import CancelLease, KernelWork, Lease, Trial

LEASE_SLACK_S = 60.0

DISPATCH_PAUSE = 9.0
"""After dispatching, times what that took. A thousand devices take some milliseconds."""


class BuilderGoneError(Exception):
    """The device that built a program, and alone may have it, can't measure it now."""


class Queue:
    """The batches of all jobs, and the leases that devices hold. Lives on the event loop."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.leases = Leases()
        self._batches: dict[int, Batch] = {}
        self._batch_ids = itertools.count()
        self._dispatching: asyncio.TimerHandle | None = None
        self._dispatch_again_at = 0.0
        self._weights: dict[str, float] = {}
        self._terms: dict[str, Terms] = {}
        self._had: dict[str, float] = {}  # trials of each job over its weight

    def set_weight(self, job_id: str, weight: float) -> None:
        """What a job gets of the devices, relative to the others."""
        self._weights[job_id] = weight

    def set_terms(self, job_id: str, terms: Terms) -> None:
        """Which devices a job gets, and how."""
        self._terms[job_id] = terms

    def forget_job(self, job_id: str) -> None:
        """A job is over."""
        self._terms.pop(job_id, None)
        self._weights.pop(job_id, None)
        self._had.pop(job_id, None)

    def _arrives(self, job_id: str) -> None:
        """A job wants devices. One that has wanted none meanwhile has no claim to make up for
        that."""
        others = {batch.job_id for batch in self._batches.values()} - {job_id}
        if not any(batch.job_id == job_id for batch in self._batches.values()):
            least = min((self._had.get(other, 0.0) for other in others), default=0.0)
            self._had[job_id] = max(self._had.get(job_id, 0.0), least)

    # ------------------------------------------------------------- batches

    def add(self, batch: Batch) -> int:
        """Let a job's batch wait; returns what ``drop`` takes."""
        self._arrives(batch.job_id)
        batch_id = next(self._batch_ids)
        self._batches[batch_id] = batch
        self.dispatch()
        return batch_id

    def drop(self, batch_id: int) -> None:
        """Drop a batch; what devices still hold of it is called off."""
        first = self._batches.pop(batch_id)
        dropped = {id(batch) for batch in (first, *map(self._batches.pop, first.parts))}
        for held in self.leases:
            if id(held.batch) in dropped:
                if not held.done:
                    held.session.outbox.put_nowait(CancelLease(held.lease.lease_id))
                self.leases.end(held.lease.lease_id)
        self.dispatch()

    def waiting(self) -> Counter[str]:
        """How many trials and whole models wait for a device, by the kind that they are for."""
        found: Counter[str] = Counter()
        for batch in self._batches.values():
            found[batch.kind] += batch.left
        return found

    def abandon_builds(self) -> None:
        """Let go of trials that wait for a device that built them and can't have them any more: it
        is gone, or gets no work now. Their futures raise BuilderGoneError."""
        for batch in self._batches.values():
            builder = batch.builder
            if builder is None or not batch.waiting:
                continue
            here = builder.session_id in self._registry.sessions
            if not here or self._registry.withheld(builder.device.name):
                abandoned, batch.waiting = batch.waiting, []
                for trial in abandoned:
                    if not trial.result.done():
                        trial.result.set_exception(BuilderGoneError(builder.device.name))

    def set_apart(self, batch: Batch, trial: PendingTrial) -> None:
        """Let a trial of a batch wait by itself."""
        batch_id = next(self._batch_ids)
        self._batches[batch_id] = replace(batch, waiting=[trial], parts=[])
        batch.parts.append(batch_id)
        trial.alone = True

    # ------------------------------------------------------------- leases

    def dispatch(self) -> None:
        """Lease what waits to the devices that can take it, soon: once for all that happens until
        then, and so seldom that it takes a tenth of this loop's time at most. A device has a lease
        in reserve."""
        if self._dispatching is None:
            loop = asyncio.get_running_loop()
            at = max(loop.time(), self._dispatch_again_at)
            self._dispatching = loop.call_at(at, self._dispatch_now)

    def _dispatch_now(self) -> None:
        self._dispatching = None
        began = time.monotonic()
        self._dispatch()
        ended = time.monotonic()  # the loop's clock, too
        self._dispatch_again_at = ended + DISPATCH_PAUSE * (ended - began)

    def _dispatch(self) -> None:
        sessions = list(self._registry.sessions.values())
        all_share = not any(known.exclusive for known in self._terms.values())
        if all_share:  # who has no room is of no interest: of a thousand that is nearly all
            most = dispatcher.LEASES_PER_DEVICE
            sessions = [session for session in sessions if len(session.leases) < most]
        if not sessions:
            return
        terms = {batch.job_id: self._terms_of(batch.job_id) for batch in self._batches.values()}
        barred = {job_id: known.barred(sessions) for job_id, known in terms.items()}
        waiting = [
            dispatcher.Waiting(
                *(key, batch.kind, batch.left, batch.model_result is not None, batch.job_id),
                self._weights.get(batch.job_id, 1.0),
                barred[batch.job_id] | batch.resting,
                terms[batch.job_id].exclusive,
                batch.builder.session_id if batch.builder else "",
            )
            for key, batch in self._batches.items()
            if batch.left
        ]
        seats = [
            dispatcher.Seat(
                session.session_id,
                session.device.kind,
                len(session.leases),
                bool(self._registry.withheld(session.device.name)),
                *(() if all_share else self._jobs_on(session)),
            )
            for session in sessions
        ]
        for assignment in dispatcher.assign(waiting, seats, self._had):
            session = self._registry.sessions[assignment.session_id]
            batch = self._batches[assignment.batch_id]
            self.lease(batch, session, assignment.trials)
            self._had[batch.job_id] = self._had.get(batch.job_id, 0.0) + assignment.cost

    def _terms_of(self, job_id: str) -> Terms:
        return self._terms.get(job_id, NO_TERMS)

    def _jobs_on(self, session: Session) -> tuple[frozenset[str], str]:
        """Whose leases a device holds, and which of these jobs wants no other beside it."""
        jobs = frozenset(lease.job_id for lease in session.leases.values())
        return jobs, next((job for job in jobs if self._terms_of(job).exclusive), "")

    def lease(self, batch: Batch, session: Session, count: int) -> None:
        """Give a device the first ``count`` trials that wait in a batch, or its whole model."""
        lease_id = uuid.uuid4().hex[:16]
        trials: dict[str, PendingTrial] = {}
        if isinstance(batch.work, KernelWork):
            taken, batch.waiting = batch.waiting[:count], batch.waiting[count:]
            for trial in taken:
                trial.attempts += 1
                trials[trial.candidate.key] = trial
            expires_s = LEASE_SLACK_S + batch.work.evaluator.timeout_s * (count + 1)
            lease = Lease(lease_id, batch.job_id, expires_s, kernel=_kernel(batch.work, taken))
        else:
            batch.model_waits = False
            batch.model_attempts += 1
            rounds = len(batch.work.variants) * batch.work.evaluator.timeout_s
            lease = Lease(lease_id, batch.job_id, LEASE_SLACK_S + rounds, model=batch.work)
        deadline = time.monotonic() + lease.expires_s
        self.leases.add(Outstanding(lease, batch, session, deadline, trials))
        session.outbox.put_nowait(as_it_travels(lease, session, batch.builder is session))


def _kernel(work: KernelWork, taken: Sequence[PendingTrial]) -> KernelWork:
    return replace(work, trials=tuple(Trial(t.candidate.key, t.artifact) for t in taken))
