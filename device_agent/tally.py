"""What an agent has done since it was started; for `/metrics`."""

from __future__ import annotations

import threading
from collections import Counter

from protos.records import Built, LeaseFinished, Measurement, ModelMeasurement


class Tally:
    """Threads may share it. ``canary_ratio`` is that of the last lease that had a canary."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._statuses: Counter[str] = Counter()
        self.sessions = 0
        self.canary_ratio: float | None = None

    def session(self) -> None:
        """The coordinator has registered the device."""
        self.sessions += 1

    def reported(self, record: Measurement | ModelMeasurement | Built | LeaseFinished) -> None:
        """Something was measured, or a lease has ended."""
        if isinstance(record, Measurement):
            with self._lock:
                self._statuses[record.status.name] += 1
        elif isinstance(record, LeaseFinished) and record.canary_ratio is not None:
            self.canary_ratio = record.canary_ratio

    def statuses(self) -> dict[str, int]:
        """How many measurements had which status."""
        with self._lock:
            return dict(self._statuses)
