"""On which terms a job's work is given to devices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from coordinator.fleet.registry import Session
from coordinator.selection import ANY, Selector


@dataclass(frozen=True)
class Terms:
    """Which devices a job may have, and whether it wants each of them for itself meanwhile."""

    selector: Selector = ANY
    exclusive: bool = False
    _barred: dict[str, bool] = field(default_factory=dict, compare=False, repr=False)

    def barred(self, sessions: Iterable[Session]) -> frozenset[str]:
        """The sessions whose devices' labels are not what the job asked for. What a device says of
        itself holds for its session, so each is looked at once."""
        if not self.selector.where:
            return frozenset()
        for session in sessions:
            if session.session_id not in self._barred:
                self._barred[session.session_id] = bool(self.selector.unmet(session.device))
        return frozenset(one for one, barred in self._barred.items() if barred)


NO_TERMS = Terms()
"""Any device, shared with others."""
