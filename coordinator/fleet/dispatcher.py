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
    for, ``weight`` the job's part where several want the same devices."""

    batch_id: int
    needs: str
    trials: int
    exclusive: bool = False  # the whole-model run: not to be split
    job_id: str = ""
    weight: float = 1.0

    def cost(self, trials: int) -> float:
        """What so many trials of it add to what its job has had."""
        return (MAX_TRIALS_PER_LEASE if self.exclusive else trials) / self.weight


@dataclass(frozen=True)
class Seat:
    """A device that is there, what it serves, and how many leases it holds.

    One that is set aside gets none.
    """

    session_id: str
    serves: str
    leases: int
    set_aside: bool = False


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
    """
    able = _by_kind([seat for seat in seats if not seat.set_aside])
    leases = {seat.session_id: seat.leases for seat in seats}
    parts = dict(had or {})
    left = {batch.batch_id: batch.trials for batch in waiting}
    todo = list(waiting)
    assignments: list[Assignment] = []
    while todo:
        batch = min(todo, key=lambda batch: parts.get(batch.job_id, 0.0))  # the first of equals
        free = [s for s in able.get(batch.needs, ()) if leases[s] < LEASES_PER_DEVICE]
        if not free or not left[batch.batch_id]:
            todo.remove(batch)
            continue
        least = min(leases[session_id] for session_id in free)
        idlest = [session_id for session_id in free if leases[session_id] == least]
        share = -(-left[batch.batch_id] // len(idlest))
        count = left[batch.batch_id] if batch.exclusive else min(share, MAX_TRIALS_PER_LEASE)
        cost = batch.cost(count)
        assignments.append(Assignment(batch.batch_id, idlest[0], count, cost))
        leases[idlest[0]] += 1
        left[batch.batch_id] -= count
        parts[batch.job_id] = parts.get(batch.job_id, 0.0) + cost
    return assignments


def _by_kind(seats: Sequence[Seat]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for seat in seats:
        found.setdefault(seat.serves, []).append(seat.session_id)
    return found
