"""Answers how long a model would take, out of a tuning log; no device is asked."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from coordinator.prediction.devices import choose_device
from coordinator.prediction.graph import GraphOperator, read_operators
from coordinator.prediction.measured import packaged_interval
from coordinator.prediction.predictor import COVERAGE, Finished, Known, Parts, Predictor
from coordinator.prediction.workloads import operator_of
from coordinator.tuning_log import TuningLog, operators
from cost_model.latency import Operator, Timed
from protos.errors import Conflict
from protos.records import (
    Device,
    Job,
    PredictedOperator,
    Prediction,
    PredictionSource,
    PredictionSpec,
    Shape,
    sha256_hex,
)

MIN_OPERATORS = 50
"""With fewer operators that were timed on a kind of device nothing is predicted for it."""

MIN_TRIED = 8
"""Operators with fewer candidates are not tuned: their times say little of tuned ones."""

MAX_MODELS = 100
"""The newest finished models calibrate."""

MEASURED_COVERAGE = 0.95

_GROWTH = 1.1
"""A predictor is trained again when the log has grown by a tenth."""


@dataclass(frozen=True)
class Evidence:
    """What a log knows of a kind of device: operators with their times, and finished models."""

    known: tuple[Known, ...]
    finished: tuple[Finished, ...]
    jobs: tuple[Job, ...]


class Predictions:
    """One for each tuning log; callable from any thread. Trained predictors are kept."""

    def __init__(self, tuning_log: TuningLog) -> None:
        self._log = tuning_log
        self._lock = threading.Lock()
        self._trained: dict[str, tuple[int, Predictor]] = {}

    def predict(self, model: bytes, spec: PredictionSpec) -> Prediction:
        """The latency of a model (the bytes of an ONNX file) on a kind of device.

        Raises NotFound or BadRequest for a device that is not known or not one, BadModel as
        submitting the model would, and Conflict if the log knows too little of the kind.
        """
        device = choose_device(self._log.devices(), spec.device)
        with self._log.reading() as connection:
            finished = operators.finished_jobs(connection, device)
        sha256 = sha256_hex(model)
        for job in finished:
            if job.spec.model_sha256 == sha256 and dict(job.spec.shapes) == dict(spec.shapes):
                return _measured(job, device)
        found = read_operators(model, spec.shapes)
        predictor = self._predictor(device)
        times = predictor.times.of(found)
        interval = predictor.calibration.interval(Parts.of(times))
        return Prediction(
            interval.latency_ms,
            interval.low_ms,
            interval.high_ms,
            COVERAGE,
            PredictionSource.PREDICTED,
            device.kind,
            operators=tuple(
                PredictedOperator(one.name, one.kind, one.latency_us, one.known) for one in times
            ),
            learnt_operators=predictor.learnt,
            learnt_models=predictor.calibration.models,
        )

    def _predictor(self, device: Device) -> Predictor:
        """The kept one, unless the log has grown; raises Conflict."""
        with self._lock, self._log.reading() as connection:
            size = operators.size(connection)
            kept = self._trained.get(device.kind)
            if kept is not None and size <= kept[0] * _GROWTH:
                return kept[1]
        evidence = evidence_of(self._log, device)
        if len(evidence.known) < MIN_OPERATORS:
            raise Conflict(too_little(len(evidence.known), device))
        trained = Predictor.train(evidence.known, evidence.finished)
        with self._lock:
            self._trained[device.kind] = (size, trained)
        return trained


def evidence_of(tuning_log: TuningLog, device: Device) -> Evidence:
    """All that predictions for a kind of device are learnt from."""
    with tuning_log.reading() as connection:
        rows = operators.timed_operators(connection, device.kind)
        jobs = operators.finished_jobs(connection, device)
    by_key = {row.workload_key: operator_of(row.name, row.args, row.num_outputs) for row in rows}
    known = []
    for row in rows:
        operator = by_key[row.workload_key]
        if operator is not None and row.tried >= MIN_TRIED:
            known.append(Known(Timed(operator, row.best_us), row.models, row.tried))
    newest = _newest_of_each_model(jobs)[:MAX_MODELS]
    return Evidence(tuple(known), tuple(_finished(job, by_key) for job in newest), tuple(newest))


def _finished(job: Job, by_key: Mapping[str, Operator | None]) -> Finished:
    """A finished job with the operators that its tuned model runs."""
    assert job.result is not None
    ran: list[GraphOperator] = []
    rest_us = 0.0
    for task in job.tasks:
        operator = by_key.get(task.workload_key)
        if operator is None:
            rest_us += task.weight * (task.tuned_us or task.untuned_us or 0.0)
        else:
            ran += [GraphOperator(task.name, operator)] * task.weight
    return Finished(job.spec.model_sha256, tuple(ran), job.result.packaged_ms, rest_us)


def _newest_of_each_model(jobs: Iterable[Job]) -> list[Job]:
    """Without those whose tuned operators are not known."""
    found: dict[tuple[str, tuple[tuple[str, Shape], ...]], Job] = {}
    for job in jobs:
        shapes = tuple(sorted(job.spec.shapes.items(), key=str))
        if job.tasks and job.result is not None:
            found.setdefault((job.spec.model_sha256, shapes), job)
    return list(found.values())


def _measured(job: Job, device: Device) -> Prediction:
    assert job.result is not None
    latency_ms, low_ms, high_ms = packaged_interval(job.result)
    return Prediction(
        latency_ms,
        low_ms,
        high_ms,
        MEASURED_COVERAGE,
        PredictionSource.MEASURED,
        device.kind,
        job_id=job.job_id,
    )


def too_little(known: int, device: Device) -> str:
    """Why nothing is predicted, and what to do."""
    return (
        f"the tuning log has {known} tuned operators of devices like {device.name} (kind "
        f"{device.kind[:8]}); to predict, {MIN_OPERATORS} are needed. Tune a model for it first "
        f"(tunefarm submit MODEL.onnx --device {device.name}), or measure this one: tunefarm "
        f"measure MODEL.onnx --device {device.name}"
    )
