"""Our cost model beside MetaSchedule's XGBModel, on the same records.

    python -m benchmarks.cost_model [--quick] [--ablation] [--source DIR|LOG]

The records are real measurements that the farm made (``benchmarks/records``, by
``benchmarks.cost_model_records``), of programs drawn at random. Both models learn from the same
candidates and rank the same others, fifteen times: with a fifth of every task's candidates left
out (``within``), or a fifth of the tasks (``by_task``), divided in three ways. Ours is trained on
the older part of what it may see and updated with the rest, as a farm learns; what an update takes
is compared with what the peer takes to be trained anew, which is its only way. XGBModel has
MetaSchedule's features of each store, ours has these pooled, and the trace's; ours on the pooled
ones alone is in the ablation. Figures are means over tasks:

- pairwise accuracy: share of the pairs of a task that are ordered right;
- peak@k: the best latency over the best among the k that are ranked first;
- R²: of the relative speed by the score (the square of their correlation, since neither score is
  in its units).
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.cost_model_data import RECORDS, Row, load
from benchmarks.cost_model_variants import VARIANTS
from benchmarks.process import progress
from benchmarks.result import last_line, table
from coordinator.learning import RETRAIN_EVERY
from coordinator.training.trainer import GROWTH
from cost_model.model import CostModel, Prediction, Sample, relative_speed
from cost_model.ranking import pairwise_accuracy, peak_at

FOLDS, SPLITS = 5, 3
"""How often the records are divided, and into how many parts each time. XGBModel is not the same
twice, and a few fast programs of one operator decide the third digit."""

LEAST_CANDIDATES = 40
"""Of a task: a fifth of fewer would be too few to rank."""

ABLATION_FOLDS = 2
"""Of the five of one division: sixteen variants are trained."""

NUM_THREADS = 2

BATCH = 16
KNOWN_SHARE = 1 / GROWTH
"""Our model is trained on this share of the records, and then told of the rest in updates, as a
farm does it until it trains anew; the peer can only be trained anew."""

Ranker = Callable[[Sequence[Row]], npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Trained:
    """A model that ranks, and how long the last few measurements took to be learnt, seconds."""

    rank: Ranker
    retrain_s: float


Trainer = Callable[[Sequence[Row]], Trained]


@dataclass(frozen=True)
class Quality:
    """Means over tasks and folds; ``retrain_s`` and ``per_s`` (predictions) are medians."""

    pairwise: float
    peak_1: float
    peak_5: float
    r2: float
    retrain_s: float
    per_s: float


def samples_of(rows: Sequence[Row]) -> list[Sample]:
    """What our model learns from."""
    return [
        Sample(
            row.workload_key,
            row.features,
            row.latency_us if np.isfinite(row.latency_us) else None,
            row.candidate_key,
        )
        for row in rows
    ]


def as_a_job_measures(rows: Sequence[Row]) -> list[Row]:
    """The first batch of every task, then the second of each, and so on; the records were made task
    by task."""
    seen: dict[str, int] = {}
    ordered = []
    for row in sorted(rows, key=lambda row: row.order):
        index = seen.setdefault(row.workload_key, 0)
        seen[row.workload_key] += 1
        ordered.append((index // BATCH, row.order, row))
    return [row for _, _, row in sorted(ordered, key=lambda item: item[:2])]


def train_ours(rows: Sequence[Row]) -> Trained:
    """The farm's own."""
    samples = samples_of(as_a_job_measures(rows))
    known = int(KNOWN_SHARE * len(samples))
    model = CostModel.train(samples[:known], NUM_THREADS)
    took_s = []
    while known < len(samples):
        known += RETRAIN_EVERY
        started = time.perf_counter()
        model = model.updated(samples[:known], NUM_THREADS)
        took_s.append(time.perf_counter() - started)

    def rank(unseen: Sequence[Row]) -> npt.NDArray[np.float64]:
        return predict(model, unseen).score

    return Trained(rank, float(np.median(took_s)))


def predict(model: CostModel, rows: Sequence[Row]) -> Prediction:
    """Of rows instead of features."""
    return model.predict(np.stack([row.features for row in rows]))


