"""The coordinator: tuning log, Ray, gRPC port and jobs, started and stopped together."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

import grpc

from coordinator.farm_service import FarmService
from coordinator.fleet.builders import Builders
from coordinator.fleet.fleet import Fleet
from coordinator.fleet.gateway import Gateway
from coordinator.jobs import Jobs
from coordinator.tuning_log import TuningLog
from protos import farm_pb2, farm_pb2_grpc
from protos.errors import Unavailable
from protos.rpc import SERVER_OPTIONS, check_address

log = logging.getLogger(__name__)


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
        self.builders = Builders(config.num_builders)
        self.jobs = Jobs(self.log, self.fleet, self.builders, config.embedded)
        self._server: grpc.aio.Server | None = None
        self._services: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Coordinator:
        """Start the workers, open the port, take up what an earlier coordinator left."""
        try:
            self.builders.start()
            await self._open_port()
            await self.jobs.take_up()
            for service in (self.fleet.reap(), self.jobs.run(), self.jobs.heartbeats()):
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
        add_farm(FarmService(self.jobs, self.fleet, self.log), server)
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
        await self.jobs.stop()
        for service in self._services:
            service.cancel()
        await asyncio.gather(*self._services, return_exceptions=True)
        if self._server is not None:
            await self._server.stop(grace=0.2)
        self.builders.stop()
        self.log.close()


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
