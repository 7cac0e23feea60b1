"""Latencies for people who design networks: predicted at once, or measured on the device.

::

    from coordinator.farm import Farm

    with Farm("127.0.0.1:7411") as farm:
        guess = farm.predict("net.onnx", "pi-rack3-07")
        print(f"{guess.latency_ms:.2f} ms, {guess.low_ms:.2f} to {guess.high_ms:.2f}")
        real = farm.measure("net.onnx", "pi-rack3-07")
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coordinator.client import FarmClient
from coordinator.prediction.devices import choose_device
from coordinator.prediction.measured import packaged_interval
from protos.errors import BadRequest, FarmError, JobFailed, Unavailable
from protos.records import (
    UNKNOWN_USER,
    DeviceState,
    Job,
    JobSpec,
    JobState,
    Prediction,
    PredictionSpec,
    Shape,
    sha256_hex,
)

DEFAULT_ADDRESS = "127.0.0.1:7411"

MEASURE_TRIALS = 200
"""What `measure` tries unless it is told more: enough for a first impression."""


@dataclass(frozen=True)
class Measured:
    """A package's latency on the device: median and its 95 % interval in milliseconds, the engine
    that runs it (``tunefarm``: the tuned code), and the job, whose package can be fetched."""

    latency_ms: float
    low_ms: float
    high_ms: float
    engine: str
    job_id: str


class Farm:
    """A running coordinator. Use as a context manager; every call raises a FarmError that says
    what to do."""

    def __init__(
        self, coordinator: str = DEFAULT_ADDRESS, credentials: Path | str | None = None
    ) -> None:
        """``credentials`` is the file that `tunefarm enroll` wrote; loopback needs none."""
        self._client = FarmClient(coordinator, Path(credentials) if credentials else None)

    def __enter__(self) -> Farm:
        return self

    def __exit__(self, *exception: object) -> None:
        self._client.__exit__(*exception)

    def predict(
        self,
        model: bytes | Path | str,
        device: str = "",
        shapes: Mapping[str, Sequence[int]] | None = None,
    ) -> Prediction:
        """How long the package that the farm would make of a model takes; no device is asked.

        ``model`` is an ONNX file or its bytes, ``device`` the name of a device that the farm has
        seen, or the first digits of its kind. Raises Conflict if too little was tuned for it.
        """
        _, data = _read(model)
        return self._client.predict(PredictionSpec(device, _shapes(shapes)), data)

    def measure(
        self,
        model: bytes | Path | str,
        device: str = "",
        shapes: Mapping[str, Sequence[int]] | None = None,
        trials: int = MEASURE_TRIALS,
        time_limit_s: float | None = None,
        *,
        submitted_by: str = UNKNOWN_USER,
        changed: Callable[[Job], None] | None = None,
    ) -> Measured:
        """Tune a model with a small budget, package it, and time the package on the device.

        Takes minutes; ``changed`` is called with the job at every change. If the caller is
        interrupted, the job is cancelled. Raises Unavailable if no such device is connected and
        JobFailed with the job's reason.
        """
        name, data = _read(model)
        connected = [s.device for s in self._client.devices() if s.state is not DeviceState.GONE]
        if not connected:
            raise Unavailable("no device is connected; start one: tunefarm agent")
        chosen = choose_device(connected, device)
        fixed = _shapes(shapes)
        spec = JobSpec(
            *(name, sha256_hex(data), "", trials),
            shapes=fixed,
            time_limit_s=time_limit_s,
            submitted_by=submitted_by,
            devices=(chosen.kind,),
        )
        job = self._watched(self._client.submit(spec, data), changed)
        if job.state is not JobState.DONE or job.result is None:
            why = job.error or f"it is {job.state.name.lower()}"
            raise JobFailed(f"job {job.job_id} has measured nothing: {why}")
        return Measured(*packaged_interval(job.result), job.result.engine, job.job_id)

    def _watched(self, job: Job, changed: Callable[[Job], None] | None) -> Job:
        """The job when it has ended; nobody else waits for it."""
        try:
            for now in self._client.watch(job.job_id):
                job = now
                if changed is not None:
                    changed(job)
        except KeyboardInterrupt:
            with contextlib.suppress(FarmError):
                self._client.cancel(job.job_id)
            raise
        return job


def _read(model: bytes | Path | str) -> tuple[str, bytes]:
    """The model's name and bytes."""
    if isinstance(model, bytes):
        return "model", model
    path = Path(model)
    try:
        return path.stem, path.read_bytes()
    except OSError as error:
        raise BadRequest(f"{path} can't be read: {error.strerror}") from error


def _shapes(shapes: Mapping[str, Sequence[int]] | None) -> dict[str, Shape]:
    return {name: Shape(tuple(dims)) for name, dims in (shapes or {}).items()}
