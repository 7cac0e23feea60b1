"""The coordinator: tuning log, Ray, gRPC port and jobs, started and stopped together."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from coordinator import metrics
from coordinator.farm_service import FarmService
from coordinator.fleet.builders import Builders, BuildWorker
from coordinator.fleet.fleet import Fleet
from coordinator.fleet.gateway import Gateway
from coordinator.jobs import Jobs
from coordinator.security import ports
from coordinator.security.authority import Authority
from coordinator.security.guard import Guard
from coordinator.security.refusals import Refusals
from coordinator.security.wellformed import WellFormed
from coordinator.tuning_log import TuningLog
from protos import farm_pb2, farm_pb2_grpc
from protos.errors import BadRequest, Unavailable
from protos.metrics_port import MetricsPort, MutualTls
from protos.rpc import SERVER_OPTIONS, check_plain, parse_address

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SecurePorts:
    """Where others than loopback are listened to: ``address`` with mutual TLS, ``enrol_address``
    for who is to get a certificate. ``authority`` is the file of the farm's own."""

    address: str
    enrol_address: str
    authority: Path


@dataclass(frozen=True)
class CoordinatorConfig:
    """``embedded``: lives inside one `tunefarm tune` and touches no other coordinator's jobs.

    ``address`` is on loopback, in plain text. ``secure`` has the ports for other machines;
    ``power_cycle`` is the command that switches a device off and on.
    ``metrics`` is where Prometheus is answered; only with ``secure`` may that be off loopback.
    ``build_worker`` is what lives in the builders' actors.
    """

    log_url: str
    address: str = "127.0.0.1:0"
    embedded: bool = False
    num_builders: int = 1
    secure: SecurePorts | None = None
    power_cycle: tuple[str, ...] = ()
    metrics: str | None = None
    build_worker: type[BuildWorker] = BuildWorker

    def __post_init__(self) -> None:
        """Raises BadRequest for addresses that can't be listened on."""
        check_plain(self.address)
        if self.secure is not None:
            parse_address(self.secure.address)
            parse_address(self.secure.enrol_address)
        if self.metrics is not None:
            metrics = parse_address(self.metrics)
            if not metrics.loopback and self.secure is None:
                raise BadRequest(
                    f"{metrics.host} is not a loopback address; between machines metrics are shown "
                    "with mutual TLS only. Give --listen-tls, too (docs/security.md)"
                )


class Coordinator:
    """One farm's coordinator. Use as an async context manager inside ``ray_runtime.running``."""

    def __init__(self, config: CoordinatorConfig) -> None:
        """Raises StaleSchema or LogUnavailable if the tuning log can't be used."""
        self._config = config
        self._own: ports.OwnCertificate | None = None
        if config.secure is not None:
            self._own = ports.OwnCertificate(Authority.load(config.secure.authority))
        self._registry, self._kinds = metrics.new_registry(), metrics.Kinds()
        self.log = TuningLog.open(config.log_url, metrics.LogMetrics(self._registry, self._kinds))
        self.fleet = Fleet(self.log, config.power_cycle)
        self._gateway = Gateway(self.fleet)
        self._refusals = Refusals()
        self.guard = Guard(self.log)
        self.port = self.secure_port = self.enrol_port = self.metrics_port = 0
        self._metrics: MetricsPort | None = None
        self.builders = Builders(config.num_builders, config.build_worker)
        self.jobs = Jobs(self.log, self.fleet, self.builders, config.embedded)
        self._servers: list[grpc.aio.Server] = []
        self._services: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Coordinator:
        """Start the workers, open the port, take up what an earlier coordinator left."""
        try:
            self.builders.start()
            await self.guard.refresh()
            await self.fleet.load_holds()
            await self._open_ports()
            self._open_metrics()
            await self.jobs.take_up()
            services = [self.fleet.reap(), self.jobs.run(), self.jobs.heartbeats()]
            if self._own is not None:
                services.append(self.guard.watch(self.fleet.expel))
            self._services += [asyncio.create_task(service) for service in services]
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Stop everything that was started; a job that runs is interrupted, nothing is lost."""
        await self._stop()

    async def _open_ports(self) -> None:
        server = grpc.aio.server(
            interceptors=[self._refusals, self.guard, WellFormed()], options=list(SERVER_OPTIONS)
        )
        add_gateway: Any = farm_pb2_grpc.add_AgentGatewayServicer_to_server
        add_farm: Any = farm_pb2_grpc.add_FarmServicer_to_server
        add_gateway(self._gateway, server)
        add_farm(FarmService(self.jobs, self.fleet, self.log), server)
        await _add_health_and_reflection(server)
        self.port = _listen(self._config.address, server.add_insecure_port)
        if self._config.secure is not None and self._own is not None:
            self.secure_port = _listen(
                self._config.secure.address,
                functools.partial(ports.add_secure_port, server, self._own, self.log, self.guard),
            )
            enrolment = grpc.aio.server(
                interceptors=[self._refusals, WellFormed()],
                options=list(ports.ENROLMENT_OPTIONS),
                maximum_concurrent_rpcs=ports.MAX_ENROLMENTS,
            )
            self.enrol_port = _listen(
                self._config.secure.enrol_address,
                functools.partial(ports.add_enrolment_port, enrolment, self._own, self.log),
            )
            await enrolment.start()
            self._servers.append(enrolment)
        await server.start()
        self._servers.append(server)
        log.info("listening on 127.0.0.1:%d", self.port)

    def _open_metrics(self) -> None:
        if self._config.metrics is None:
            return
        parts = metrics.Parts(
            *(self.fleet, self._gateway, self.jobs, self.builders, self._refusals, self._own)
        )
        self._registry.register(
            metrics.FarmCollector(parts, self._kinds, asyncio.get_running_loop())
        )
        address = parse_address(self._config.metrics)
        tls = None
        if self._own is not None and not address.loopback:
            tls = MutualTls(self._own.current, metrics.may_read(self.guard))
        self._metrics = MetricsPort(address, self._registry, tls)
        self.metrics_port = self._metrics.port

    async def _stop(self) -> None:
        if self._metrics is not None:
            await asyncio.to_thread(self._metrics.close)
        await self.jobs.stop()
        for service in self._services:
            service.cancel()
        await asyncio.gather(*self._services, return_exceptions=True)
        await self.fleet.medic.stop()
        await asyncio.gather(*(server.stop(grace=0.2) for server in self._servers))
        self.builders.stop()
        self.log.close()


def _listen(address: str, add_port: Callable[[str], int]) -> int:
    """The port that was opened; raises Unavailable if it can't be."""
    try:
        return add_port(address)
    except RuntimeError as error:
        raise Unavailable(
            f"can't listen on {address}: {error}. Is another coordinator running there? Choose "
            "another port with --listen, --listen-tls and --listen-enroll"
        ) from error


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