def train_xgb(rows: Sequence[Row]) -> Trained:
    """MetaSchedule's, as its ``update`` trains it on everything it has been told."""
    from tvm.s_tir.meta_schedule.cost_model import XGBModel

    model = XGBModel(num_tuning_cores=NUM_THREADS, verbose_eval=0)
    speed = relative_speed(samples_of(rows)).astype(np.float32)
    started = time.perf_counter()
    kept = [index for index, row in enumerate(rows) if len(row.stores)]
    model._train([rows[index].stores for index in kept], speed[kept])
    took_s = time.perf_counter() - started

    def rank(unseen: Sequence[Row]) -> npt.NDArray[np.float64]:
        scores: npt.NDArray[np.float64] = np.asarray(model._predict([row.stores for row in unseen]))
        return scores

    return Trained(rank, took_s)


def whole(train: Callable[[Sequence[Row]], Ranker]) -> Trainer:
    """A variant of ours, which is trained at once."""

    def timed(rows: Sequence[Row]) -> Trained:
        started = time.perf_counter()
        rank = train(rows)
        return Trained(rank, time.perf_counter() - started)

    return timed


def folds(rows: Sequence[Row], by_task: bool, seed: int = 0) -> npt.NDArray[np.int64]:
    """The fold of each row, seeded: every task's rows divided evenly, or every task as a whole."""
    generator = np.random.default_rng(seed)
    tasks = sorted({row.workload_key for row in rows})
    if by_task:
        of_task = dict(zip(tasks, generator.permutation(len(tasks)) % FOLDS, strict=True))
        return np.array([of_task[row.workload_key] for row in rows])
    found = np.zeros(len(rows), dtype=np.int64)
    for task in tasks:
        indices = [index for index, row in enumerate(rows) if row.workload_key == task]
        found[indices] = generator.permutation(len(indices)) % FOLDS
    return found


def evaluate(
    rows: Sequence[Row], train: Trainer, by_task: bool, splits: int = 1, count: int = FOLDS
) -> Quality:
    """Divide ``splits`` times, and train and rank ``count`` times each."""
    tasks, train_s, per_s = [], [], []
    for seed, held_out in itertools.product(range(splits), range(count)):
        fold = folds(rows, by_task, seed)
        seen = [row for row, where in zip(rows, fold, strict=True) if where != held_out]
        unseen = [row for row, where in zip(rows, fold, strict=True) if where == held_out]
        trained = train(seen)
        train_s.append(trained.retrain_s)
        started = time.perf_counter()
        scores = trained.rank(unseen)
        per_s.append(len(unseen) / (time.perf_counter() - started))
        tasks += _of_tasks(unseen, scores)
    pairwise, peak_1, peak_5, r2 = np.mean(tasks, axis=0).tolist()
    return Quality(pairwise, peak_1, peak_5, r2, float(np.median(train_s)), float(np.median(per_s)))


def _of_tasks(
    rows: Sequence[Row], scores: npt.NDArray[np.float64]
) -> list[tuple[float, float, float, float]]:
    found = []
    for task in sorted({row.workload_key for row in rows}):
        own = [index for index, row in enumerate(rows) if row.workload_key == task]
        latencies, ranked = [rows[index].latency_us for index in own], scores[own].tolist()
        pairwise = pairwise_accuracy(ranked, latencies)
        at_1, at_5 = peak_at(1, ranked, latencies), peak_at(5, ranked, latencies)
        if pairwise is None or at_1 is None or at_5 is None:
            continue
        speed = min(latencies) / np.array(latencies)
        varies = np.std(ranked) > 0 and np.std(speed) > 0
        r2 = float(np.corrcoef(ranked, speed)[0, 1] ** 2) if varies else 0.0
        found.append((pairwise, at_1, at_5, r2))
    return found


@dataclass(frozen=True)
class Calibration:
    """Of the predicted chance of failure: the mean distance between what was predicted and what
    happened in ten equal parts of the candidates, the Brier score, and how often a failed one was
    predicted to fail rather than a right one (area under the curve)."""

    error: float
    brier: float
    area: float


