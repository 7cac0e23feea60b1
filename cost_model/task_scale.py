"""What a task's candidates are worth, where no one process has them all (pure).

``model.labels`` needs every sample of a task. This is the same from what a few hundred bytes hold:
the task's best latency, how many failed, and its latencies' order, for a task of more than
``MAX_POINTS`` right candidates at so many evenly spaced places in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cost_model.model import mixed

MAX_POINTS = 256
"""Latencies kept of a task: a share of the slower ones is right to within 1/256 of its samples."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TaskScale:
    """``points`` are latencies of the task in microseconds, rising; the first is the best."""

    right: int
    failed: int
    points: Array

    @classmethod
    def of(cls, latencies_us: Sequence[float | None]) -> TaskScale:
        """From the latencies of all of a task's candidates, None where one failed."""
        found = np.sort(np.array([us for us in latencies_us if us is not None], dtype=np.float64))
        points = found
        if len(found) > MAX_POINTS:
            points = found[np.linspace(0, len(found) - 1, MAX_POINTS).round().astype(int)]
        return cls(len(found), len(latencies_us) - len(found), points)

    def label(self, latency_us: float | None) -> float:
        """As ``model.labels``: the speed relative to the best, and the share of the task's
        candidates that are slower; 0 for one that failed."""
        if latency_us is None or not self.right:
            return 0.0
        points = len(self.points)
        faster = np.searchsorted(self.points, latency_us, side="left")
        up_to = np.searchsorted(self.points, latency_us, side="right")
        slower_of_right = 1 - float(faster + up_to) / (2 * points)
        share = (self.failed + slower_of_right * self.right) / (self.failed + self.right)
        speed = float(self.points[0]) / max(latency_us, float(self.points[0]))
        return float(mixed(speed, share))
