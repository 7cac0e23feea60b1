"""The LightGBM model: trained on measurements of many tasks, asked for scores of candidates.

What is learnt is a score within the task, from 1 for its best candidate towards 0 for slow ones, so
that one model serves all tasks of a kind of device and a new task starts from what the others
taught. Several models that saw different samples say how sure they are (an ensemble by bagging:
Lakshminarayanan et al., "Simple and Scalable Predictive Uncertainty", NeurIPS 2017); another one
says how likely a candidate is to fail. What was tried and what won: docs/cost-model.md.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cost_model.features import CANDIDATE_WIDTH, VERSION, Features

MIN_SAMPLES = 16
"""Fewer measurements than this teach nothing worth following."""

MIN_FAILURES = 8
"""Fewer failures than this teach nothing of failing."""

MEMBERS = 3
"""Models in the ensemble."""

_COMMON: dict[str, Any] = {
    "learning_rate": 0.08,
    "feature_fraction": 0.4,
    "max_bin": 63,
    "bagging_freq": 1,
    "verbosity": -1,
    "deterministic": True,
    "force_row_wise": True,
}
_SCORE: dict[str, Any] = {
    **_COMMON,
    "objective": "regression",
    "num_leaves": 63,
    "min_data_in_leaf": 5,
    "bagging_fraction": 0.8,
}
_FAILURE: dict[str, Any] = {
    **_COMMON,
    "objective": "binary",
    "num_leaves": 15,
    "min_data_in_leaf": 10,
    "bagging_fraction": 0.9,
}
_SCORE_ROUNDS, _FAILURE_ROUNDS = 200, 60

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """A measured candidate: its features, latency in microseconds, None if it failed."""

    workload_key: str
    features: Features
    latency_us: float | None
    candidate_key: str = ""


@dataclass(frozen=True)
class Prediction:
    """For each of n candidates: the score (higher is better), by how much the ensemble's members
    differ about it (standard deviation), and the chance that it fails."""

    score: Array
    deviation: Array
    failure: Array


def relative_speed(samples: Sequence[Sample]) -> Array:
    """Best latency of the sample's task over its own, 0 where it failed."""
    best: dict[str, float] = {}
    for sample in samples:
        if sample.latency_us is not None:
            known = best.get(sample.workload_key, sample.latency_us)
            best[sample.workload_key] = min(known, sample.latency_us)
    return np.array(
        [
            0.0 if sample.latency_us is None else best[sample.workload_key] / sample.latency_us
            for sample in samples
        ]
    )


def labels(samples: Sequence[Sample]) -> Array:
    """What is learnt: half the relative speed, which tells the few best apart from the rest, and
    half the share of the task's samples that are slower, which tells the rest from each other."""
    speed = relative_speed(samples)
    share = np.zeros(len(samples))
    by_task: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        by_task.setdefault(sample.workload_key, []).append(index)
    for indices in by_task.values():
        own = speed[indices]
        ordered = np.sort(own)
        below = np.searchsorted(ordered, own, side="left")
        up_to = np.searchsorted(ordered, own, side="right")
        share[indices] = (below + up_to) / (2 * len(own))
    return np.where(speed > 0, (speed + share) / 2, 0.0)


class CostModel:
    """A trained model. Immutable; ``text`` is its whole state: LightGBM's own text of each part."""

    def __init__(self, text: str) -> None:
        """Raises ValueError if ``text`` is no model of these features."""
        try:
            parts = json.loads(text)
            version, members, failure = parts["features"], parts["score"], parts["failure"]
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"not a cost model: {error!r}") from error
        if version != VERSION or not members:
            raise ValueError(f"a cost model over features {version}; this version has {VERSION}")
        self._members = [_booster(member) for member in members]
        self._failure = None if failure is None else _booster(failure)
        self.text = text

    def predict(self, features: Features) -> Prediction:
        """For features of shape (n, ``CANDIDATE_WIDTH``)."""
        each = np.stack([member.predict(features, num_threads=1) for member in self._members])
        failure = np.zeros(len(features))
        if self._failure is not None:
            failure = np.asarray(self._failure.predict(features, num_threads=1))
        return Prediction(each.mean(axis=0), each.std(axis=0), failure)

    @classmethod
    def train(cls, samples: Sequence[Sample], num_threads: int = 1) -> CostModel:
        """Fit on all samples at once; raises ValueError for fewer than ``MIN_SAMPLES``."""
        if len(samples) < MIN_SAMPLES:
            raise ValueError(f"{len(samples)} samples; at least {MIN_SAMPLES} are needed")
        table = np.stack([sample.features for sample in samples])
        failed = np.array([sample.latency_us is None for sample in samples])
        return cls(train_text(table, labels(samples), failed, num_threads))


def train_text(
    table: npt.NDArray[np.float32], score: Array, failed: npt.NDArray[np.bool_], num_threads: int
) -> str:
    """A ``CostModel``'s text: the score is learnt from what did not fail, unless all did."""
    import lightgbm

    def fit(rows: npt.NDArray[np.bool_], label: Array, parameters: Any, rounds: int) -> str:
        bins = {"max_bin": parameters["max_bin"], "feature_pre_filter": False}
        data = lightgbm.Dataset(table[rows], label=label[rows], params=bins, free_raw_data=True)
        used = {**parameters, "num_threads": num_threads}
        return str(lightgbm.train(used, data, rounds).model_to_string())

    every = np.ones(len(table), dtype=bool)
    right = ~failed if (~failed).sum() >= MIN_SAMPLES else every
    members = [
        fit(right, score, {**_SCORE, "seed": seed}, _SCORE_ROUNDS) for seed in range(MEMBERS)
    ]
    failure = None
    if MIN_FAILURES <= failed.sum() < len(failed):
        failure = fit(every, failed.astype(np.float64), {**_FAILURE, "seed": 0}, _FAILURE_ROUNDS)
    return json.dumps({"features": VERSION, "score": members, "failure": failure})


def _booster(text: str) -> Any:
    import lightgbm

    try:
        booster = lightgbm.Booster(model_str=text)
    except (lightgbm.basic.LightGBMError, TypeError) as error:
        raise ValueError(f"not a LightGBM model: {error}") from error
    if booster.num_feature() != CANDIDATE_WIDTH:
        raise ValueError(
            f"a cost model over {booster.num_feature()} features; "
            f"this version has {CANDIDATE_WIDTH}"
        )
    return booster
