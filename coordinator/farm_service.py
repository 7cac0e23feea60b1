"""The Farm service: what clients ask of the coordinator over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, TypeVar

from coordinator.fleet.fleet import Fleet
from coordinator.job_measurements import measurements_of, pieces
from coordinator.jobs import Jobs
from coordinator.prediction.service import Predictions
from coordinator.security.guard import caller
from coordinator.security.permissions import check_owns
from coordinator.tuning_log import TuningLog, device_events
from protos import bounds, convert, farm_pb2, farm_pb2_grpc
from protos.errors import BadRequest
from protos.records import (
    CHUNK_BYTES,
    MAX_MODEL_BYTES,
    DeviceAction,
    DeviceEvent,
    DeviceStatus,
    Job,
    JobSpec,
    PredictionSpec,
    Priority,
)
from protos.rpc import aborts, stream_aborts

MAX_JOBS_LISTED = 1000
DEFAULT_EVENTS = 100
MAX_EVENTS = 1000

MAX_UPLOADS = 4
"""Models that are received at a time, each of MAX_MODEL_BYTES at most; others wait their turn."""

UPLOAD_SILENCE_S = 60.0
"""Who sends nothing of a model for this long loses their turn."""

Member = TypeVar("Member", Priority, DeviceAction)
Spec = TypeVar("Spec", JobSpec, PredictionSpec)


class FarmService(farm_pb2_grpc.FarmServicer):
    """Convert, call, convert."""

    def __init__(self, jobs: Jobs, fleet: Fleet, tuning_log: TuningLog) -> None:
        self._jobs = jobs
        self._fleet = fleet
        self._log = tuning_log
        self._predictions = Predictions(tuning_log)
        self._uploads = asyncio.Semaphore(MAX_UPLOADS)

    @aborts
    async def SubmitJob(  # noqa: N802 (the RPC's name)
        self, requests: AsyncIterator[farm_pb2.SubmitJobRequest], context: Any
    ) -> farm_pb2.Job:
        """Take a model and tune it."""
        async with self._uploads:
            spec, model = await _read_submission(requests)
        if (who := caller(context)) is not None:
            spec = replace(spec, submitted_by=who.name)
        return _message(await self._jobs.submit(spec, model))

    @aborts
    async def GetJob(self, request: farm_pb2.JobRequest, context: Any) -> farm_pb2.Job:  # noqa: N802
        """One job."""
        return _message(await self._jobs.job(request.job_id))

    @stream_aborts
    async def WatchJob(  # noqa: N802
        self, request: farm_pb2.JobRequest, context: Any
    ) -> AsyncIterator[farm_pb2.Job]:
        """One job, at every change."""
        async for job in self._jobs.watch(request.job_id):
            yield _message(job)

    @aborts
    async def ListJobs(  # noqa: N802
        self, request: farm_pb2.ListJobsRequest, context: Any
    ) -> farm_pb2.ListJobsResponse:
        """The newest jobs."""
        limit = min(request.limit or 100, MAX_JOBS_LISTED)
        jobs = await self._jobs.newest(limit, request.project)
        return farm_pb2.ListJobsResponse(jobs=[_message(job) for job in jobs])

    @aborts
    async def CancelJob(self, request: farm_pb2.JobRequest, context: Any) -> farm_pb2.Job:  # noqa: N802
        """Stop a job."""
        await self._check_owns(request.job_id, context)
        return _message(await self._jobs.cancel(request.job_id))

    @aborts
    async def PauseJob(self, request: farm_pb2.JobRequest, context: Any) -> farm_pb2.Job:  # noqa: N802
        """Stop a job until it is resumed."""
        await self._check_owns(request.job_id, context)
        return _message(await self._jobs.pause(request.job_id))

    @aborts
    async def ResumeJob(self, request: farm_pb2.JobRequest, context: Any) -> farm_pb2.Job:  # noqa: N802
        """Let a paused job go on."""
        await self._check_owns(request.job_id, context)
        return _message(await self._jobs.resume(request.job_id))

    @aborts
    async def SetJobPriority(  # noqa: N802
        self, request: farm_pb2.JobPriorityRequest, context: Any
    ) -> farm_pb2.Job:
        """What a job gets of the devices."""
        await self._check_owns(request.job_id, context)
        priority = _member(Priority, request.priority)
        return _message(await self._jobs.set_priority(request.job_id, priority))

    async def _check_owns(self, job_id: str, context: Any) -> None:
        job = await self._jobs.job(job_id)
        check_owns(job.spec.submitted_by, caller(context))

    @aborts
    async def ListDevices(  # noqa: N802
        self, request: farm_pb2.ListDevicesRequest, context: Any
    ) -> farm_pb2.ListDevicesResponse:
        """Every device seen."""
        statuses = await self._statuses()
        return farm_pb2.ListDevicesResponse(devices=[convert.to_message(s) for s in statuses])

    async def _statuses(self) -> list[DeviceStatus]:
        counts = await asyncio.to_thread(self._log.device_measurements)
        known = await asyncio.to_thread(self._log.devices)
        return self._fleet.registry.statuses(counts, known)

    @aborts
    async def ControlDevice(  # noqa: N802
        self, request: farm_pb2.ControlDeviceRequest, context: Any
    ) -> farm_pb2.ControlDeviceResponse:
        """Drain, quarantine, resume or forget a device."""
        action = _member(DeviceAction, request.action)
        who = caller(context)
        await self._fleet.control(
            *(request.device, action, request.reason),
            who.name if who is not None else "the coordinator's machine",
        )
        found = [s for s in await self._statuses() if s.device.name == request.device]
        return farm_pb2.ControlDeviceResponse(
            device=convert.to_message(found[0]) if found else None
        )

    @aborts
    async def ListDeviceEvents(  # noqa: N802
        self, request: farm_pb2.ListDeviceEventsRequest, context: Any
    ) -> farm_pb2.ListDeviceEventsResponse:
        """What happened to devices that failed, newest first."""
        limit = min(request.limit or DEFAULT_EVENTS, MAX_EVENTS)
        if limit < 0:
            raise BadRequest(f"a limit is a positive number, not {request.limit}")

        def read() -> list[DeviceEvent]:
            with self._log.reading() as connection:
                return device_events.newest(connection, request.device, limit)

        events = await asyncio.to_thread(read)
        return farm_pb2.ListDeviceEventsResponse(events=[convert.to_message(e) for e in events])

    @stream_aborts
    async def FetchPackage(  # noqa: N802
        self, request: farm_pb2.JobRequest, context: Any
    ) -> AsyncIterator[farm_pb2.Chunk]:
        """The wheel of a job that is done."""
        _, data = await self._jobs.package(request.job_id)
        for start in range(0, len(data), CHUNK_BYTES):
            yield farm_pb2.Chunk(data=data[start : start + CHUNK_BYTES])

    @stream_aborts
    async def FetchMeasurements(  # noqa: N802
        self, request: farm_pb2.JobRequest, context: Any
    ) -> AsyncIterator[farm_pb2.JobMeasurements]:
        """What a report shows beside the job."""
        job = await self._jobs.job(request.job_id)
        measured = await asyncio.to_thread(measurements_of, self._log, job)
        for piece in pieces(measured):
            yield await asyncio.to_thread(convert.to_message, piece)

    @aborts
    async def PredictModel(  # noqa: N802
        self, requests: AsyncIterator[farm_pb2.PredictModelRequest], context: Any
    ) -> farm_pb2.Prediction:
        """How long a model would take once tuned."""
        async with self._uploads:
            spec, model = await _read_model(requests, PredictionSpec, "prediction")
        found = await asyncio.to_thread(self._predictions.predict, model, spec)
        message: farm_pb2.Prediction = convert.to_message(found)
        return message


def _member(kind: type[Member], value: int) -> Member:
    try:
        return kind(value)
    except ValueError as error:
        raise BadRequest(f"{value} is no {kind.__name__}") from error


def _message(job: Job) -> farm_pb2.Job:
    message: farm_pb2.Job = convert.to_message(job)
    return message


async def _read_model(
    requests: AsyncIterator[Any], spec_type: type[Spec], what: str
) -> tuple[Spec, bytes]:
    """The spec of this type that comes first, and the model behind it; raises BadRequest."""
    spec: Spec | None = None
    model = bytearray()
    async for request in _each_in_time(requests):
        if request.WhichOneof("request") == "spec":
            if spec is not None or model:
                raise BadRequest(f"the {what}'s spec must come once, before the model")
            spec = convert.from_message(request.spec, spec_type)
            continue
        if spec is None:
            raise BadRequest(f"the {what}'s spec must come before the model")
        bounds.check(request)
        model += request.model_chunk
        if len(model) > MAX_MODEL_BYTES:
            raise BadRequest(f"the model is larger than {MAX_MODEL_BYTES >> 30} GiB")
    if spec is None or not model:
        raise BadRequest(f"a {what} needs a spec and a model")
    return spec, bytes(model)


async def _each_in_time(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The requests; raises BadRequest if the next one does not come within UPLOAD_SILENCE_S."""
    while True:
        try:
            async with asyncio.timeout(UPLOAD_SILENCE_S):
                request = await anext(requests, None)
        except TimeoutError:
            raise BadRequest(f"nothing of the model came for {UPLOAD_SILENCE_S:.0f} s") from None
        if request is None:
            return
        yield request


async def _read_submission(
    requests: AsyncIterator[farm_pb2.SubmitJobRequest],
) -> tuple[JobSpec, bytes]:
    spec, model = await _read_model(requests, JobSpec, "job")
    if spec.trials < 0 or (spec.time_limit_s is not None and spec.time_limit_s < 0):
        raise BadRequest("the budget (trials, time limit) can't be negative")
    if spec.seed < 0:
        raise BadRequest("the seed can't be negative")
    return spec, model
