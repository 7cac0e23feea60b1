"""When a cost model is trained on all of a log, with which labels, and whether it is used."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.training.distributed import AllRows, check_readable, due, workers_for
from coordinator.training.on_ray import Fitted
from coordinator.training.trainer import TrainerWorker, accuracy
from coordinator.tuning_log import TuningLog
from coordinator.tuning_log.training_rows import ALL_ROWS_SCORE, Scope, between, latencies
from cost_model.features import VERSION
from cost_model.model import CostModel, Sample, labels
from cost_model.task_scale import MAX_POINTS, TaskScale
from protos.errors import BadRequest
from protos.records import Candidate, Measurement, MeasurementStatus
from tests.training_log import KIND, TASKS, all_rows, fill, finished, learning, made


@pytest.fixture
def log(tmp_path: Path) -> Iterator[TuningLog]:
    opened = TuningLog.open(f"sqlite:///{tmp_path}/log.db")
    yield opened
    opened.close()


# ------------------------------------------------------------------------- when, and by whom


def test_all_of_the_log_is_trained_on_past_a_threshold_and_when_it_has_grown() -> None:
    assert not due(200_000, 0)
    assert due(200_001, 0)
    assert not due(1_000_000, 950_000)
    assert due(1_100_000, 1_000_000)
    assert due(11, 0, above=10)


def test_there_is_one_worker_on_each_machine() -> None:
    assert workers_for([8.0]).count == 1  # alone it opens no port
    assert workers_for([8.0], on_one=2).count == 2
    several = workers_for([16.0, 8.0, 32.0])
    assert (several.count, several.num_threads, several.cpus, several.spread) == (3, 4, 4, True)


def test_a_file_is_not_read_by_a_cluster() -> None:
    file = "sqlite:////data/log.db"
    check_readable(file, nodes=1)
    check_readable("postgresql+psycopg://a@b/c", nodes=3)
    with pytest.raises(BadRequest, match=r"/data/log\.db is a file of one machine.*has 3.*Postgre"):
        check_readable(file, nodes=3)


# ------------------------------------------------------------------------- what is learnt


def test_labels_are_those_of_the_local_training() -> None:
    samples = made(TASKS * MAX_POINTS, 1)
    scales = {
        key: TaskScale.of([s.latency_us for s in samples if s.workload_key == key])
        for key in {s.workload_key for s in samples}
    }
    found = [scales[s.workload_key].label(s.latency_us) for s in samples]
    np.testing.assert_allclose(found, labels(samples))


def test_labels_of_a_large_task_are_close() -> None:
    latencies_us = [float(us) for us in np.random.default_rng(0).lognormal(3, 1, 20_000)]
    latencies_us += latencies_us[:100]
    samples = [Sample("w", np.zeros(0), us) for us in latencies_us] + [
        Sample("w", np.zeros(0), None)
    ]
    scale = TaskScale.of([s.latency_us for s in samples])
    assert len(scale.points) == MAX_POINTS
    found = [scale.label(s.latency_us) for s in samples]
    np.testing.assert_allclose(found, labels(samples), atol=1 / MAX_POINTS)
    assert scale.label(0.5 * min(latencies_us)) <= 1.0


def test_a_candidate_is_one_sample_of_its_first_measurement(log: TuningLog) -> None:
    samples = made(40, 0)
    fill(log, samples, 0)
    job = log.jobs()[0].job_id
    again = []
    for index, status, us in ((0, "OK", 1.0), (1, "CRASHED", None), (2, "DEVICE_LOST", None)):
        candidate = Candidate(samples[index].workload_key, f"[0,{index}]")
        repeats = () if us is None else (us / 1e6,)
        measurement = Measurement(
            candidate.workload_key,
            candidate.key,
            MeasurementStatus[status],
            "l9",
            repeats_s=repeats,
        )
        again.append((job, KIND, candidate, measurement, None))
    log.record_many(again)
    rows = all_rows(log).without([samples[3].candidate_key])
    with log.reading() as connection:
        halves = [between(connection, rows.scope, *ids) for ids in ((0, 20), (20, 100))]
        of_task = latencies(connection, rows.scope, "w0")
        nothing = between(connection, Scope(KIND, True, VERSION, 100), 0, 100)
    assert [len(half) for half in halves] == [19, 20]
    assert nothing == []
    assert (rows.rows, rows.first) == (42, 1)
    expected = {sample.candidate_key: sample.latency_us for sample in samples}
    expected[samples[0].candidate_key], expected[samples[1].candidate_key] = 1.0, None
    del expected[samples[3].candidate_key]
    assert {row.candidate_key: row.latency_us for row in chain(*halves)} == pytest.approx(expected)
    first_task = [expected[sample.candidate_key] for sample in samples[::TASKS]]
    assert sorted(of_task, key=str) == pytest.approx(sorted(first_task, key=str))


# ------------------------------------------------------------------------- whether it is used


class HereTrainer:
    """A trainer in this process; its training on all of the log ends with a given model."""

    def __init__(self, text: str) -> None:
        self._worker = TrainerWorker(1)
        self._text = text

    async def adopt(self, text: str) -> None:
        self._worker.adopt(text)

    async def remember(self, samples: Sequence[Sample]) -> None:
        self._worker.remember(samples)

    async def remember_elsewhere(self, samples: Sequence[Sample], enough: int) -> None:
        self._worker.remember_elsewhere(samples, enough)

    async def train(self, new: Sequence[Sample]) -> Any:
        return self._worker.train(new)

    async def fit_all(self, rows: AllRows) -> Fitted:
        self._worker.reserve()
        return Fitted(self._text, rows.rows, 1.0, 0)

    async def consider(self, fitted: Fitted) -> Any:
        return self._worker.consider(fitted)


def test_a_model_that_ranks_worse_is_refused_and_that_is_recorded(log: TuningLog) -> None:
    samples = made(400, 0)
    fill(log, samples, 0)
    good = CostModel.train(samples[:-16])
    log.add_cost_model(KIND, good.text, 384, {})
    generator = np.random.default_rng(0)
    bad = CostModel.train(
        [Sample("w", s.features, float(generator.random())) for s in samples[:-16]]
    )

    async def scenario() -> list[str]:
        job, search = learning(log, HereTrainer(bad.text), above=399)
        await job.adopt()
        await finished(job)
        return search.models

    assert asyncio.run(scenario()) == [good.text]
    refused = log.cost_models(KIND)[-1]
    assert (refused.promoted, refused.trained_on) == (False, 400)
    assert refused.scores["held_out_pairwise"] < refused.scores["in_use_pairwise"]
    assert refused.scores[ALL_ROWS_SCORE] == 400


def test_what_is_reserved_is_not_trained_on() -> None:
    worker = TrainerWorker(1)
    samples = made(300, 0)
    worker.remember(samples)
    assert list(worker.reserve()) == [sample.candidate_key for sample in samples[-16:]]
    training = worker.train(made(40, 1))
    assert training is not None
    assert training.text is not None
    expected = CostModel.train(samples[:-16] + made(40, 1)[:-16])
    assert training.text == expected.text
    considered = worker.consider(Fitted(expected.text, 5, 1.0, 0))
    assert considered.pairwise == considered.pairwise_before == accuracy(expected, samples[-16:])
    assert considered.samples == 5


def test_below_the_threshold_nothing_changes(log: TuningLog) -> None:
    samples = made(40, 0)
    fill(log, samples, 0)

    async def scenario() -> list[str]:
        job, search = learning(log, HereTrainer("none"), above=40)
        await job.adopt()
        assert job._on_all is None
        assert job.experienced
        return search.models

    (text,) = asyncio.run(scenario())  # a log with measurements and no model has one at once
    assert log.latest_cost_model(KIND) == (1, text)
    assert [kept.trained_on for kept in log.cost_models(KIND)] == [40]
