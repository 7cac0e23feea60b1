"""The LightGBM model: trained on measurements of many tasks, asked for scores of candidates.

What is learnt is a score normalised within the task: the task's best latency over the candidate's,
1 for the best, towards 0 for slow ones, 0 for failed ones. So one model serves all tasks of a kind
of device, and a new task starts from what the others taught.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cost_model.features import CANDIDATE_WIDTH, Features

MIN_SAMPLES = 16
"""Fewer measurements than this teach nothing worth following."""

_PARAMETERS: dict[str, Any] = {
    "objective": "regression",
    "num_leaves": 24,
    "min_data_in_leaf": 4,
    "learning_rate": 0.1,
    "feature_fraction": 0.4,
    "max_bin": 63,
    "bagging_fraction": 0.9,
    "bagging_freq": 1,
    "verbosity": -1,
    "seed": 0,
    "deterministic": True,
    "force_row_wise": True,
}
_ROUNDS = 80


@dataclass(frozen=True)
class Sample:
    """A measured candidate: features (516,), latency in microseconds, None if it failed."""

    workload_key: str
    features: Features
    latency_us: float | None


def scores(samples: Sequence[Sample]) -> npt.NDArray[np.float64]:
    """The labels: best latency of the sample's task over its own, 0 where it failed."""
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


class CostModel:
    """A trained model. Immutable; ``text`` is its whole state (LightGBM's own text format)."""

    def __init__(self, text: str) -> None:
        """Raises ValueError if ``text`` is no model of this feature width."""
        import lightgbm

        try:
            self._booster = lightgbm.Booster(model_str=text)
        except lightgbm.basic.LightGBMError as error:
            raise ValueError(f"not a LightGBM model: {error}") from error
        if self._booster.num_feature() != CANDIDATE_WIDTH:
            raise ValueError(
                f"a cost model over {self._booster.num_feature()} features; "
                f"this version has {CANDIDATE_WIDTH}"
            )
        self.text = text

    def predict(self, features: Features) -> npt.NDArray[np.float64]:
        """Scores of shape (n,) for features of shape (n, 516); higher is better."""
        prediction = self._booster.predict(features, num_threads=1)
        return np.asarray(prediction, dtype=np.float64)

    @classmethod
    def train(cls, samples: Sequence[Sample], num_threads: int = 1) -> CostModel:
        """Fit on all samples at once; raises ValueError for fewer than ``MIN_SAMPLES``."""
        import lightgbm

        if len(samples) < MIN_SAMPLES:
            raise ValueError(f"{len(samples)} samples; at least {MIN_SAMPLES} are needed")
        table = np.stack([sample.features for sample in samples])
        bins = {"max_bin": _PARAMETERS["max_bin"]}
        data = lightgbm.Dataset(table, label=scores(samples), params=bins, free_raw_data=True)
        booster = lightgbm.train({**_PARAMETERS, "num_threads": num_threads}, data, _ROUNDS)
        return cls(booster.model_to_string())
