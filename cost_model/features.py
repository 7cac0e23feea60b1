"""One row of features for a candidate: what its loop nest does, and how it was scheduled.

A candidate has one 172-wide feature row for each buffer store of its loop nest (Zheng et al.,
"Ansor: Generating High-Performance Tensor Programs for Deep Learning", OSDI 2020, appendix B). A
tree needs rows of one width, so the stores are pooled three ways: their sum (the whole candidate),
their maximum (the worst of each property), and the row of the heaviest store (the kernel's core).
Behind them come the number of stores, and the features of the trace (``schedule_features.py``).
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

from cost_model.schedule_features import SCHEDULE_WIDTH, schedule_features

VERSION = 3
"""Of what follows: features of another version are not comparable, nor are models of them."""

STORE_WIDTH = 172
STORES_WIDTH = 3 * STORE_WIDTH
CANDIDATE_WIDTH = STORES_WIDTH + 1 + SCHEDULE_WIDTH

Features = npt.NDArray[np.float32]

_ARITHMETIC_COLUMNS = 16
"""The first columns of a store are its arithmetic (float and integer operation counts)."""


def candidate_features(stores: npt.NDArray[np.float64], trace_json: str) -> Features:
    """A candidate's row, of shape (``CANDIDATE_WIDTH``,).

    ``stores`` has shape (stores, 172); raises ValueError for any other width, or if the trace is
    none.
    """
    if stores.ndim != 2 or stores.shape[1] != STORE_WIDTH:
        raise ValueError(f"per-store features of shape {stores.shape}; expected (n, {STORE_WIDTH})")
    row = np.concatenate([_pooled(stores), [len(stores)], schedule_features(trace_json)])
    features: Features = np.nan_to_num(row).astype(np.float32)
    return features


def _pooled(stores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    if not len(stores):
        return np.zeros(STORES_WIDTH)
    heaviest = stores[np.argmax(stores[:, :_ARITHMETIC_COLUMNS].sum(axis=1))]
    return np.concatenate([stores.sum(axis=0), stores.max(axis=0), heaviest])


def pack(features: Features) -> bytes:
    """A row as the tuning log keeps it: most of it is zeros."""
    return zlib.compress(np.asarray(features, dtype="<f4").tobytes(), level=6)


def unpack(data: bytes) -> Features:
    """The way back from ``pack``; raises ValueError if it is no row of this version."""
    try:
        raw = zlib.decompress(data, bufsize=4 * CANDIDATE_WIDTH)
    except zlib.error as error:
        raise ValueError(f"not features: {error}") from error
    features: Features = np.frombuffer(raw, dtype="<f4").astype(np.float32)
    if features.shape != (CANDIDATE_WIDTH,):
        raise ValueError(f"{len(features)} features; this version has {CANDIDATE_WIDTH}")
    return features
