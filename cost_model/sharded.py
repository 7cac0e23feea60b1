"""The cost model where several processes hold its samples: LightGBM's data-parallel trees.

Each process bins the rows of its own shard and adds up its own histograms; the sums are exchanged,
so that all of them find the same splits and end with the same trees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cost_model.features import Features, unpack
from cost_model.model import (
    FAILURE,
    FAILURE_ROUNDS,
    MEMBERS,
    SCORE,
    SCORE_ROUNDS,
    Turn,
    model_text,
    weights,
)

BATCH_ROWS = 2048
"""Rows that are unpacked at once: 5 MB."""

NETWORK_TIMEOUT_MIN = 10
"""How long LightGBM waits for another process, which may be waiting for those who time."""


@dataclass(frozen=True)
class Shard:
    """The samples that one process holds: rows as ``features.pack`` makes them, a label for each
    (``task_scale``), and whether it failed."""

    packed: Sequence[bytes]
    label: npt.NDArray[np.float64]
    failed: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Network:
    """What all processes of a training agree on.

    ``parameters`` are LightGBM's, of the network. ``sample`` are packed rows of the whole, the
    same in every process: where a feature's bins end is found in them. ``failures`` is whether
    there are enough of them to learn from.
    """

    parameters: Mapping[str, Any]
    sample: Sequence[bytes]
    failures: bool
    num_threads: int


def train_shard(shard: Shard, network: Network, together: Turn, alone: Turn) -> str:
    """A ``CostModel``'s text, trained with the processes of the other shards.

    ``together`` is entered around each round, by all processes at once, and ``alone`` around what
    this process does by itself. Raises ValueError if the shard has nothing to train on, and
    lightgbm's error if the others can't be reached.
    """
    right = np.flatnonzero(~shard.failed)
    if not len(right):
        raise ValueError(f"no right candidate among the {len(shard.packed)} of this shard")
    trees = _Trees(network, together)
    with alone():
        bins = _binned(unpacked(network.sample), None, None)
    data = _filled(shard, right, shard.label, bins, alone)
    members = []
    for seed in range(MEMBERS):
        data.set_weight(weights(shard.label[right], seed))
        members.append(trees.grow(data, {**SCORE, "seed": seed}, SCORE_ROUNDS))
    failure = None
    if network.failures:
        del data
        every = np.arange(len(shard.packed))
        data = _filled(shard, every, shard.failed.astype(np.float64), bins, alone)
        failure = trees.grow(data, {**FAILURE, "seed": 0}, FAILURE_ROUNDS)
    return model_text([[member] for member in members], failure)


def unpacked(packed: Sequence[bytes]) -> Features:
    """Rows of shape (n, ``CANDIDATE_WIDTH``)."""
    table: Features = np.stack([unpack(row) for row in packed])
    return table


class _Trees:
    """Grows the parts of the model one after the other over one network."""

    def __init__(self, network: Network, together: Turn) -> None:
        self._network = network
        self._together = together
        self._first: Any = None

    def grow(self, data: Any, parameters: Mapping[str, Any], rounds: int) -> str:
        import lightgbm

        used = {
            **parameters,
            "num_threads": self._network.num_threads,
            "tree_learner": "data",
            "pre_partition": True,
            "time_out": NETWORK_TIMEOUT_MIN,
            **self._network.parameters,
        }
        if self._first is not None:  # whose network lives as long as it does
            del used["machines"]
        with self._together():
            booster = lightgbm.Booster(used, data)
        self._first = self._first or booster
        for _ in range(rounds):
            with self._together():
                booster.update()
        return str(booster.model_to_string())


def _filled(
    shard: Shard,
    rows: npt.NDArray[np.intp],
    label: npt.NDArray[np.float64],
    bins: Any,
    alone: Turn,
) -> Any:
    """A data set of some of the shard's rows, of which a batch is unpacked at a time."""
    import lightgbm

    class Batches(lightgbm.Sequence):  # type: ignore[misc]
        batch_size = BATCH_ROWS

        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, index: Any) -> Features:
            with alone():
                return unpacked([shard.packed[row] for row in rows[index]])

    return _binned(Batches(), label[rows], bins)


def _binned(rows: Any, label: npt.NDArray[np.float64] | None, bins: Any) -> Any:
    import lightgbm

    parameters = {"max_bin": SCORE["max_bin"], "feature_pre_filter": False, "verbosity": -1}
    data = lightgbm.Dataset(rows, label, reference=bins, params=parameters, free_raw_data=True)
    return data.construct()
