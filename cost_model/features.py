"""From MetaSchedule's per-store features to one row per candidate.

A candidate has one 172-wide feature row for each buffer store of its loop nest (Zheng et al.,
"Ansor: Generating High-Performance Tensor Programs for Deep Learning", OSDI 2020, appendix B). A
tree needs rows of one width, so the stores are pooled three ways: their sum (the whole candidate),
their maximum (the worst of each property), and the row of the heaviest store (the kernel's core).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

STORE_WIDTH = 172
CANDIDATE_WIDTH = 3 * STORE_WIDTH

Features = npt.NDArray[np.float32]

_ARITHMETIC_COLUMNS = 16
"""The first columns of a store are its arithmetic (float and integer operation counts)."""


def candidate_features(stores: npt.NDArray[np.float64]) -> Features:
    """Pool a candidate's stores.

    ``stores`` has shape (stores, 172); the result (516,). Raises ValueError for any other width.
    """
    if stores.ndim != 2 or stores.shape[1] != STORE_WIDTH:
        raise ValueError(f"per-store features of shape {stores.shape}; expected (n, {STORE_WIDTH})")
    if not len(stores):
        return np.zeros(CANDIDATE_WIDTH, dtype=np.float32)
    heaviest = stores[np.argmax(stores[:, :_ARITHMETIC_COLUMNS].sum(axis=1))]
    pooled = np.concatenate([stores.sum(axis=0), stores.max(axis=0), heaviest])
    features: Features = np.nan_to_num(pooled).astype(np.float32)
    return features
