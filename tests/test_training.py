"""When a retrained cost model takes over from the one in use."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from coordinator.training.trainer import HELD_OUT, TrainerWorker
from cost_model.features import CANDIDATE_WIDTH
from cost_model.model import MIN_SAMPLES, Sample


def _samples(count: int, seed: int, noise: bool = False) -> list[Sample]:
    generator = np.random.default_rng(seed)
    rows = generator.random((count, CANDIDATE_WIDTH)).astype(np.float32)
    latencies = generator.random(count) if noise else 1 + 5 * rows[:, 0]
    return [
        Sample("task", row, float(us), f"{seed}-{index}")
        for index, (row, us) in enumerate(zip(rows, latencies, strict=True))
    ]


def test_too_little_is_not_learnt_from() -> None:
    assert TrainerWorker(1).train(_samples(MIN_SAMPLES + HELD_OUT - 1, 0)) is None


def test_the_first_model_is_used_and_judged_by_what_it_has_not_seen() -> None:
    training = TrainerWorker(1).train(_samples(200, 0))
    assert training is not None
    assert training.text is not None
    assert training.pairwise_before is None
    assert training.pairwise is not None
    assert training.pairwise > 0.7


def test_samples_come_in_pieces() -> None:
    worker = TrainerWorker(1)
    worker.train(_samples(20, 0))
    training = worker.train(_samples(40, 1))
    assert training is not None
    assert training.samples == 60


def test_a_model_that_ranks_worse_is_not_promoted() -> None:
    worker = TrainerWorker(1)
    good = worker.train(_samples(300, 0))
    assert good is not None
    # What follows is noise but for the newest, which again obey the law the good model knows.
    worse = worker.train(_samples(3000, 1, noise=True) + _samples(HELD_OUT, 2))
    assert worse is not None
    assert worse.pairwise is not None
    assert worse.pairwise_before is not None
    assert worse.pairwise < worse.pairwise_before
    assert worse.text is None


def test_a_model_of_the_log_is_the_one_to_beat() -> None:
    first = TrainerWorker(1)
    kept = first.train(_samples(400, 0))
    assert kept is not None
    assert kept.text is not None
    second = TrainerWorker(1)
    second.adopt(kept.text)
    training = second.train(_samples(40, 5))
    assert training is not None
    assert training.pairwise_before is not None


def test_a_candidate_that_is_measured_again_is_one_sample() -> None:
    worker = TrainerWorker(1)
    samples = _samples(40, 0)
    worker.remember(samples)
    slower = [replace(sample, latency_us=100.0) for sample in samples[:3]]
    failed = [replace(sample, latency_us=None) for sample in samples[3:5]]
    worker.remember(slower + failed)
    known = list(worker._samples.values())
    assert len(known) == 40
    assert [sample.latency_us for sample in known[:3]] == [s.latency_us for s in samples[:3]]
    assert [sample.latency_us for sample in known[3:5]] == [None, None]
    assert known[5:] == samples[5:]


def test_the_scores_that_decided_are_kept() -> None:
    worker = TrainerWorker(1)
    first, second = worker.train(_samples(200, 0)), worker.train(_samples(100, 1))
    assert first is not None
    assert second is not None
    assert list(first.scores) == ["held_out_pairwise"]
    assert list(second.scores) == ["held_out_pairwise", "in_use_pairwise"]
