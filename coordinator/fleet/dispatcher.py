"""Which device gets which trials (pure): values in, leases out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAX_TRIALS_PER_LEASE = 16
LEASES_PER_DEVICE = 2
"""One being measured and the next one already there: a device never waits for the network."""


@dataclass(frozen=True)
class Waiting:
    """Trials of one batch that wait for a device; ``needs`` is the kind of device they are for."""

    batch_id: int
    needs: str
    trials: int
    exclusive: bool = False  # the whole-model run: not to be split


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
    """Give this many trials of this batch to this device."""

    batch_id: int
    session_id: str
    trials: int


def assign(waiting: Sequence[Waiting], seats: Sequence[Seat]) -> list[Assignment]:
    """Hand out what waits, oldest batch first, to the devices with the fewest leases.

    A batch is divided evenly among the devices that could take a lease now, so that two devices of
    one kind finish it in half the time.
    """
    seats = [seat for seat in seats if not seat.set_aside]
    leases = {seat.session_id: seat.leases for seat in seats}
    assignments: list[Assignment] = []
    for batch in waiting:
        left = batch.trials
        while left:
            able = [
                seat
                for seat in seats
                if seat.serves == batch.needs and leases[seat.session_id] < LEASES_PER_DEVICE
            ]
            if not able:
                break
            least = min(leases[seat.session_id] for seat in able)
            idlest = [seat for seat in able if leases[seat.session_id] == least]
            share = -(-left // len(idlest))
            count = left if batch.exclusive else min(share, MAX_TRIALS_PER_LEASE, left)
            chosen = idlest[0].session_id
            assignments.append(Assignment(batch.batch_id, chosen, count))
            leases[chosen] += 1
            left -= count
    return assignments
