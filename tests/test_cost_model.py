"""Features, ranking figures, and the LightGBM model itself."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cost_model import ranking
from cost_model.features import CANDIDATE_WIDTH, STORE_WIDTH, candidate_features
from cost_model.model import MIN_SAMPLES, CostModel, Sample, scores


def test_features_have_one_width_whatever_the_number_of_stores() -> None:
    generator = np.random.default_rng(0)
    for stores in (0, 1, 7):
        row = candidate_features(generator.random((stores, STORE_WIDTH)))
        assert row.shape == (CANDIDATE_WIDTH,)
        assert row.dtype == np.float32
        assert np.isfinite(row).all()


def test_features_do_not_depend_on_the_order_of_the_stores() -> None:
    stores = np.random.default_rng(1).random((5, STORE_WIDTH))
    np.testing.assert_allclose(
        candidate_features(stores), candidate_features(stores[::-1]), rtol=1e-6
    )


def test_features_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="172"):
        candidate_features(np.zeros((3, 171)))


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


def test_scores_are_normalised_within_the_task() -> None:
    row = np.zeros(CANDIDATE_WIDTH, dtype=np.float32)
    samples = [
        Sample("a", row, 10.0),
        Sample("a", row, 20.0),
        Sample("a", row, None),
        Sample("b", row, 5000.0),
        Sample("c", row, None),
    ]
    assert scores(samples).tolist() == [1.0, 0.5, 0.0, 1.0, 0.0]


def test_the_model_ranks_what_it_has_not_seen_over_tasks_of_different_scale() -> None:
    samples = _samples(150, "small", 1.0, 0) + _samples(150, "large", 1e4, 1)
    model = CostModel.train(samples)
    for task, scale, seed in (("small", 1.0, 2), ("large", 1e4, 3)):
        unseen = _samples(60, task, scale, seed)
        predicted = model.predict(np.stack([sample.features for sample in unseen]))
        accuracy = ranking.pairwise_accuracy(
            predicted.tolist(), [sample.latency_us or math.inf for sample in unseen]
        )
        assert accuracy is not None
        assert accuracy > 0.75


def test_a_model_survives_as_text() -> None:
    model = CostModel.train(_samples(64, "a", 1.0, 0))
    rows = np.stack([sample.features for sample in _samples(8, "a", 1.0, 1)])
    np.testing.assert_array_equal(CostModel(model.text).predict(rows), model.predict(rows))


def test_training_is_reproducible() -> None:
    samples = _samples(64, "a", 1.0, 0)
    assert CostModel.train(samples).text == CostModel.train(samples).text


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match=str(MIN_SAMPLES)):
        CostModel.train(_samples(MIN_SAMPLES - 1, "a", 1.0, 0))


def test_a_text_that_is_no_model_is_refused() -> None:
    with pytest.raises(ValueError, match="LightGBM"):
        CostModel("not a model")
