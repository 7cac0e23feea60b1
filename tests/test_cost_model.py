"""Features, ranking figures, and the LightGBM model itself."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from cost_model import ranking
from cost_model.features import (
    CANDIDATE_WIDTH,
    STORE_WIDTH,
    STORES_WIDTH,
    candidate_features,
    pack,
    unpack,
)
from cost_model.gain import LEAST_DEVIATION, expected_gain
from cost_model.model import (
    MEMBERS,
    MIN_FAILURES,
    MIN_SAMPLES,
    CostModel,
    Prediction,
    Sample,
    labels,
    relative_speed,
    score_rounds,
    weights,
)
from cost_model.schedule_features import ABSENT, SCHEDULE_WIDTH, schedule_features


def test_features_have_one_width_whatever_the_number_of_stores() -> None:
    generator = np.random.default_rng(0)
    for stores in (0, 1, 7):
        row = candidate_features(generator.random((stores, STORE_WIDTH)), "")
        assert row.shape == (CANDIDATE_WIDTH,)
        assert row.dtype == np.float32
        assert np.isfinite(row).all()


def test_features_do_not_depend_on_the_order_of_the_stores() -> None:
    stores = np.random.default_rng(1).random((5, STORE_WIDTH))
    np.testing.assert_allclose(
        candidate_features(stores, ""), candidate_features(stores[::-1], ""), rtol=1e-6
    )


def test_features_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="172"):
        candidate_features(np.zeros((3, 171)), "")


def test_pairwise_accuracy() -> None:
    assert ranking.pairwise_accuracy([3, 2, 1], [10, 20, 30]) == 1.0
    assert ranking.pairwise_accuracy([1, 2, 3], [10, 20, 30]) == 0.0
    assert ranking.pairwise_accuracy([1, 1], [10, 20]) == 0.5
    assert ranking.pairwise_accuracy([1, 2], [10, 10]) is None
    # A failed candidate ranked below a working one is ranked right; two failed ones are no pair.
    assert ranking.pairwise_accuracy([2, 1, 0], [10, math.inf, math.inf]) == 1.0


def test_peak_at_k() -> None:
    latencies = [40.0, 10.0, 20.0]
    assert ranking.peak_at(1, [3, 1, 2], latencies) == 0.25
    assert ranking.peak_at(2, [3, 1, 2], latencies) == 0.5
    assert ranking.peak_at(3, [3, 1, 2], latencies) == 1.0
    assert ranking.peak_at(1, [1, 0], [math.inf, 5.0]) == 0.0
    assert ranking.peak_at(1, [1, 0], [math.inf, math.inf]) is None


def test_the_quality_of_batches_is_averaged() -> None:
    first = ranking.batch_quality([2, 1], [10, 20])
    second = ranking.batch_quality([1, 2], [10, 20])
    assert first is not None
    assert second is not None
    mean = ranking.average([first, second])
    assert mean is not None
    assert (mean.pairwise, mean.batches) == (0.5, 2)
    assert ranking.average([]) is None
    assert ranking.batch_quality([1, 2], [10, 10]) is None


def _samples(count: int, task: str, scale: float, seed: int) -> list[Sample]:
    """Candidates whose latency is a function of two of their features."""
    generator = np.random.default_rng(seed)
    rows = generator.random((count, CANDIDATE_WIDTH)).astype(np.float32)
    latencies = scale * (1 + 4 * rows[:, 3] + 2 * rows[:, 200])
    return [Sample(task, row, float(us)) for row, us in zip(rows, latencies, strict=True)]


def test_few_samples_get_few_trees() -> None:
    assert [score_rounds(n) for n in (16, 1280, 3200, 6400, 20_000)] == [80, 80, 200, 400, 400]


def test_scores_are_normalised_within_the_task() -> None:
    row = np.zeros(CANDIDATE_WIDTH, dtype=np.float32)
    samples = [
        Sample("a", row, 10.0),
        Sample("a", row, 20.0),
        Sample("a", row, None),
        Sample("b", row, 5000.0),
        Sample("c", row, None),
    ]
    assert relative_speed(samples).tolist() == [1.0, 0.5, 0.0, 1.0, 0.0]
    assert labels(samples).tolist() == pytest.approx([0.95, 0.3875, 0.0, 0.85, 0.0])


def test_the_model_ranks_what_it_has_not_seen_over_tasks_of_different_scale() -> None:
    samples = _samples(150, "small", 1.0, 0) + _samples(150, "large", 1e4, 1)
    model = CostModel.train(samples)
    for task, scale, seed in (("small", 1.0, 2), ("large", 1e4, 3)):
        unseen = _samples(60, task, scale, seed)
        predicted = model.predict(np.stack([sample.features for sample in unseen]))
        accuracy = ranking.pairwise_accuracy(
            predicted.score.tolist(), [sample.latency_us or math.inf for sample in unseen]
        )
        assert accuracy is not None
        assert accuracy > 0.75


def test_of_another_kind_of_device_a_model_learns_what_is_the_same() -> None:
    """There, 200 is of no importance, and 7 is."""

    def elsewhere(seed: int) -> list[Sample]:
        rows = [s.features for s in _samples(400, "a", 1.0, seed)]
        return [Sample("a@k", r, float(1 + 4 * r[3] + 2 * r[7]), elsewhere=True) for r in rows]

    here, unseen = _samples(100, "a", 1.0, 1), _samples(100, "a", 1.0, 2)
    rows = np.stack([sample.features for sample in unseen])

    def accuracy(samples: list[Sample]) -> float:
        scores = CostModel.train(samples).predict(rows).score
        found = ranking.pairwise_accuracy(scores.tolist(), [s.latency_us or 0.0 for s in unseen])
        assert found is not None
        return found

    both = [*elsewhere(0), *here]
    mixed_up = [replace(sample, elsewhere=False) for sample in both]
    assert accuracy(both) > max(accuracy(here), accuracy(mixed_up))
    model = CostModel.train(both)
    updated = model.updated([*both, *_samples(32, "b", 1.0, 3)])
    again = CostModel(updated.text)
    np.testing.assert_array_equal(again.predict(rows).score, updated.predict(rows).score)
    assert CostModel.train(here).updated(both).predict(rows).score.shape == (100,)


def test_a_model_survives_as_text() -> None:
    model = CostModel.train(_samples(64, "a", 1.0, 0))
    rows = np.stack([sample.features for sample in _samples(8, "a", 1.0, 1)])
    again = CostModel(model.text).predict(rows)
    for field in ("score", "deviation", "failure"):
        np.testing.assert_array_equal(getattr(again, field), getattr(model.predict(rows), field))


def test_training_is_reproducible() -> None:
    samples = _samples(64, "a", 1.0, 0)
    assert CostModel.train(samples).text == CostModel.train(samples).text


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match=str(MIN_SAMPLES)):
        CostModel.train(_samples(MIN_SAMPLES - 1, "a", 1.0, 0))


def test_a_text_that_is_no_model_is_refused() -> None:
    members = '{"features": %d, "score": [["tree"]], "failure": null}'
    for text, why in (
        ("tree\nversion=v4", "not a cost model"),
        ("[1]", "not a cost model"),
        (members % 1, "features 1"),
        (members % 3, "LightGBM"),
    ):
        with pytest.raises(ValueError, match=why):
            CostModel(text)


def test_an_update_learns_what_is_new_and_keeps_what_was_known() -> None:
    old, new = _samples(150, "a", 1.0, 0), _samples(150, "b", 1.0, 1)
    # What is fast in b is slow in a.
    new = [replace(s, latency_us=10.0 - (s.latency_us or 0.0)) for s in new]
    for rows in (old, new):  # trees tell the tasks apart by this
        for sample in rows:
            sample.features[0] = 1.0 if rows is new else 0.0
    model = CostModel.train(old)
    updated = model
    for _ in range(60):
        updated = updated.updated([*old, *new])
    assert CostModel(updated.text).text == updated.text

    def accuracy(of: CostModel, samples: list[Sample]) -> float:
        scores = of.predict(np.stack([s.features for s in samples])).score
        found = ranking.pairwise_accuracy(scores.tolist(), [s.latency_us or 0.0 for s in samples])
        assert found is not None
        return found

    assert accuracy(model, new) < 0.5
    assert accuracy(updated, new) > 0.8
    assert accuracy(updated, old) > 0.8
    with pytest.raises(ValueError, match="samples"):
        model.updated(new[:3])


def test_what_fails_is_predicted_and_counts_for_nothing_else() -> None:
    samples = _samples(200, "a", 1.0, 0)
    failing = [
        replace(sample, latency_us=None) if sample.features[7] > 0.8 else sample
        for sample in samples
    ]
    assert sum(sample.latency_us is None for sample in failing) >= MIN_FAILURES
    unseen = _samples(100, "a", 1.0, 1)
    rows = np.stack([sample.features for sample in unseen])
    prediction = CostModel.train(failing).predict(rows)
    fails = rows[:, 7] > 0.8
    assert prediction.failure[fails].min() > prediction.failure[~fails].max()
    assert np.all(CostModel.train(samples).predict(rows).failure == 0.0)


def test_the_expected_gain_prefers_what_is_uncertain_and_shuns_what_may_fail() -> None:
    prediction = Prediction(
        score=np.array([0.8, 0.8, 0.9, 0.9, 0.1]),
        deviation=np.array([0.05, 0.2, 0.0, 0.0, 0.0]),
        failure=np.array([0.0, 0.0, 0.0, 0.9, 0.0]),
    )
    sure, unsure, best, failing, hopeless = expected_gain(prediction, 0.85).tolist()
    assert sure < unsure
    assert failing == pytest.approx(best / 10)
    assert best == pytest.approx(0.05, abs=LEAST_DEVIATION)
    assert hopeless == pytest.approx(0.0, abs=1e-12)


TRACE = (
    '[[["GetSBlock",[],["conv","main"],["b0"]],["GetLoops",["b0"],[],["l1","l2","l3"]],'
    '["SamplePerfectTile",["l1"],[3,64],["v1","v2","v3"]],'
    '["SamplePerfectTile",["l2"],[4,64],["v4","v5","v6","v7"]],'
    '["SamplePerfectTile",["l3"],[2,64],["v8","v9"]],'
    '["SampleCategorical",[],[[0,16,64],[0.3,0.3,0.4]],["v10"]],'
    '["Parallel",["l1"],[],[]],["Unroll",["l3"],[],[]],["Unroll",["l2"],[],[]]],'
    "[[2,[2,4,6]],[3,[8,1,2,16]],[4,[32,4]],[5,1]]]"
)


def test_the_features_of_a_trace_are_its_tiles() -> None:
    row = schedule_features(TRACE)
    assert row.shape == (SCHEDULE_WIDTH,)
    inner, around, outer, unrolled, serial, body = np.exp2(row[:6]).tolist()
    expected = (6 * 2 * 16, 4, 16, 4, 32, 6 * 2 * 16 * 4)
    assert (inner, around, outer, unrolled, serial, body) == pytest.approx(expected)
    assert row[6:9].tolist() == [2, 1, 1]
    # The last spatial loop comes first, then the one before; what is not there is marked.
    assert row[9:17].tolist() == pytest.approx([3, 0, 1, 4, 1, 2, math.log2(6), ABSENT])
    assert row[-1] == 9
    untuned = schedule_features("")
    assert untuned[9] == ABSENT
    assert untuned[-1] == 0
    for broken in ("{", "[]", "3"):
        with pytest.raises(ValueError, match="trace"):
            schedule_features(broken)


def test_features_are_kept_in_few_bytes() -> None:
    row = candidate_features(np.zeros((1, STORE_WIDTH)), TRACE)
    np.testing.assert_array_equal(unpack(pack(row)), row)
    assert len(pack(row)) < STORES_WIDTH
    for broken in (b"", b"no", pack(row[:-1])):
        with pytest.raises(ValueError, match="features"):
            unpack(broken)


def test_the_last_member_looks_at_the_fast_candidates_above_all() -> None:
    label = np.array([0.0, 0.5, 1.0, -0.01])
    assert weights(label, 0) is None
    last = weights(label, MEMBERS - 1)
    assert last is not None
    np.testing.assert_allclose(last, [0.1, 0.6, 1.1, 0.1])
