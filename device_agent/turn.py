"""The agent's turns with the host: the timing lock, kept over several short measurements.

Taking the lock means waiting until every builder on the host has finished what it is at; a turn of
some seconds pays for that wait once, and then lets the builders have theirs.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

from protos import host_lock

MAX_TURN_S = 2.0
"""A turn that has lasted this long ends with the measurement under way."""


class TimingTurn:
    """One device's turns. Used by one thread."""

    def __init__(self, cpus: Sequence[int]) -> None:
        self._cpus = tuple(cpus)
        self._held: contextlib.ExitStack | None = None
        self._since = 0.0

    @contextlib.contextmanager
    def measuring(self) -> Iterator[float]:
        """Have the CPUs to oneself for one measurement; gives the seconds waited for them."""
        waited_s = self._take()
        try:
            yield waited_s
        finally:
            if time.monotonic() - self._since > MAX_TURN_S:
                self.end()

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Use the CPUs beside those who build; ends the turn."""
        self.end()
        with host_lock.working(self._cpus):
            yield

    def end(self) -> None:
        """Let the builders go on; must be called before waiting for anything."""
        if self._held is not None:
            self._held.close()
            self._held = None

    def _take(self) -> float:
        if self._held is not None:
            return 0.0
        with contextlib.ExitStack() as stack:
            waited_s = stack.enter_context(host_lock.timing(self._cpus))
            self._held = stack.pop_all()
        self._since = time.monotonic()
        return waited_s
