"""When a device that fails often gets no work, and when it is looked at again (pure)."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

FAILURES = 3
WITHIN_S = 600.0
"""A device that failed this often within this time is set aside."""

FIRST_PAUSE_S = 60.0
LONGEST_PAUSE_S = 3600.0
"""Before a health check; each that fails makes the next pause twice as long, up to the longest."""

GONE_S = 120.0
"""A device that vanished and has not come back after this long needs help: a board has started by
then."""

CYCLES = 3
CYCLE_S = 600.0
"""A device is power-cycled this often until it is well, and waited for this long each time."""


@dataclass(frozen=True)
class Failure:
    """A lease that a device did not do; ``moment`` in seconds of the monotonic clock."""

    moment: float
    lease_id: str
    why: str


@dataclass(frozen=True)
class Health:
    """What a device's failures say of it.

    One with ``pauses`` is set aside until a health check, due at ``until``, has passed. ``cycles``
    counts how often it was power-cycled meanwhile, the last time at ``cycled``.
    """

    failures: tuple[Failure, ...] = ()
    pauses: int = 0
    until: float = -math.inf
    cycles: int = 0
    cycled: float = -math.inf

    @property
    def aside(self) -> bool:
        """Whether it gets no work."""
        return self.pauses > 0

    def check_due(self, now: float) -> bool:
        """Whether it is time to see if it is well."""
        return self.aside and now >= self.until

    def reason(self, now: float) -> str:
        """Why it gets no work, for people; empty if it does."""
        if not self.aside:
            return ""
        why = f"failed {len(self.failures)} times: {self.failures[-1].why}"
        left_s = self.until - now
        return f"{why}; health check " + (f"in {left_s:.0f} s" if left_s > 0 else "due")

    def failed(self, failure: Failure) -> Health:
        """After another failure."""
        recent = [f for f in self.failures if f.moment > failure.moment - WITHIN_S]
        health = replace(self, failures=(*recent, failure))
        if self.aside or len(health.failures) < FAILURES:
            return health
        return replace(health, pauses=1, until=failure.moment + FIRST_PAUSE_S)

    def check_failed(self, failure: Failure) -> Health:
        """After a health check that it did not pass."""
        pause_s = min(FIRST_PAUSE_S * 2.0 ** min(self.pauses, 16), LONGEST_PAUSE_S)
        return replace(
            self,
            failures=(*self.failures, failure)[-2 * FAILURES :],
            pauses=self.pauses + 1,
            until=failure.moment + pause_s,
        )

    def absolved(self, lease_ids: Collection[str]) -> Health:
        """Without failures that were not the device's. One that is set aside works again if too few
        are left and no health check has failed."""
        left = tuple(f for f in self.failures if f.lease_id not in lease_ids)
        if self.pauses <= 1 and len(left) < FAILURES:
            return Health(left)
        return replace(self, failures=left or self.failures[-1:])

    def cycled_at(self, now: float) -> Health:
        """After its power was cycled: it is looked at when it has had the time to start."""
        return replace(self, cycles=self.cycles + 1, cycled=now)

    def may_be_cycled(self, now: float) -> bool:
        """Whether to try that (again)."""
        return self.cycles < CYCLES and now > self.cycled + CYCLE_S
