"""What the peak kernel of ``coordinator/limit_kernels.py`` computes, in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from coordinator.limit_kernels import ACCUMULATORS, STEPS, flops, peak_workload

__all__ = ["expected", "flops", "peak_workload"]


def expected(inputs: Sequence[npt.NDArray[Any]], steps: int = STEPS) -> npt.NDArray[np.float64]:
    """What the kernel computes of (x, a, b): a geometric series; a is below 1."""
    x, a, b = inputs
    factor = np.tile(a.astype(np.float64), ACCUMULATORS)
    power = factor**steps
    sums: npt.NDArray[np.float64] = power * x + np.tile(b.astype(np.float64), ACCUMULATORS) * (
        1 - power
    ) / (1 - factor)
    return sums
