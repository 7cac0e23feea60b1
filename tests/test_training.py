"""When a retrained cost model takes over from the one in use."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from coordinator.frontend.target import vector_lanes_of
from coordinator.learning import ENOUGH, ENOUGH_OF_SAME, FROM_ELSEWHERE, Learning
from coordinator.other_kinds import OtherKind
from coordinator.training import trainer
from coordinator.training.trainer import HELD_OUT, MAX_PARTS, TrainerWorker
from coordinator.tuning_log.samples import SampleRow
from cost_model.features import CANDIDATE_WIDTH, pack
from cost_model.model import MIN_SAMPLES, CostModel, Sample
from protos.records import Task
from tests.kernels import target_json


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


def test_with_a_tenth_more_a_model_is_trained_anew_and_updated_in_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trainer, "MAX_SAMPLES", 500)  # older ones are dropped: their number stays
    worker = TrainerWorker(1)
    since = []
    for seed in range(7):
        assert worker.train(_samples(500 if seed == 0 else 20, seed)) is not None
        since.append(worker._new)
    assert since == [0, 20, 40, 0, 20, 40, 0]


def test_a_model_of_many_updates_is_trained_anew() -> None:
    first = TrainerWorker(1)
    samples = _samples(400, 0)
    training = first.train(samples)
    assert training is not None
    assert training.text is not None
    model = CostModel(training.text)
    for _ in range(3 * MAX_PARTS + 3):
        model = model.updated(samples, 1)
    assert model.parts > MAX_PARTS
    second = TrainerWorker(1)
    second.remember(samples)
    second.adopt(model.text)
    assert second.train(_samples(4, 1)) is not None
    assert second._model is not None
    assert second._model.parts in (1, model.parts)  # trained anew, if that ranks as well
    assert second._trained_on == len(samples) + 4 - HELD_OUT


def test_other_kinds_of_device_are_learnt_from_until_there_is_enough() -> None:
    worker = TrainerWorker(1)
    worker.remember_elsewhere(_samples(200, 0), enough=256)
    first = worker.train([])
    assert first is not None
    assert first.text is not None
    assert CostModel(first.text).knows_elsewhere
    assert worker._trained_on == 200
    assert worker.train(_samples(256 - 1, 1)) is not None
    assert worker._trained_on == 200 + 256 - 1 - HELD_OUT
    assert worker.train(_samples(1, 2)) is not None
    assert worker._trained_on == 256 - HELD_OUT
    assert worker._model is not None
    following = TrainerWorker(1)
    following.remember([*_samples(100, 3), *_samples(64, 4)])
    following.adopt(CostModel.train(_samples(100, 3)).text)
    following.remember_elsewhere(_samples(200, 0), enough=256)
    assert following.train([]) is not None
    assert following._trained_on == 200 + 164 - HELD_OUT, "anew: it could not tell them apart"


@pytest.mark.parametrize("shared", [True, False])
def test_of_other_kinds_the_jobs_own_operators_say_the_most(shared: bool) -> None:
    features = pack(np.zeros(CANDIDATE_WIDTH, np.float32))
    asked: list[tuple[str, int]] = []

    class Log:
        def tasks(self, _job_id: str) -> list[Task]:
            return [Task("t", "w0" if shared else "new", "{}", 1, (), 1, 1e6)]

        def newest_samples(
            self, kind: str, _cold: bool, _version: int, limit: int
        ) -> list[SampleRow]:
            asked.append((kind, limit))
            return [SampleRow(i, f"w{i % 2}", f"c{i}", 1.0 + i, features) for i in range(20)]

    lab = SimpleNamespace(
        tuning_log=Log(),
        evaluator=SimpleNamespace(cold_cache=False),
        device=SimpleNamespace(kind="here", target_json=target_json()),
        job_id="j",
    )
    lanes = vector_lanes_of(target_json())
    others = [OtherKind("there", lanes), OtherKind("elsewhere", None), OtherKind("x", lanes + 1)]
    samples, enough = Learning(*cast(Any, (lab, None, None)))._elsewhere(others)
    assert asked == [("there", FROM_ELSEWHERE // 2), ("elsewhere", FROM_ELSEWHERE // 2)]
    assert enough == (ENOUGH_OF_SAME if shared else ENOUGH)
    operators = ("w0",) if shared else ("w0", "w1")
    kinds = ("there", "elsewhere")
    assert {s.workload_key for s in samples} == {f"{w}@{k}" for w in operators for k in kinds}
    assert len({s.candidate_key for s in samples}) == len(samples) == 20 * len(operators)


@pytest.mark.parametrize(("own", "taken"), [(ENOUGH - 1, True), (ENOUGH, False)])
def test_a_kind_that_has_enough_of_its_own_is_told_nothing_of_others(own: int, taken: bool) -> None:
    features = pack(np.zeros(CANDIDATE_WIDTH, np.float32))
    told: list[int] = []

    class Log:
        def tasks(self, _job_id: str) -> list[Task]:
            return []

        def latest_cost_model(self, _kind: str) -> None:
            return None

        def newest_samples(self, kind: str, *_scope: object) -> list[SampleRow]:
            count = own if kind == "here" else 20
            return [SampleRow(i, "w", f"c{i}", 1.0 + i, features) for i in range(count)]

    class Trainer:
        async def remember_elsewhere(self, samples: list[Sample], _enough: int) -> None:
            told.append(len(samples))

        async def remember(self, _samples: list[Sample]) -> None:
            pass

        async def train(self, _new: list[Sample]) -> None:
            return None

    lab = SimpleNamespace(
        tuning_log=Log(),
        evaluator=SimpleNamespace(cold_cache=False),
        device=SimpleNamespace(kind="here", target_json=target_json()),
        job_id="j",
        learning_kind="here",
    )
    asyncio.run(Learning(*cast(Any, (lab, None, Trainer()))).adopt([OtherKind("there", None)]))
    assert told == ([20] if taken else [])
