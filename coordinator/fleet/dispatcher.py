"""Which device gets which trials (pure): values in, leases out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MAX_TRIALS_PER_LEASE = 16
LEASES_PER_DEVICE = 2
"""One being measured and the next one already there: a device never waits for the network."""


@dataclass(frozen=True)
class Waiting:
    """Trials of one batch of a job that wait for a device; ``needs`` is the kind of device they are
    for, ``weight`` the job's part where several want the same devices. ``barred`` are sessions of
    devices that the job did not ask for; ``alone``: no other job's lease is to be on a device with
    one of its own."""

    batch_id: int
    needs: str
    trials: int
    exclusive: bool = False  # the whole-model run: not to be split
    job_id: str = ""
    weight: float = 1.0
    barred: frozenset[str] = frozenset()
    alone: bool = False

    def cost(self, trials: int) -> float:
        """What so many trials of it add to what its job has had."""
        return (MAX_TRIALS_PER_LEASE if self.exclusive else trials) / self.weight


@dataclass(frozen=True)
class Seat:
    """A device that is there, what it serves, and how many leases it holds.

    One that is set aside gets none. ``jobs`` are those that the leases are of; ``taken_by`` is the
    one of them that wants no other beside it, empty if none does.
    """

    session_id: str
    serves: str
    leases: int
    set_aside: bool = False
    jobs: frozenset[str] = frozenset()
    taken_by: str = ""


@dataclass(frozen=True)
class Assignment:
    """Give this many trials of this batch to this device; ``cost`` is added to what the batch's job
    has had."""

    batch_id: int
    session_id: str
    trials: int
    cost: float = field(default=0.0, compare=False)


def assign(
    waiting: Sequence[Waiting], seats: Sequence[Seat], had: Mapping[str, float] | None = None
) -> list[Assignment]:
    """Hand out what waits to the devices with the fewest leases.

    The job that has ``had`` the least goes first (trials over its weight: start-time fair queueing,
    Goyal et al., SIGCOMM 1996), and of a job its oldest batch. A batch is divided evenly among the
    devices that could take a lease now, so that two devices of one kind finish it in half the time.

    Where it is a job's turn and all that keeps a device from it is that one of them does not share
    devices, the device with the fewest leases is kept for it: nobody else gets a lease there, so
    that it becomes free.
    """
    able = _by_kind([seat for seat in seats if not seat.set_aside])
    leases = {seat.session_id: seat.leases for seat in seats}
    sharing = _Sharing(waiting, seats)
    parts = dict(had or {})
    left = {batch.batch_id: batch.trials for batch in waiting}
    todo = list(waiting)
    assignments: list[Assignment] = []
    while todo:
        batch = min(todo, key=lambda batch: parts.get(batch.job_id, 0.0))  # the first of equals
        asked_for = able.get(batch.needs, [])
        if batch.barred:
            asked_for = [s for s in asked_for if s not in batch.barred]
        free = [s for s in asked_for if leases[s] < LEASES_PER_DEVICE and sharing.may(batch, s)]
        if not free or not left[batch.batch_id]:
            if left[batch.batch_id]:
                sharing.keep_one(batch, asked_for, leases)
            todo.remove(batch)
            continue
        least = min(leases[session_id] for session_id in free)
        idlest = [session_id for session_id in free if leases[session_id] == least]
        share = -(-left[batch.batch_id] // len(idlest))
        count = left[batch.batch_id] if batch.exclusive else min(share, MAX_TRIALS_PER_LEASE)
        cost = batch.cost(count)
        assignments.append(Assignment(batch.batch_id, idlest[0], count, cost))
        leases[idlest[0]] += 1
        sharing.note(batch, idlest[0])
        left[batch.batch_id] -= count
        parts[batch.job_id] = parts.get(batch.job_id, 0.0) + cost
    return assignments


class _Sharing:
    """Which jobs are on which devices, and for whom a device is kept."""

    def __init__(self, waiting: Sequence[Waiting], seats: Sequence[Seat]) -> None:
        self._jobs = {seat.session_id: set(seat.jobs) for seat in seats if seat.jobs}
        self._taken_by = {seat.session_id: seat.taken_by for seat in seats if seat.taken_by}
        self._kept_for: dict[str, str] = {}
        self._all_share = not self._taken_by and not any(batch.alone for batch in waiting)

    def may(self, batch: Waiting, session_id: str) -> bool:
        """Whether the batch's job may have a lease beside those that are there."""
        if self._all_share:
            return True
        kept_for = self._kept_for.get(session_id, batch.job_id)
        return kept_for == batch.job_id and self._shares(batch, session_id)

    def _shares(self, batch: Waiting, session_id: str) -> bool:
        if self._taken_by.get(session_id, batch.job_id) != batch.job_id:
            return False
        return not (batch.alone and self._jobs.get(session_id, set()) - {batch.job_id})

    def note(self, batch: Waiting, session_id: str) -> None:
        """It got a lease there."""
        self._jobs.setdefault(session_id, set()).add(batch.job_id)
        if batch.alone:
            self._taken_by[session_id] = batch.job_id

    def keep_one(self, batch: Waiting, asked_for: Sequence[str], leases: Mapping[str, int]) -> None:
        """Keep the device for the job that would be free first if nobody else got it."""
        if self._all_share:
            return
        unshared = [
            session_id
            for session_id in asked_for
            if session_id not in self._kept_for and not self._shares(batch, session_id)
        ]
        if unshared and batch.job_id not in self._kept_for.values():
            self._kept_for[min(unshared, key=lambda one: leases[one])] = batch.job_id


def _by_kind(seats: Sequence[Seat]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for seat in seats:
        found.setdefault(seat.serves, []).append(seat.session_id)
    return found
