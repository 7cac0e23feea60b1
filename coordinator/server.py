"""The coordinator: tuning log, Ray, gRPC port and jobs, started and stopped together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import grpc

from coordinator.farm_service import FarmService
from coordinator.fleet.builders import Builders
from coordinator.fleet.fleet import Fleet
from coordinator.fleet.gateway import Gateway
from coordinator.frontend.onnx_model import inspect_model
from coordinator.job_runner import JobRunner
from coordinator.tuning_log import TuningLog
from device_agent.build import parse_target
from protos import farm_pb2, farm_pb2_grpc
from protos.errors import Conflict, FarmError, JobFailed, LogUnavailable, NotFound, Unavailable
from protos.records import DeviceStatus, Job, JobSpec, JobState
from protos.rpc import SERVER_OPTIONS, check_address

log = logging.getLogger(__name__)

WATCH_INTERVAL_S = 0.5
HEARTBEAT_S = 5.0
STALE_S = 30.0
"""A job whose coordinator has not been heard of for this long was interrupted."""


@dataclass(frozen=True)
class CoordinatorConfig:
    """``embedded``: lives inside one `tunefarm tune` and touches no other coordinator's jobs."""

    log_url: str
    address: str = "127.0.0.1:0"
    embedded: bool = False
    num_builders: int = 1


