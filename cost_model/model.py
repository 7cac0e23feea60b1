"""The LightGBM model: trained on measurements of many tasks, asked for scores of candidates.

What is learnt is a score within the task, from 1 for its best candidate towards 0 for slow ones, so
that one model serves all tasks of a kind of device and a new task starts from what the others
taught. Several models that saw different samples say how sure they are (an ensemble by bagging:
Lakshminarayanan et al., "Simple and Scalable Predictive Uncertainty", NeurIPS 2017); another one
says how likely a candidate is to fail. What was tried and what won: docs/cost-model.md.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cost_model.features import CANDIDATE_WIDTH, VERSION, Features

MIN_SAMPLES = 16
"""Fewer measurements than this teach nothing worth following."""

MIN_FAILURES = 8
"""Fewer failures than this teach nothing of failing."""

SPEED, SPEED_SQUARED, SLOWER_SHARE = 0.25, 0.45, 0.3
"""What the label is made of (docs/cost-model.md)."""

MEMBERS, WEIGHTED = 3, 1
"""Models in the ensemble, and how many of them, the last, look at the fast candidates above all:
those find the few best, the others put the rest in order."""

LEAST_WEIGHT = 0.1
"""Of a sample with those, beside its label."""

_COMMON: dict[str, Any] = {
    "learning_rate": 0.08,
    "feature_fraction": 0.4,
    "max_bin": 63,
    "bagging_freq": 1,
    "verbosity": -1,
    "deterministic": True,
    "force_row_wise": True,
}
SCORE: dict[str, Any] = {
    **_COMMON,
    "objective": "regression",
    "num_leaves": 63,
    "min_data_in_leaf": 2,  # of a hundred programs two may be the fast ones
    "bagging_fraction": 0.8,
}
"""LightGBM's parameters for what learns a score."""

FAILURE: dict[str, Any] = {
    **_COMMON,
    "objective": "binary",
    "num_leaves": 15,
    "min_data_in_leaf": 10,
    "bagging_fraction": 0.9,
}
"""Those for what learns whether a candidate fails."""

SCORE_ROUNDS, FAILURE_ROUNDS = 400, 60
"""The most trees of a score's model, and the trees of the other."""

LEAST_SCORE_ROUNDS, SAMPLES_PER_ROUND = 80, 16
"""A score's model of few samples needs fewer trees, and is trained often."""

UPDATE_NEWEST, UPDATE_SAME_TASKS, UPDATE_OTHERS = 256, 512, 256
"""Samples that an update looks at: the newest, older ones of the same tasks, and any others. So its
time does not grow with the log, and what is tuned now is not lost in what was tuned once."""

UPDATE_ROUNDS = 5
"""Trees that an update adds to one member (docs/cost-model.md)."""

Array = npt.NDArray[np.float64]

Turn = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Sample:
    """A measured candidate: its features, latency in microseconds, None if it failed.

    ``elsewhere``: on another kind of device than the one that a model is to be of.
    """

    workload_key: str
    features: Features
    latency_us: float | None
    candidate_key: str = ""
    elsewhere: bool = False


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


def slower_share(samples: Sequence[Sample]) -> Array:
    """The share of the task's samples that are slower, half of those that are as fast."""
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
    return share


