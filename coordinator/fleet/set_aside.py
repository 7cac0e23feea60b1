"""When a device that can't be trusted gets no work, and when it is tried again (pure)."""

from __future__ import annotations

import math
from dataclasses import dataclass

LEASES_IN_A_ROW = 3
"""Leases whose canary was off before a device is set aside."""

FIRST_PAUSE_S = 5.0
"""Short, because most of what disturbs a shared machine is; each further pause is twice as long."""

LONGEST_PAUSE_S = 600.0

REFERENCE, SIBLINGS = "its reference", "what it takes on other devices of this kind"
"""What a canary's time is compared with."""


@dataclass(frozen=True)
class Standing:
    """What the canaries of a device's last leases say of it.

    ``ratios`` are those of the latest leases in a row that were off, ``of`` what they are of;
    ``pauses`` counts how often in a row it was set aside; ``until`` is the moment when it may work
    again.
    """

    ratios: tuple[float, ...] = ()
    pauses: int = 0
    until: float = -math.inf
    of: str = REFERENCE

    def aside(self, now: float) -> bool:
        """Whether it gets no work now."""
        return now < self.until

    def reason(self, now: float) -> str:
        """Why it is set aside and for how long, for people; empty if it is not."""
        if not self.aside(now):
            return ""
        failed = not all(math.isfinite(ratio) for ratio in self.ratios)
        ratios = ", ".join(f"{ratio:.2f}" for ratio in self.ratios if math.isfinite(ratio))
        drifts = f"canary drifts: {ratios} of {self.of}" if ratios else ""
        why = "; ".join(text for text in (drifts, "canary failed" if failed else "") if text)
        return f"{why}; tried again in {self.until - now:.0f} s"


def after_lease(
    standing: Standing, ratio: float, drifts: bool, now: float, of: str = REFERENCE
) -> Standing:
    """The standing after another lease, whose decisive canary took ``ratio`` of this.

    A device that was set aside and is tried again has one lease to show that it is well.
    """
    if not drifts:
        return Standing()
    before = standing.ratios if standing.of == of else ()
    ratios = (*before, ratio)[-LEASES_IN_A_ROW:]
    if standing.aside(now):  # a lease that it held already
        return Standing(ratios, standing.pauses, standing.until, of)
    if len(ratios) < LEASES_IN_A_ROW and not standing.pauses:
        return Standing(ratios, of=of)
    pause_s = min(FIRST_PAUSE_S * 2.0 ** min(standing.pauses, 16), LONGEST_PAUSE_S)
    return Standing(ratios, standing.pauses + 1, now + pause_s, of)
