"""Where a job's time goes: seconds of wall time per stage, overlapping stages counted each."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator

import psutil


class StageClock:
    """Adds up how long at least one piece of work of a stage was under way."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._active: dict[str, int] = defaultdict(int)
        self._since: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """The body belongs to this stage."""
        self._active[name] += 1
        if self._active[name] == 1:
            self._since[name] = time.monotonic()
        try:
            yield
        finally:
            self._active[name] -= 1
            if self._active[name] == 0:
                self._seconds[name] += time.monotonic() - self._since[name]

    @contextlib.contextmanager
    def idle(self) -> Iterator[None]:
        """While the body runs, seconds in which this host's CPUs have nothing to do, on average."""
        before = psutil.cpu_times().idle
        try:
            yield
        finally:
            self.add("idle", (psutil.cpu_times().idle - before) / (psutil.cpu_count() or 1))

    def add(self, name: str, seconds: float) -> None:
        """Add what was measured elsewhere."""
        self._seconds[name] += seconds

    def seconds(self) -> dict[str, float]:
        """Seconds per stage so far."""
        return dict(self._seconds)