class Coordinator:
    """One farm's coordinator. Use as an async context manager inside ``ray_runtime.running``."""

    def __init__(self, config: CoordinatorConfig) -> None:
        """Raises StaleSchema or LogUnavailable if the tuning log can't be used."""
        check_address(config.address)
        self._config = config
        self.log = TuningLog.open(config.log_url)
        self.fleet = Fleet(self.log)
        self.port = 0
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._builders = Builders(config.num_builders)
        self._server: grpc.aio.Server | None = None
        self._queue: asyncio.Queue[Job] = asyncio.Queue()
        self._jobs: dict[str, Job] = {}
        self._running: tuple[str, asyncio.Task[Job]] | None = None
        self._services: list[asyncio.Task[None]] = []
        self._stopping = False

    # ------------------------------------------------------------- start and stop

    async def __aenter__(self) -> Coordinator:
        """Start the workers, open the port, take up what an earlier coordinator left."""
        try:
            self._builders.start()
            await self._open_port()
            await asyncio.to_thread(self.log.mark_interrupted, STALE_S)
            if not self._config.embedded:
                for job in await asyncio.to_thread(self.log.unfinished_jobs, False):
                    log.info("job %s goes on", job.job_id)
                    self._enqueue(job)
            for service in (self.fleet.reap(), self._run_jobs(), self._heartbeats()):
                self._services.append(asyncio.create_task(service))
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Stop everything that was started; a job that runs is interrupted, nothing is lost."""
        await self._stop()

    async def _open_port(self) -> None:
        server = grpc.aio.server(options=list(SERVER_OPTIONS))
        add_gateway: Any = farm_pb2_grpc.add_AgentGatewayServicer_to_server
        add_farm: Any = farm_pb2_grpc.add_FarmServicer_to_server
        add_gateway(Gateway(self.fleet), server)
        add_farm(FarmService(self), server)
        await _add_health_and_reflection(server)
        try:
            self.port = server.add_insecure_port(self._config.address)
        except RuntimeError as error:
            raise Unavailable(
                f"can't listen on {self._config.address}: {error}. Is another coordinator running "
                "there? Choose another port with --listen"
            ) from error
        await server.start()
        self._server = server
        log.info("listening on 127.0.0.1:%d", self.port)

    async def _stop(self) -> None:
        self._stopping = True
        if self._running is not None:
            self._running[1].cancel()
            await asyncio.gather(self._running[1], return_exceptions=True)
        for service in self._services:
            service.cancel()
        await asyncio.gather(*self._services, return_exceptions=True)
        if self._server is not None:
            await self._server.stop(grace=0.2)
        self._builders.stop()
        self.log.close()

    async def _heartbeats(self) -> None:
        while True:
            if self._running is not None:
                try:
                    await asyncio.to_thread(self.log.touch_job, self._running[0])
                except LogUnavailable as error:
                    log.warning("no heartbeat of the running job: %s", error)
            await asyncio.sleep(HEARTBEAT_S)

    # ------------------------------------------------------------- jobs

    async def submit(self, spec: JobSpec, model: bytes) -> Job:
        """Accept a job; raises BadModel or BadTarget if it can't be tuned, and keeps nothing then.

        Submitting what was interrupted continues it: the log answers for what was measured.
        """
        if self._stopping:
            raise Unavailable("the coordinator is shutting down")
        await asyncio.to_thread(parse_target, spec.target_json)
        await asyncio.to_thread(inspect_model, model, spec.shapes)
        sha256 = await asyncio.to_thread(self.log.put_blob, model)
        spec = replace(spec, model_sha256=sha256)
        job = await asyncio.to_thread(self.log.add_job, spec, self._name, self._config.embedded)
        self._enqueue(job)
        return job

    def _enqueue(self, job: Job) -> None:
        self._jobs[job.job_id] = job
        self._queue.put_nowait(job)

    async def _run_jobs(self) -> None:
        """One job after the other, in the order of their submission."""
        while True:
            job = self._jobs[(await self._queue.get()).job_id]
            if job.state.ended:
                continue
            runner = JobRunner(job, self.log, self.fleet, self._builders, self._changed)
            task = asyncio.create_task(self._run(runner))
            self._running = (job.job_id, task)
            try:
                (outcome,) = await asyncio.gather(task, return_exceptions=True)
                if isinstance(outcome, Exception):  # its end could not be written
                    log.error("job %s: %s", job.job_id, outcome)
            finally:
                self._running = None

    async def _run(self, runner: JobRunner) -> Job:
        try:
            return await runner.run()
        except asyncio.CancelledError:
            state = JobState.INTERRUPTED if self._stopping else JobState.CANCELLED
            if self._stopping and not self._config.embedded:
                state = JobState.QUEUED  # goes on when a coordinator is started again
            await self._end(runner.job, state, "")
            raise
        except FarmError as error:
            return await self._end(runner.job, JobState.FAILED, str(error))
        except Exception as error:
            log.exception("job %s: a defect of tunefarm", runner.job.job_id)
            what = f"a defect of tunefarm, please report it: {type(error).__name__}: {error}"
            return await self._end(runner.job, JobState.FAILED, what)

    async def _end(self, job: Job, state: JobState, error: str) -> Job:
        ended = replace(job, state=state, stage="", error=error, remaining_s=None)
        self._changed(ended)
        await asyncio.to_thread(self.log.save_job, ended)
        return ended

    def _changed(self, job: Job) -> None:
        self._jobs[job.job_id] = job

    async def job(self, job_id: str) -> Job:
        """The job as it is now; raises NotFound."""
        if job_id in self._jobs:
            return self._jobs[job_id]
        return await asyncio.to_thread(self.log.job, job_id)

    async def jobs(self, limit: int) -> list[Job]:
        """The newest jobs of the tuning log, the running ones as they are now."""
        stored = await asyncio.to_thread(self.log.jobs, limit)
        return [self._jobs.get(job.job_id, job) for job in stored]

    async def watch(self, job_id: str) -> AsyncIterator[Job]:
        """The job at every change, until it has ended."""
        last: Job | None = None
        while True:
            job = await self.job(job_id)
            if job != last:
                yield job
                last = job
            if job.state.ended:
                return
            await asyncio.sleep(WATCH_INTERVAL_S)

    async def cancel(self, job_id: str) -> Job:
        """Stop a job; raises Conflict if it has ended or is another coordinator's."""
        job = await self.job(job_id)
        if job.state.ended:
            raise Conflict(f"job {job_id} has ended already ({job.state.name.lower()})")
        if job_id not in self._jobs:
            raise Conflict(f"job {job_id} belongs to another coordinator; cancel it there")
        if self._running is not None and self._running[0] == job_id:
            self._running[1].cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running[1]
            return await self.job(job_id)
        return await self._end(job, JobState.CANCELLED, "")

    async def package(self, job_id: str) -> tuple[str, bytes]:
        """File name and bytes of a finished job's wheel; raises Conflict if there is none."""
        job = await self.job(job_id)
        if job.result is None:
            raise Conflict(
                f"job {job_id} has no package: it is {job.state.name.lower()}"
                + (f" ({job.error})" if job.error else "")
            )
        try:
            data = await asyncio.to_thread(self.log.get_blob, job.result.package_sha256)
        except NotFound as error:
            raise JobFailed(f"the package of job {job_id} is missing in the log") from error
        return job.result.package_filename, data

    async def devices(self) -> list[DeviceStatus]:
        """Every device this coordinator has seen."""
        counts = await asyncio.to_thread(self.log.device_measurements)
        return self.fleet.registry.statuses(counts)


async def _add_health_and_reflection(server: grpc.aio.Server) -> None:
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection

    names = [service.full_name for service in farm_pb2.DESCRIPTOR.services_by_name.values()]
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    for name in ["", *names]:
        await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    reflection.enable_server_reflection(
        [*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server
    )
