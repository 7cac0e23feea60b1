"""What the literature tried for cost models, each as a variant of ours, for the ablation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.cost_model_data import Row
from cost_model.features import STORES_WIDTH
from cost_model.model import (
    LEAST_WEIGHT,
    MEMBERS,
    SCORE,
    SCORE_ROUNDS,
    Sample,
    labels,
    relative_speed,
)
from cost_model.model import slower_share as slower_shares
from cost_model.model import weights as weights_of_member

Array = npt.NDArray[np.float64]
Rank = Callable[[Sequence[Row]], Array]
Label = Callable[[Sequence[Row]], Array]
Table = Callable[[Sequence[Row]], npt.NDArray[np.float32]]

NUM_THREADS = 2


def samples(rows: Sequence[Row]) -> list[Sample]:
    """As the model sees them."""
    return [
        Sample(r.workload_key, r.features, r.latency_us if np.isfinite(r.latency_us) else None)
        for r in rows
    ]


def every(rows: Sequence[Row]) -> npt.NDArray[np.float32]:
    """All features."""
    return np.stack([row.features for row in rows])


def stores_only(rows: Sequence[Row]) -> npt.NDArray[np.float32]:
    """MetaSchedule's features, pooled."""
    return every(rows)[:, :STORES_WIDTH]


def schedule_only(rows: Sequence[Row]) -> npt.NDArray[np.float32]:
    """The trace's."""
    return every(rows)[:, STORES_WIDTH:]


def mixed(rows: Sequence[Row]) -> Array:
    """The label in use."""
    return labels(samples(rows))


def speed(rows: Sequence[Row]) -> Array:
    """Best latency of the task over the own one."""
    return relative_speed(samples(rows))


def log_speed(rows: Sequence[Row]) -> Array:
    """Its logarithm, down to a fiftieth."""
    return np.log(np.maximum(speed(rows), 0.02))


def share_slower(rows: Sequence[Row]) -> Array:
    """Only the share of the task's candidates that are slower."""
    return slower_shares(samples(rows))


def without_square(rows: Sequence[Row]) -> Array:
    """Half the relative speed, half the share that is slower."""
    return (speed(rows) + share_slower(rows)) / 2


def fit(
    rows: Sequence[Row],
    label: Array,
    table: Table,
    *,
    members: int = MEMBERS,
    rounds: int = SCORE_ROUNDS,
    weights: Array | None = None,
    alike: bool = False,
    parameters: Mapping[str, Any] | None = None,
    group: Sequence[int] | None = None,
) -> Rank:
    """An ensemble of LightGBM models. Without ``weights`` they have those in use, unless they are
    ``alike``."""
    import lightgbm

    matrix, used = table(rows), {**SCORE, "num_threads": NUM_THREADS, **(parameters or {})}
    boosters = []
    for seed in range(members):
        weight = weights
        if weights is None and not alike:
            weight = weights_of_member(label, seed)
        data = lightgbm.Dataset(
            matrix, label=label, weight=weight, group=group, params={"max_bin": used["max_bin"]}
        )
        boosters.append(lightgbm.train({**used, "seed": seed}, data, rounds))

    def rank(unseen: Sequence[Row]) -> Array:
        wanted = table(unseen)
        scores: Array = np.mean([booster.predict(wanted) for booster in boosters], axis=0)
        return scores

    return rank


def plain(label: Label, table: Table = every, **options: Any) -> Callable[[Sequence[Row]], Rank]:
    """Regression of a label on a table."""
    return lambda rows: fit(rows, label(rows), table, **options)


def ranking(rows: Sequence[Row]) -> Rank:
    """LambdaRank, a task being a query; relevance is the slower share in 31 steps."""
    ordered = sorted(rows, key=lambda row: row.workload_key)
    sizes: dict[str, int] = {}
    for row in ordered:
        sizes[row.workload_key] = sizes.get(row.workload_key, 0) + 1
    relevance = np.floor(np.clip(share_slower(ordered), 0, 1) * 30.99)
    objective = {
        "objective": "lambdarank",
        "lambdarank_truncation_level": 64,
        "label_gain": list(range(31)),
    }
    groups = list(sizes.values())
    return fit(ordered, relevance, every, alike=True, parameters=objective, group=groups)


def all_weighted(rows: Sequence[Row]) -> Rank:
    """Every member looks at the fast candidates above all."""
    label = mixed(rows)
    return fit(rows, label, every, weights=LEAST_WEIGHT + label)


def aged(rows: Sequence[Row]) -> Rank:
    """Newer measurements weigh more: the newest four times as much as the oldest."""
    order = np.argsort(np.argsort([row.order for row in rows]))
    return fit(rows, mixed(rows), every, weights=0.5 * 4.0 ** (order / len(rows)))


def embedded(rows: Sequence[Row]) -> Rank:
    """With an embedding of the task: the mean features of its candidates, by which trees may tell
    tasks apart; known of a new task as soon as programs of it are drawn."""

    def table(some: Sequence[Row]) -> npt.NDArray[np.float32]:
        features, means = every(some), {}
        keys = np.array([row.workload_key for row in some])
        for key in set(keys.tolist()):
            means[key] = features[keys == key].mean(axis=0)
        return np.hstack([features, np.stack([means[key] for key in keys.tolist()])])

    return fit(rows, mixed(rows), table)


def incremental(rows: Sequence[Row]) -> Rank:
    """Boosted on: trees of the older half stay, as many are added on the newer half alone."""
    import lightgbm

    ordered = sorted(rows, key=lambda row: row.order)
    half = len(ordered) // 2
    used, label = {**SCORE, "num_threads": NUM_THREADS}, mixed(ordered)
    boosters = []
    for seed in range(MEMBERS):
        booster = None
        for part in (slice(None, half), slice(half, None)):
            data = lightgbm.Dataset(
                every(ordered[part]), label=label[part], params={"max_bin": used["max_bin"]}
            )
            booster = lightgbm.train(
                {**used, "seed": seed}, data, SCORE_ROUNDS // 2, init_model=booster
            )
        boosters.append(booster)

    def rank(unseen: Sequence[Row]) -> Array:
        wanted = every(unseen)
        scores: Array = np.mean([booster.predict(wanted) for booster in boosters], axis=0)
        return scores

    return rank


VARIANTS: Mapping[str, Callable[[Sequence[Row]], Rank]] = {
    "in use": plain(mixed),
    "pooled stores alone": plain(mixed, stores_only),
    "trace alone": plain(mixed, schedule_only),
    "members alike": plain(mixed, alike=True),
    "every member weighted": all_weighted,
    "one member": plain(mixed, members=1),
    "six members": plain(mixed, members=6),
    "label: without the square": plain(without_square),
    "label: relative speed": plain(speed),
    "label: its logarithm": plain(log_speed),
    "label: share slower": plain(share_slower),
    "objective: LambdaRank": ranking,
    "age weighting": aged,
    "task embedding": embedded,
    "boosted on": incremental,
    "80 rounds of 24 leaves": plain(
        mixed, members=1, rounds=80, parameters={"num_leaves": 24, "learning_rate": 0.1}
    ),
}
