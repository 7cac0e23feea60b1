"""Which device gets which trials (pure): values in, leases out."""

from __future__ import annotations

import heapq
from collections import Counter, deque
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
    one of its own; ``only`` is the one session that may have it, empty for any."""

    batch_id: int
    needs: str
    trials: int
    exclusive: bool = False  # the whole-model run: not to be split
    job_id: str = ""
    weight: float = 1.0
    barred: frozenset[str] = frozenset()
    alone: bool = False
    only: str = ""

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
    devices that could take a lease now, so that two devices of one kind finish it in half the time;
    but where there is a full lease for each of them, each gets one: a small lease costs as much.

    Where it is a job's turn and all that keeps a device from it is that one of them does not share
    devices, the device with the fewest leases is kept for it: nobody else gets a lease there, so
    that it becomes free.
    """
    if any(batch.alone or batch.barred for batch in waiting) or any(s.taken_by for s in seats):
        return _among_some(waiting, seats, had or {})
    return _among_all(waiting, seats, had or {})


def _among_all(
    waiting: Sequence[Waiting], seats: Sequence[Seat], had: Mapping[str, float]
) -> list[Assignment]:
    """Where every job takes every device of its kind: in n log n, for a thousand devices."""
    seating, turns = _Seating(seats), _Turns(waiting, had)
    assignments: list[Assignment] = []
    while (batch := turns.first()) is not None and seating.any_left:
        found = seating.this(batch.only) if batch.only else seating.idlest(batch.needs)
        if found is None:
            turns.drop(batch)
            continue
        session_id, equals = found
        count = _share(batch, turns.left(batch), equals, turns.waiting[batch.needs])
        cost = batch.cost(count)
        assignments.append(Assignment(batch.batch_id, session_id, count, cost))
        seating.take(session_id)
        turns.give(batch, count, cost)
    return assignments


def _among_some(
    waiting: Sequence[Waiting], seats: Sequence[Seat], had: Mapping[str, float]
) -> list[Assignment]:
    """Where jobs are particular: by looking at all devices for each lease, which takes a time that
    grows with the square of their number."""
    able = _by_kind([seat for seat in seats if not seat.set_aside])
    leases = {seat.session_id: seat.leases for seat in seats}
    sharing = _Sharing(waiting, seats)
    parts = dict(had)
    left = {batch.batch_id: batch.trials for batch in waiting}
    todo = list(waiting)
    assignments: list[Assignment] = []
    while todo:
        batch = min(todo, key=lambda batch: parts.get(batch.job_id, 0.0))  # the first of equals
        asked_for = able.get(batch.needs, [])
        if batch.only:
            asked_for = [batch.only] if batch.only in asked_for else []
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
        wanted = sum(left[one.batch_id] for one in todo if one.needs == batch.needs)
        count = _share(batch, left[batch.batch_id], len(idlest), wanted)
        cost = batch.cost(count)
        assignments.append(Assignment(batch.batch_id, idlest[0], count, cost))
        leases[idlest[0]] += 1
        sharing.note(batch, idlest[0])
        left[batch.batch_id] -= count
        parts[batch.job_id] = parts.get(batch.job_id, 0.0) + cost
    return assignments


def _share(batch: Waiting, left: int, idlest: int, wanted: int) -> int:
    """How many of the trials that are ``left`` of a batch go into a lease, where so many devices
    are equally idle and so many trials ``wanted`` for their kind."""
    if batch.exclusive:
        return left
    even = MAX_TRIALS_PER_LEASE if wanted >= MAX_TRIALS_PER_LEASE * idlest else -(-left // idlest)
    return min(left, even, MAX_TRIALS_PER_LEASE)


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


class _Seating:
    """The devices that could take a lease now, those with the fewest leases first."""

    def __init__(self, seats: Sequence[Seat]) -> None:
        self._seats = {seat.session_id: (place, seat.serves) for place, seat in enumerate(seats)}
        self._leases: dict[str, int] = {}  # of those that could take one
        # Heaps: leases, place, session. One whose leases are others by now is passed over.
        self._free: dict[str, list[tuple[int, int, str]]] = {}
        self._equals: Counter[tuple[str, int]] = Counter()  # devices of a kind with so many leases
        for seat in seats:
            if not seat.set_aside and seat.leases < LEASES_PER_DEVICE:
                self._add(seat.session_id, seat.leases)

    def _add(self, session_id: str, leases: int) -> None:
        place, kind = self._seats[session_id]
        self._leases[session_id] = leases
        heapq.heappush(self._free.setdefault(kind, []), (leases, place, session_id))
        self._equals[kind, leases] += 1

    @property
    def any_left(self) -> bool:
        """Whether any device could take a lease."""
        return bool(self._leases)

    def idlest(self, kind: str) -> tuple[str, int] | None:
        """The first of the devices with the fewest leases, and how many those are; None: there is
        no device."""
        free = self._free.get(kind, [])
        while free and self._leases.get(free[0][2]) != free[0][0]:
            heapq.heappop(free)
        if not free:
            return None
        leases, _place, session_id = free[0]
        return session_id, self._equals[kind, leases]

    def this(self, session_id: str) -> tuple[str, int] | None:
        """This device, alone, if it could take a lease."""
        return (session_id, 1) if session_id in self._leases else None

    def take(self, session_id: str) -> None:
        """Give a lease to one that could take it."""
        kind, leases = self._seats[session_id][1], self._leases.pop(session_id)
        self._equals[kind, leases] -= 1
        if leases + 1 < LEASES_PER_DEVICE:
            self._add(session_id, leases + 1)


class _Turns:
    """Whose turn it is: of the jobs the one that had the least, of a job the oldest batch."""

    def __init__(self, waiting: Sequence[Waiting], had: Mapping[str, float]) -> None:
        self._had = dict(had)
        self._left = {batch.batch_id: batch.trials for batch in waiting}
        self.waiting: Counter[str] = Counter()  # trials for each kind of device
        for batch in waiting:
            self.waiting[batch.needs] += batch.trials
        self._batches: dict[str, deque[tuple[int, Waiting]]] = {}
        for place, batch in enumerate(waiting):
            if batch.trials:
                self._batches.setdefault(batch.job_id, deque()).append((place, batch))
        self._jobs: list[tuple[float, int, str]] = []  # a heap: what it had, its oldest batch
        for job_id in self._batches:
            self._queue(job_id)

    def _queue(self, job_id: str) -> None:
        batches = self._batches[job_id]
        if batches:
            part, (place, _batch) = self._had.get(job_id, 0.0), batches[0]
            heapq.heappush(self._jobs, (part, place, job_id))

    def first(self) -> Waiting | None:
        """The batch whose turn it is; of equals the oldest."""
        return self._batches[self._jobs[0][2]][0][1] if self._jobs else None

    def left(self, batch: Waiting) -> int:
        """How many of its trials wait."""
        return self._left[batch.batch_id]

    def give(self, batch: Waiting, trials: int, cost: float) -> None:
        """The first batch gets a lease with so many of them."""
        self._had[batch.job_id] = self._had.get(batch.job_id, 0.0) + cost
        self._left[batch.batch_id] -= trials
        self.waiting[batch.needs] -= trials
        if not self._left[batch.batch_id]:
            self._batches[batch.job_id].popleft()
        heapq.heappop(self._jobs)
        self._queue(batch.job_id)

    def drop(self, batch: Waiting) -> None:
        """There is no device for the first batch."""
        self._batches[batch.job_id].popleft()
        heapq.heappop(self._jobs)
        self._queue(batch.job_id)
