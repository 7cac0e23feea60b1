"""Results that the coordinator has not acknowledged: sent again after every reconnection."""

from __future__ import annotations

import threading

from protos.records import Acknowledgement, Measurement, ModelMeasurement

Result = Measurement | ModelMeasurement


class Outbox:
    """Kept in memory, in the order in which they were made. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._results: dict[tuple[str, str], Result] = {}

    def add(self, result: Result) -> None:
        """Keep a result until it is acknowledged."""
        candidate_key = result.candidate_key if isinstance(result, Measurement) else ""
        with self._lock:
            self._results[result.lease_id, candidate_key] = result

    def acknowledge(self, acknowledgement: Acknowledgement) -> None:
        """Drop what is durable now; unknown names are ignored."""
        with self._lock:
            self._results.pop((acknowledgement.lease_id, acknowledgement.candidate_key), None)

    def drop(self, lease_id: str) -> None:
        """Drop a lease's results: the coordinator has no use for them."""
        with self._lock:
            for key in [key for key in self._results if key[0] == lease_id]:
                del self._results[key]

    def pending(self) -> list[Result]:
        """All that is not acknowledged, oldest first."""
        with self._lock:
            return list(self._results.values())