def score_rounds(samples: int) -> int:
    """Trees of a score's model of so many samples."""
    return min(max(samples // SAMPLES_PER_ROUND, LEAST_SCORE_ROUNDS), SCORE_ROUNDS)


def mixed(speed: Any, share: Any) -> Any:
    """The label of a relative speed and a share of slower samples, or of arrays of these."""
    return SPEED * speed + SPEED_SQUARED * speed**2 + SLOWER_SHARE * share


def labels(samples: Sequence[Sample]) -> Array:
    """What is learnt: the relative speed and its square, which tell the few best apart from the
    rest, and the share of the task's samples that are slower, which tells the rest from each other;
    0 for what failed."""
    speed = relative_speed(samples)
    return np.where(speed > 0, mixed(speed, slower_share(samples)), 0.0)


def weights(label: Array, member: int) -> Array | None:
    """How much each sample of these labels counts with a member of the ensemble; None: equally."""
    return LEAST_WEIGHT + np.maximum(label, 0.0) if member >= MEMBERS - WEIGHTED else None


class CostModel:
    """A trained model. Immutable. A member of the ensemble is a sequence of LightGBM models whose
    predictions are added: the first was trained on everything, each other one by an update.

    Where some samples were measured elsewhere, a model has one more column, which says so: it
    learns from those what is the same here, and what is not (domain adaptation by augmented
    features: Daumé, "Frustratingly Easy Domain Adaptation", ACL 2007)."""

    def __init__(self, text: str) -> None:
        """The model of a ``text``; raises ValueError if it is none of these features."""
        try:
            parts = json.loads(text)
            version, members, failure = parts["features"], parts["score"], parts["failure"]
            if version == VERSION:
                members = [[str(part) for part in member] for member in members]
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"not a cost model: {error!r}") from error
        if version != VERSION or not members:
            raise ValueError(f"a cost model over features {version}; this version has {VERSION}")
        self._members = [[_booster(part) for part in member] for member in members]
        self._failure = None if failure is None else _booster(failure)
        parts = [part for member in self._members for part in member]
        widths = {part.num_feature() for part in (*parts, self._failure) if part is not None}
        if len(widths) > 1:
            raise ValueError(f"a cost model whose parts are over {sorted(widths)} features")
        self._width = widths.pop()

    @classmethod
    def _of(cls, members: list[list[Any]], failure: Any) -> CostModel:
        made = cls.__new__(cls)
        made._members, made._failure = members, failure
        made._width = members[0][0].num_feature()
        return made

    @property
    def parts(self) -> int:
        """LightGBM models in the longest member: one, and one more for each of its updates."""
        return max(len(member) for member in self._members)

    @property
    def knows_elsewhere(self) -> bool:
        """Whether it tells samples of other kinds of device from its own."""
        return bool(self._width > CANDIDATE_WIDTH)

    @functools.cached_property
    def text(self) -> str:
        """The whole state: LightGBM's own text of each part."""
        members = [[part.model_to_string() for part in member] for member in self._members]
        return model_text(
            members, None if self._failure is None else self._failure.model_to_string()
        )

    def predict(self, features: Features) -> Prediction:
        """For features of shape (n, ``CANDIDATE_WIDTH``), of candidates for the model's own kind of
        device."""
        features = _widened(features, self._width)
        each = np.stack([_sum(member, features) for member in self._members])
        failure = np.zeros(len(features))
        if self._failure is not None:
            failure = np.asarray(self._failure.predict(features, num_threads=1))
        return Prediction(each.mean(axis=0), each.std(axis=0), failure)

    @classmethod
    def train(
        cls, samples: Sequence[Sample], num_threads: int = 1, turn: Turn = nullcontext
    ) -> CostModel:
        """Fit on all samples at once; raises ValueError for fewer than ``MIN_SAMPLES``.

        The score is learnt from what did not fail, unless nearly all did. ``turn`` is entered
        around each piece of work, some hundredths of a second each, so that others have theirs.
        """
        if len(samples) < MIN_SAMPLES:
            raise ValueError(f"{len(samples)} samples; at least {MIN_SAMPLES} are needed")
        width = CANDIDATE_WIDTH + any(sample.elsewhere for sample in samples)
        table, label = _table(samples, width), labels(samples)
        failed = np.array([sample.latency_us is None for sample in samples])
        learnt = ~failed if (~failed).sum() >= MIN_SAMPLES else np.ones_like(failed)
        rounds = score_rounds(len(samples))
        members = [
            [
                _fit(
                    *(table[learnt], label[learnt], SCORE, rounds, seed, num_threads, turn),
                    weight=weights(label[learnt], seed),
                )
            ]
            for seed in range(MEMBERS)
        ]
        failure = None
        if MIN_FAILURES <= failed.sum() < len(failed):
            happened = failed.astype(np.float64)
            failure = _fit(table, happened, FAILURE, FAILURE_ROUNDS, 0, num_threads, turn)
        return cls._of(members, failure)

    def updated(self, samples: Sequence[Sample], num_threads: int = 1) -> CostModel:
        """The same model with some trees more in one member, the one that has the fewest, fitted to
        what it gets wrong.

        ``samples`` are all that are to be known, the newest last. Raises ValueError for too few
        that did not fail.
        """
        sizes = [sum(part.num_trees() for part in member) for member in self._members]
        turn = sizes.index(min(sizes))
        right = [index for index, sample in enumerate(samples) if sample.latency_us is not None]
        if len(right) < MIN_SAMPLES:
            raise ValueError(f"{len(right)} samples; at least {MIN_SAMPLES} are needed")
        chosen = _to_look_at(samples, right, random.Random(sizes[turn]))
        table = _table([samples[index] for index in chosen], self._width)
        label, known = labels(samples)[chosen], _sum(self._members[turn], table, num_threads)
        part = _fit(
            *(table, label, SCORE, UPDATE_ROUNDS, sizes[turn], num_threads, nullcontext, known),
            weight=weights(label, turn),
        )
        members = list(self._members)
        members[turn] = [*members[turn], part]
        return self._of(members, self._failure)


def _to_look_at(
    samples: Sequence[Sample], right: Sequence[int], generator: random.Random
) -> list[int]:
    """Which of the samples that did not fail an update looks at, by index."""
    newest, older = right[-UPDATE_NEWEST:], right[:-UPDATE_NEWEST]
    tasks = {samples[index].workload_key for index in newest}
    same = [index for index in older if samples[index].workload_key in tasks]
    others = [index for index in older if samples[index].workload_key not in tasks]
    wanted = UPDATE_SAME_TASKS + UPDATE_OTHERS
    from_same = min(len(same), max(UPDATE_SAME_TASKS, wanted - len(others)))
    from_others = min(len(others), wanted - from_same)
    return [*generator.sample(others, from_others), *generator.sample(same, from_same), *newest]


def model_text(members: Sequence[Sequence[str]], failure: str | None) -> str:
    """The text of a ``CostModel`` out of LightGBM's texts of its parts."""
    return json.dumps({"features": VERSION, "score": members, "failure": failure})


def _table(samples: Sequence[Sample], width: int) -> npt.NDArray[np.float32]:
    table = _widened(np.stack([sample.features for sample in samples]), width)
    if width > CANDIDATE_WIDTH:
        table[:, CANDIDATE_WIDTH] = [sample.elsewhere for sample in samples]
    return table


def _widened(features: Features, width: int) -> npt.NDArray[np.float32]:
    """The same with columns of zeros up to a width."""
    missing = width - features.shape[1]
    return np.pad(features, ((0, 0), (0, missing))) if missing else features


def _fit(
    table: npt.NDArray[np.float32],
    label: Array,
    parameters: Mapping[str, Any],
    rounds: int,
    seed: int,
    num_threads: int,
    turn: Turn,
    known: Array | None = None,
    weight: Array | None = None,
) -> Any:
    """A LightGBM model of the labels, or of what is between them and what is ``known``."""
    import lightgbm

    data = lightgbm.Dataset(
        table,
        label=label,
        weight=weight,
        init_score=known,
        params={"max_bin": parameters["max_bin"], "feature_pre_filter": False},
        free_raw_data=True,
    )
    used = {**parameters, "num_threads": num_threads, "seed": seed}
    if known is not None:
        used["boost_from_average"] = False
    with turn():
        booster = lightgbm.Booster(used, data)
    for _ in range(rounds):
        with turn():
            if booster.update():  # nothing is left to be split
                break
    booster.free_dataset()
    return booster


def _sum(member: Sequence[Any], features: npt.NDArray[np.float32], num_threads: int = 1) -> Array:
    total = np.zeros(len(features))
    for part in member:
        total += part.predict(features, num_threads=num_threads)
    return total


def _booster(text: str) -> Any:
    import lightgbm

    try:
        booster = lightgbm.Booster(model_str=text)
    except (lightgbm.basic.LightGBMError, TypeError) as error:
        raise ValueError(f"not a LightGBM model: {error}") from error
    if booster.num_feature() - CANDIDATE_WIDTH not in (0, 1):
        raise ValueError(
            f"a cost model over {booster.num_feature()} features; "
            f"this version has {CANDIDATE_WIDTH}"
        )
    return booster
