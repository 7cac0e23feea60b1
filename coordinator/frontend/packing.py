"""Weights packed ahead of time, in the order in which a tile of outputs reads them.

With weights as (…, inputs, outputs), a tile of some outputs reads a piece of each row, and the rows
are far apart: no prefetcher follows, and each is on a page of its own. That is of no account while
they are in a cache, as when a kernel is timed alone; in a model whose weights are larger than the
caches they come from memory in every run.
"""

from __future__ import annotations

from typing import Any

import numpy as np

RUN = 16
"""Outputs in one piece: a cache line of float32, the widest vector or two of the half width."""


def packed_run(outputs: int) -> int:
    """How many outputs lie beside each other; all of them where they can't be divided so."""
    run = next(size for size in (RUN, RUN // 2, RUN // 4, 1) if outputs % size == 0)
    return run if run > 1 else outputs


def pack(weights: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Weights (…, inputs, outputs) as (…, outputs / run, inputs, run)."""
    *outer, inputs, outputs = weights.shape
    run = packed_run(outputs)
    rows = weights.reshape(*outer, inputs, outputs // run, run)
    return np.ascontiguousarray(np.moveaxis(rows, -2, -3))
