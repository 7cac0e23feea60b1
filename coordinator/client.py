"""A client of a running coordinator: the Farm service as Python calls."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

from coordinator.job_measurements import joined
from protos import convert, farm_pb2, farm_pb2_grpc, rpc
from protos.enrolment import renew_if_due
from protos.records import (
    CHUNK_BYTES,
    DeviceAction,
    DeviceEvent,
    DeviceStatus,
    Job,
    JobMeasurements,
    JobSpec,
    Prediction,
    PredictionSpec,
    Priority,
)

DEADLINE_S = 30.0
TRANSFER_DEADLINE_S = 3600.0


class FarmClient:
    """Use as a context manager. Every call raises a FarmError that says what to do."""

    def __init__(self, address: str, credentials: Path | None = None) -> None:
        """``credentials`` is the file of those for mutual TLS; they are renewed when it is time.

        Raises BadRequest for what is no address, or not on loopback without credentials.
        """
        if credentials is not None:
            renew_if_due(address, credentials)
        self.address = address
        self._channel: grpc.Channel = rpc.channel(address, credentials)
        self._farm = farm_pb2_grpc.FarmStub(self._channel)  # type: ignore[no-untyped-call]

    def __enter__(self) -> FarmClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self._channel.close()

    def submit(self, spec: JobSpec, model: bytes) -> Job:
        """Hand in a model (the bytes of an ONNX file) to be tuned."""

        def requests() -> Iterator[farm_pb2.SubmitJobRequest]:
            yield farm_pb2.SubmitJobRequest(spec=convert.to_message(spec))
            for chunk in _chunks(model):
                yield farm_pb2.SubmitJobRequest(model_chunk=chunk)

        with rpc.client_errors("submitting the job", self.address):
            job = self._farm.SubmitJob(requests(), timeout=TRANSFER_DEADLINE_S)
            return convert.from_message(job, Job)

    def job(self, job_id: str) -> Job:
        """The job as it is now."""
        return self._ask("asking for", self._farm.GetJob, job_id)

    def _ask(self, what: str, call: Any, job_id: str) -> Job:
        with rpc.client_errors(f"{what} job {job_id}", self.address):
            request = farm_pb2.JobRequest(job_id=job_id)
            return convert.from_message(call(request, timeout=DEADLINE_S), Job)

    def watch(self, job_id: str) -> Iterator[Job]:
        """The job at every change, until it has ended."""
        with rpc.client_errors(f"watching job {job_id}", self.address):
            for message in self._farm.WatchJob(farm_pb2.JobRequest(job_id=job_id)):
                yield convert.from_message(message, Job)

    def jobs(self, limit: int = 100, project: str = "") -> list[Job]:
        """The newest jobs, newest first; of one project if it is named."""
        with rpc.client_errors("listing the jobs", self.address):
            request = farm_pb2.ListJobsRequest(limit=limit, project=project)
            response = self._farm.ListJobs(request, timeout=DEADLINE_S)
            return [convert.from_message(job, Job) for job in response.jobs]

    def cancel(self, job_id: str) -> Job:
        """Stop a job; what was measured stays in the log."""
        return self._ask("cancelling", self._farm.CancelJob, job_id)

    def pause(self, job_id: str) -> Job:
        """Stop a job until it is resumed."""
        return self._ask("pausing", self._farm.PauseJob, job_id)

    def resume(self, job_id: str) -> Job:
        """Let a paused job go on."""
        return self._ask("resuming", self._farm.ResumeJob, job_id)

    def set_priority(self, job_id: str, priority: Priority) -> Job:
        """What a job gets of the devices where several want them."""
        with rpc.client_errors(f"the priority of job {job_id}", self.address):
            request = farm_pb2.JobPriorityRequest(job_id=job_id)
            request.priority = priority  # type: ignore[assignment]
            answer = self._farm.SetJobPriority(request, timeout=DEADLINE_S)
            return convert.from_message(answer, Job)

    def control(self, device: str, action: DeviceAction, reason: str = "") -> DeviceStatus | None:
        """Drain, quarantine, resume or forget a device; None if it was forgotten."""
        with rpc.client_errors(f"{action.name.lower()} {device}", self.address):
            request = farm_pb2.ControlDeviceRequest(device=device, reason=reason)
            request.action = action  # type: ignore[assignment]
            answer = self._farm.ControlDevice(request, timeout=DEADLINE_S)
            if not answer.HasField("device"):
                return None
            return convert.from_message(answer.device, DeviceStatus)

    def devices(self) -> list[DeviceStatus]:
        """Every device the coordinator has seen."""
        with rpc.client_errors("listing the devices", self.address):
            request = farm_pb2.ListDevicesRequest()
            response = self._farm.ListDevices(request, timeout=DEADLINE_S)
            return [convert.from_message(status, DeviceStatus) for status in response.devices]

    def device_events(self, device: str = "", limit: int = 0) -> list[DeviceEvent]:
        """What happened to a device (default: to all) that failed, and was done about it, newest
        first; ``limit`` 0 is the coordinator's own."""
        with rpc.client_errors("listing what happened to devices", self.address):
            request = farm_pb2.ListDeviceEventsRequest(device=device, limit=limit)
            response = self._farm.ListDeviceEvents(request, timeout=DEADLINE_S)
            return [convert.from_message(event, DeviceEvent) for event in response.events]

    def package(self, job_id: str) -> bytes:
        """The wheel of a job that is done."""
        with rpc.client_errors(f"fetching the package of job {job_id}", self.address):
            request = farm_pb2.JobRequest(job_id=job_id)
            chunks = self._farm.FetchPackage(request, timeout=TRANSFER_DEADLINE_S)
            return b"".join(chunk.data for chunk in chunks)

    def measurements(self, job_id: str) -> JobMeasurements:
        """What a report shows beside the job."""
        with rpc.client_errors(f"fetching the measurements of job {job_id}", self.address):
            request = farm_pb2.JobRequest(job_id=job_id)
            received = self._farm.FetchMeasurements(request, timeout=TRANSFER_DEADLINE_S)
            return joined(convert.from_message(piece, JobMeasurements) for piece in received)

    def predict(self, spec: PredictionSpec, model: bytes) -> Prediction:
        """How long a model (the bytes of an ONNX file) would take once tuned, without a device."""

        def requests() -> Iterator[farm_pb2.PredictModelRequest]:
            yield farm_pb2.PredictModelRequest(spec=convert.to_message(spec))
            for chunk in _chunks(model):
                yield farm_pb2.PredictModelRequest(model_chunk=chunk)

        with rpc.client_errors("predicting the latency", self.address):
            prediction = self._farm.PredictModel(requests(), timeout=TRANSFER_DEADLINE_S)
            return convert.from_message(prediction, Prediction)


def _chunks(data: bytes) -> Iterator[bytes]:
    return (data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES))
