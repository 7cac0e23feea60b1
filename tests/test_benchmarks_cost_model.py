"""The comparison of cost models: what is left out is not learnt from."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks import cost_model, cost_model_records
from benchmarks.chaos.miscompiler import EVERY_SHARE, Defect, defect_of
from benchmarks.cost_model_data import DEFECT_RECORDS, RECORDS, Row, load
from benchmarks.cost_model_variants import VARIANTS
from benchmarks.transfer import Run, compare
from cost_model.features import CANDIDATE_WIDTH
from protos.records import History, HistoryRecord, MeasurementStatus, Task, TensorSpec


def rows(tasks: int = 5, each: int = 40, failing: bool = False) -> list[Row]:
    """Candidates whose latency two of their features say."""
    generator = np.random.default_rng(0)
    found = []
    for task in range(tasks):
        for index in range(each):
            features = generator.random(CANDIDATE_WIDTH).astype(np.float32)
            stores = np.tile(features[:172], (2, 1)).astype(np.float32)
            latency_us = (task + 1) * (10.0 + 50.0 * features[3] + 20.0 * features[100])
            fails = failing and features[7] > 0.8
            found.append(
                Row(
                    *(f"w{task}", f"{task}-{index}", len(found)),
                    math.inf if fails else latency_us,
                    "CRASHED" if fails else "OK",
                    features,
                    stores,
                )
            )
    return found


def test_folds_divide_every_task_or_all_tasks() -> None:
    some = rows()
    within = cost_model.folds(some, by_task=False)
    by_task = cost_model.folds(some, by_task=True)
    for task in range(5):
        own = [index for index, row in enumerate(some) if row.workload_key == f"w{task}"]
        assert np.bincount(within[own]).tolist() == [8] * 5
        assert len(set(by_task[own].tolist())) == 1
    assert sorted(set(by_task.tolist())) == list(range(5))


@pytest.mark.parametrize("by_task", [False, True])
def test_a_model_never_sees_what_it_ranks(by_task: bool) -> None:
    seen: list[set[str]] = []

    def train(learnt: Sequence[Row]) -> cost_model.Trained:
        seen.append({row.candidate_key for row in learnt})

        def rank(unseen: Sequence[Row]) -> npt.NDArray[np.float64]:
            assert not seen[-1] & {row.candidate_key for row in unseen}
            return np.array([-row.latency_us for row in unseen])

        return cost_model.Trained(rank, 0.0)

    quality = cost_model.evaluate(rows(), train, by_task)
    assert len(seen) == 5
    assert (quality.pairwise, quality.peak_1, quality.peak_5) == (1.0, 1.0, 1.0)


def test_both_models_learn_and_a_coin_does_not() -> None:
    some = rows(3, 60)

    def coin(_learnt: Sequence[Row]) -> cost_model.Ranker:
        generator = np.random.default_rng(1)
        return lambda unseen: generator.random(len(unseen))

    assert cost_model.evaluate(some, cost_model.whole(coin), False, 2).pairwise == pytest.approx(
        0.5, abs=0.12
    )
    for train in (cost_model.train_ours, cost_model.train_xgb):
        quality = cost_model.evaluate(some, train, False, 1)
        assert quality.pairwise > 0.7
        assert quality.retrain_s > 0


def test_chances_of_failure_are_calibrated_against_what_happened() -> None:
    chance = cost_model.calibration(rows(4, 60, failing=True))
    assert chance is not None
    assert chance.area > 0.8
    assert chance.error < 0.2
    assert cost_model.calibration(rows(2, 40)) is None


def test_every_variant_of_the_ablation_trains() -> None:
    some = rows(2, 30)
    for name, train in VARIANTS.items():
        scores = train(some)(some[:5])
        assert np.isfinite(scores).all(), name
        assert len(scores) == 5


def test_the_records_that_are_shipped_are_enough_and_of_many_kinds() -> None:
    import pyarrow.parquet as parquet

    statuses = _statuses(RECORDS)
    assert {"OK", "TIMED_OUT"} <= statuses
    assert statuses | _statuses(DEFECT_RECORDS) == set(MeasurementStatus.__members__)
    candidates = parquet.read_table(RECORDS / "candidates.parquet", columns=["workload_key"])
    of_task = candidates["workload_key"].value_counts().to_pylist()
    assert sum(one["counts"] >= cost_model.LEAST_CANDIDATES for one in of_task) >= 40
    assert len(candidates) >= 6000
    assert sum(path.stat().st_size for path in RECORDS.iterdir()) < 8 << 20


def _statuses(records: Path) -> set[str]:
    import pyarrow.parquet as parquet

    table = parquet.read_table(records / "measurements.parquet", columns=["status"])
    return set(table["status"].to_pylist())


def test_shipped_records_of_broken_programs_say_what_was_wrong() -> None:
    import pyarrow.parquet as parquet

    candidates = parquet.read_table(DEFECT_RECORDS / "candidates.parquet").to_pylist()
    traces = {row["key"]: row["trace_json"] for row in candidates}
    found: dict[Defect, set[str]] = defaultdict(set)
    for row in parquet.read_table(DEFECT_RECORDS / "measurements.parquet").to_pylist():
        defect = defect_of(traces[row["candidate_key"]], EVERY_SHARE)
        found[defect].add(row["status"])
    assert found.pop(Defect.NONE) >= {"OK"}
    assert found.pop(Defect.WRONG) <= {"WRONG_OUTPUT", "CRASHED"}, "one without a loop to shorten"
    assert found == {
        Defect.CRASHES: {"CRASHED"},
        Defect.HANGS: {"TIMED_OUT"},
        Defect.BABBLES: {"GARBAGE"},
        Defect.NOT_TO_BE_LOADED: {"LOAD_ERROR"},
        Defect.NEVER_BUILT: {"BUILD_TIMEOUT"},
    }


def test_shipped_records_become_rows_with_the_features_of_both_models() -> None:
    some = load(RECORDS, least=112, most_tasks=1)
    assert len(some) >= 112
    assert len({row.workload_key for row in some}) == 1
    assert all(row.features.shape == (CANDIDATE_WIDTH,) for row in some)
    assert all(row.stores.shape[1] == 172 for row in some)
    assert any(math.isfinite(row.latency_us) for row in some)


def test_operators_are_chosen_kind_by_kind() -> None:
    def task(name: str, flops: float, *shapes: tuple[int, ...]) -> Task:
        args = tuple(TensorSpec(shape, "float32") for shape in shapes)
        return Task(name, name, "{}", 1, args, 1, flops)

    large = task("fused_conv2d1_add_relu", 1e9, (1, 8, 8, 64), (64, 64, 3, 3))
    small = task("fused_conv2d2_add", 1e6, (1, 8, 8, 64), (64, 64, 1, 1))
    pool, soft = task("max_pool2d", 1e3, (1, 8, 8, 4)), task("softmax", 1e4, (1, 10))
    chosen = cost_model_records.choose([small, pool, large, soft], 3)
    assert chosen == [large, soft, pool]
    assert cost_model_records.choose([small, large], 5) == [large, small]


def test_transfer_counts_trials_until_all_operators_are_nearly_the_best() -> None:
    def run(*times: tuple[str, float]) -> Run:
        records = tuple(
            HistoryRecord(
                measured_at=float(index),
                workload_key=key,
                candidate_key=f"{key}-{index}",
                status=MeasurementStatus.OK,
                latency_us=us,
                busy_s=0.1,
                device="d",
                untuned=False,
                trial=True,
            )
            for index, (key, us) in enumerate(times)
        )
        best: dict[str, float] = {}
        for key, us in times:
            best[key] = min(us, best.get(key, us))
        return Run(History(records, {}, "k"), {"a": 1, "b": 2}, best)

    empty = (("a", 100), ("b", 50), ("a", 60), ("b", 40), ("a", 41), ("b", 20), ("a", 40))
    runs = {
        "empty": [run(*empty), run(*empty[:5]), run(*empty)],
        "full": [run(("a", 44), ("b", 22), ("b", 20), ("a", 40))],
        "other kind": [run(("a", 40), ("b", 100), ("b", 30), ("b", 21))],
    }
    figures = compare(runs)
    assert figures["best_known_ms"] == pytest.approx(0.08)
    assert figures["trials_ratio"] == 6 / 3
    assert figures["trials_ratio_kind"] == 6 / 4
    assert figures["reached_empty"] == 2 / 3
    never = {"empty": [run(*empty[:5])], "full": runs["full"], "other kind": [run(*empty[:4])]}
    figures = compare(never)
    assert figures["trials_ratio"] == 5 / 3, "of what it made, which was not enough"
    assert "trials_ratio_kind" not in figures
