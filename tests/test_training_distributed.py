"""A cost model trained on all of a log by two workers of a real Ray, beside the local one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from coordinator import ray_runtime
from coordinator.learning import Learning
from coordinator.training.distributed import Distributed
from coordinator.training.trainer import Trainer, accuracy
from coordinator.tuning_log import TuningLog
from coordinator.tuning_log.training_rows import ALL_ROWS_SCORE
from cost_model.model import CostModel
from tests.conftest import keep_alive
from tests.training_log import (
    DEADLINE_S,
    KIND,
    all_rows,
    fill,
    finished,
    learning,
    made,
    of_training,
)

pytest_plugins = ("tests.postgres",)

SAMPLES = 2000


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with ray_runtime.running(2):
        for child in psutil.Process().children(recursive=True):
            if child.pid not in before:
                keep_alive(child.pid)
        yield


async def appeared(name: str) -> list[psutil.Process]:
    deadline = time.monotonic() + DEADLINE_S
    while not (found := of_training(name)):
        assert time.monotonic() < deadline, f"no process {name}"
        await asyncio.sleep(0.05)
    return found


async def all_gone(*names: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while left := [process for name in names for process in of_training(name)]:
        assert time.monotonic() < deadline, left
        await asyncio.sleep(0.05)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[TuningLog]:
    opened = TuningLog.open(f"sqlite:///{tmp_path}/log.db")
    yield opened
    opened.close()


@pytest.mark.usefixtures("_ray")
def test_two_workers_learn_as_much_as_one_process(log: TuningLog) -> None:
    samples, unseen = made(SAMPLES, 0), made(400, 1)
    fill(log, samples, 0)

    async def scenario() -> tuple[str, ...]:
        trainer = Trainer(1)
        try:
            trainer.start()
            job, search = learning(log, trainer, SAMPLES - 1)
            await job.adopt()
            await finished(job)
            return tuple(search.models)
        finally:
            trainer.stop()

    (text,) = asyncio.run(scenario())
    (kept,) = log.cost_models(KIND)
    assert (kept.promoted, kept.trained_on) == (True, SAMPLES - 16)
    assert kept.scores[ALL_ROWS_SCORE] == SAMPLES
    assert log.latest_cost_model(KIND) == (kept.version, text)
    model = CostModel(text)
    right = [sample for sample in unseen if sample.latency_us is not None]
    here, there = accuracy(CostModel.train(samples[:-16]), right), accuracy(model, right)
    assert here is not None
    assert there is not None
    assert there > max(0.7, here - 0.03)
    seen = model.predict(np.stack([sample.features for sample in unseen]))
    assert all(np.isfinite(part).all() for part in (seen.score, seen.deviation, seen.failure))
    fails = np.array([sample.latency_us is None for sample in unseen])
    assert seen.failure[fails].mean() > 2 * seen.failure[~fails].mean()

    async def next_job() -> Learning:
        following, _ = learning(
            log,
            SimpleNamespace(adopt=nothing, remember=nothing, remember_elsewhere=nothing),
            SAMPLES - 1,
        )
        await following.adopt()
        return following

    async def nothing(*_: object) -> None:
        pass

    following = asyncio.run(next_job())
    assert following.experienced
    assert following._on_all is None  # it is not trained on the same once more


@pytest.mark.usefixtures("_ray")
def test_a_log_in_postgresql_is_trained_on(postgres_url: str) -> None:
    opened = TuningLog.open(postgres_url)
    try:
        fill(opened, made(1000, 0), 0)
        fitted = asyncio.run(Distributed(2).train(all_rows(opened)))
    finally:
        opened.close()
    assert fitted is not None
    assert fitted.samples == 1000
    quality = accuracy(
        CostModel(fitted.text), [s for s in made(200, 1) if s.latency_us is not None]
    )
    assert quality is not None
    assert quality > 0.7


@pytest.mark.usefixtures("_ray")
def test_a_worker_that_dies_costs_the_model_and_not_the_job(
    log: TuningLog, caplog: pytest.LogCaptureFixture
) -> None:
    fill(log, made(SAMPLES, 0), 0)

    async def scenario() -> list[str]:
        trainer = Trainer(1)
        try:
            trainer.start()
            job, search = learning(log, trainer, SAMPLES - 1)
            await job.adopt()
            await appeared("MapBatches")  # the workers are being handed their shards
            of_training("RayTrainWorker")[0].kill()
            await finished(job)
            await job.settle()
            return search.models
        finally:
            trainer.stop()

    assert asyncio.run(scenario()) == []
    assert log.cost_models(KIND) == []
    assert "the training on 2000 measurements came to nothing" in caplog.text


@pytest.mark.usefixtures("_ray")
def test_nothing_of_a_training_outlives_its_job(log: TuningLog) -> None:
    fill(log, made(SAMPLES, 0), 0)

    async def scenario() -> None:
        trainer = Trainer(1)
        try:
            trainer.start()
            job, _ = learning(log, trainer, SAMPLES - 1)
            await job.adopt()
            await appeared("TrainController")
            await job.stop()
        finally:
            trainer.stop()
        await all_gone("Fit", "TrainController", "RayTrainWorker", "PlacementGroupCleaner")

    asyncio.run(scenario())
    assert log.cost_models(KIND) == []
