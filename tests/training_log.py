"""A tuning log of synthetic samples to train on, and what a training on all of it takes.

``python -m tests.training_log 100000`` fills a log in a temporary folder, trains on it with two
workers, and prints the seconds and the most memory of each process.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import psutil

from coordinator import ray_runtime
from coordinator.learning import Learning
from coordinator.stages import StageClock
from coordinator.training.distributed import AllRows, Distributed
from coordinator.training.trainer import accuracy
from coordinator.tuning_log import TuningLog
from coordinator.tuning_log.training_rows import Scope, extent
from cost_model.features import CANDIDATE_WIDTH, VERSION, pack
from cost_model.model import CostModel, Sample
from protos.records import (
    Candidate,
    EvaluatorConfig,
    JobSpec,
    Measurement,
    MeasurementStatus,
    Task,
)

KIND = "kind-a"
TASKS = 5
NOT_ZERO = 230
"""Features that are not zero where memory is measured: a row packs to 580 bytes, as real ones
do."""

AT_ONCE = 5000
DEADLINE_S = 400.0


def law(rows: np.ndarray, task: int) -> tuple[np.ndarray, np.ndarray]:
    """Latencies in microseconds, and whether the candidate fails."""
    speed = 1 + rows[:, 0] + 2 * np.abs(rows[:, 1] - 0.3) + rows[:, 2] * rows[:, 3]
    return 100.0 * (task + 1) * speed, rows[:, 4] > 0.9


def made(count: int, seed: int, not_zero: int = 50) -> list[Sample]:
    """Samples whose trace is their name; so many of the features are not zero."""
    generator = np.random.default_rng(seed)
    rows = np.zeros((count, CANDIDATE_WIDTH), dtype=np.float32)
    rows[:, :not_zero] = generator.random((count, not_zero)).round(2)
    found = []
    for index, row in enumerate(rows):
        task = index % TASKS
        (us,), (fails,) = law(row[None], task)
        candidate = Candidate(f"w{task}", f"[{seed},{index}]")
        latency = None if fails else float(us)
        found.append(Sample(candidate.workload_key, row, latency, candidate.key))
    return found


def fill(log: TuningLog, samples: Sequence[Sample], seed: int) -> None:
    """Record samples that were ``made`` with this seed."""
    job = log.add_job(JobSpec("m", "0" * 64, '{"kind":"llvm"}', 64), "here:1", embedded=True)
    tasks = [Task(f"f{i}", f"w{i}", '{"root":1}', 1, (), 1, 1.0) for i in range(TASKS)]
    log.set_tasks(job.job_id, tasks)
    results = []
    for index, sample in enumerate(samples):
        candidate = Candidate(sample.workload_key, f"[{seed},{index}]")
        right = sample.latency_us is not None
        measurement = Measurement(
            workload_key=candidate.workload_key,
            candidate_key=candidate.key,
            status=MeasurementStatus.OK if right else MeasurementStatus.CRASHED,
            lease_id=f"l{seed}",
            repeats_s=(sample.latency_us / 1e6,) if sample.latency_us is not None else (),
        )
        results.append((job.job_id, KIND, candidate, measurement, None))
    log.record_many(results)
    log.keep_features(VERSION, {sample.candidate_key: pack(sample.features) for sample in samples})


def all_rows(log: TuningLog) -> AllRows:
    with log.reading() as connection:
        found = extent(connection, KIND, False, VERSION)
    return AllRows(log.url, Scope(KIND, False, VERSION, found.last), found.first, found.rows)


class Search:
    """Stands in for the pool of search actors: keeps what it is told to use."""

    def __init__(self) -> None:
        self.models: list[str] = []

    async def use_model(self, text: str) -> None:
        self.models.append(text)


def learning(log: TuningLog, trainer: Any, above: int) -> tuple[Learning, Search]:
    lab = SimpleNamespace(
        job_id="j-1",
        device=SimpleNamespace(kind=KIND),
        evaluator=EvaluatorConfig(),
        tuning_log=log,
        clock=StageClock(),
        learning_kind=KIND,
    )
    search = Search()
    return Learning(cast(Any, lab), cast(Any, search), trainer, above), search


async def finished(learning: Learning) -> None:
    assert learning._on_all is not None
    await asyncio.wait_for(learning._on_all, DEADLINE_S)


def of_training(name: str) -> list[psutil.Process]:
    """Living processes of this session's Ray that bear this name."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if " ".join(process.cmdline()).startswith(f"ray::{name}"):
                found.append(process)
    return found


class Watch(threading.Thread):
    """Keeps the most memory of each process of the training: its own, and with what it shares."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._over = threading.Event()
        self.peaks: dict[tuple[str, int], tuple[int, int]] = {}

    def run(self) -> None:
        while not self._over.wait(0.2):
            for process in of_training(""):
                with contextlib.suppress(psutil.Error):
                    memory, name = process.memory_info(), process.cmdline()[0].split(".")[0]
                    own, whole = self.peaks.get((name, process.pid), (0, 0))
                    most = max(own, memory.rss - memory.shared), max(whole, memory.rss)
                    self.peaks[name, process.pid] = most

    def stop(self) -> None:
        self._over.set()
        self.join()


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder, ray_runtime.running(psutil.cpu_count() or 1):
        log = TuningLog.open(f"{folder}/log.db")
        for seed in range(count // AT_ONCE):
            fill(log, made(AT_ONCE, seed, NOT_ZERO), seed)
        watch = Watch()
        watch.start()
        fitted = asyncio.run(Distributed(2).train(all_rows(log)))
        watch.stop()
        log.close()
    assert fitted is not None
    unseen = [s for s in made(500, 1 << 31, NOT_ZERO) if s.latency_us is not None]
    lines = [
        f"{fitted.samples} samples, {fitted.train_s:.0f} s, model of {len(fitted.text)} bytes",
        f"pairwise accuracy on unseen samples: {accuracy(CostModel(fitted.text), unseen):.3f}",
        f"the first worker by its own account: {fitted.worker_bytes >> 20} MiB",
    ]
    for (name, pid), (own, whole) in sorted(watch.peaks.items(), key=lambda item: -item[1][0])[:8]:
        lines.append(
            f"{name:24} {pid:8} {own >> 20:6} MiB, {whole >> 20:6} MiB with what is shared"
        )
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