def calibration(rows: Sequence[Row]) -> Calibration | None:
    """Within tasks, each row by the model that has not seen it; None without failures."""
    fold = folds(rows, by_task=False)
    chance, failed = np.zeros(len(rows)), np.array([not np.isfinite(r.latency_us) for r in rows])
    if not failed.any():
        return None
    for held_out in range(FOLDS):
        seen = [row for row, where in zip(rows, fold, strict=True) if where != held_out]
        unseen = np.flatnonzero(fold == held_out)
        model = CostModel.train(samples_of(seen), NUM_THREADS)
        chance[unseen] = predict(model, [rows[index] for index in unseen]).failure
    parts = np.array_split(np.argsort(chance, kind="stable"), 10)
    error = float(np.mean([abs(chance[part].mean() - failed[part].mean()) for part in parts]))
    order = chance[failed][:, None] - chance[~failed][None, :]
    area = float(np.mean((np.sign(order) + 1) / 2))
    return Calibration(error, float(np.mean((chance - failed) ** 2)), area)


def _row(name: str, quality: Quality) -> list[object]:
    return [
        *(name, quality.pairwise, quality.peak_1, quality.peak_5, quality.r2),
        *(quality.retrain_s, quality.per_s),
    ]


HEADINGS = ("model", "pairwise", "peak@1", "peak@5", "R²", "retrain s", "predictions/s")


def compare(rows: Sequence[Row], splits: int, count: int) -> dict[str, float]:
    """Both models, both ways to split; prints the table and returns the figures."""
    figures: dict[str, float] = {}
    lines, train_s = [], {}
    for split, by_task in (("within", False), ("by_task", True)):
        for name, train, suffix in (("ours", train_ours, ""), ("XGBModel", train_xgb, "_xgb")):
            progress(f"{name}, {split}")
            quality = evaluate(rows, train, by_task, splits, count)
            lines.append(_row(f"{name}, {split}", quality))
            figures |= {
                f"pairwise_{split}{suffix}": quality.pairwise,
                f"peak1_{split}{suffix}": quality.peak_1,
                f"peak5_{split}{suffix}": quality.peak_5,
                f"r2_{split}{suffix}": quality.r2,
            }
            if not by_task:
                train_s[name] = quality.retrain_s
                figures[f"retrain_s{suffix}"] = quality.retrain_s
                figures[f"predictions_per_s{suffix}"] = quality.per_s
    figures["retrain_speedup"] = train_s["XGBModel"] / train_s["ours"]
    print(table(HEADINGS, lines))
    return figures


def ablation(rows: Sequence[Row]) -> None:
    """Print what each part of our model is worth."""
    lines = []
    for name, train in VARIANTS.items():
        progress(f"ablation: {name}")
        for split, by_task in (("within", False), ("by_task", True)):
            quality = evaluate(rows, whole(train), by_task, count=ABLATION_FOLDS)
            lines.append(_row(f"{name}, {split}", quality))
    print(table(HEADINGS, lines))


def main() -> None:
    """Print the tables and, as the last line, one JSON object."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--source", type=Path, default=RECORDS, help="a folder of an export, or a log"
    )
    parser.add_argument("--quick", action="store_true", help="one fold of twelve tasks")
    parser.add_argument("--ablation", action="store_true", help="our model's parts, too")
    options = parser.parse_args()
    progress("extracting features")
    rows = load(options.source, LEAST_CANDIDATES)
    if options.quick:
        tasks = sorted({row.workload_key for row in rows})[:12]
        rows = [row for row in rows if row.workload_key in tasks]
    failed = sum(not np.isfinite(row.latency_us) for row in rows)
    tasks_count = len({row.workload_key for row in rows})
    print(f"{len(rows)} candidates of {tasks_count} tasks, {failed} of them failed")
    figures = compare(rows, 1, 1) if options.quick else compare(rows, SPLITS, FOLDS)
    figures |= {"candidates": float(len(rows)), "tasks": float(tasks_count)}
    chance = calibration(rows)
    if chance is not None:
        print(
            f"chance of failure: off by {chance.error:.3f} in the mean over tenths, Brier score "
            f"{chance.brier:.3f}, area under the curve {chance.area:.3f}"
        )
        figures |= {
            "failure_calibration_error": chance.error,
            "failure_brier": chance.brier,
            "failure_area": chance.area,
        }
    if options.ablation:
        ablation(rows)
    print(last_line("cost_model", figures))


if __name__ == "__main__":
    sys.exit(main())
