"""What an agent says of itself and its device to Prometheus; docs/operations.md lists it."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from device_agent.lease_worker import LeaseWorker
from device_agent.tally import Tally
from device_agent.telemetry import read_telemetry
from device_agent.throttling import NOW, word
from protos.errors import BadRequest, Forbidden
from protos.identity import Identity
from protos.metrics_port import MetricsPort, MutualTls
from protos.records import Device, MeasurementStatus, Telemetry
from protos.rpc import Address, parse_address

log = logging.getLogger(__name__)


class Watched(Protocol):
    """What is asked of an agent."""

    tally: Tally
    worker: LeaseWorker

    @property
    def device(self) -> Device:
        """What it says of itself."""

    @property
    def connected(self) -> bool:
        """Whether the coordinator has this device registered now."""

    @property
    def unacknowledged(self) -> int:
        """How many results are kept to be sent again."""


@dataclass(frozen=True)
class Throttling:
    """``now``: whether the device is slowed down at this moment; ``events``: how often it was since
    it was started. None where that is not said."""

    now: bool | None = None
    events: int | None = None


def throttling(said: str | None) -> Throttling:
    """What ``Telemetry.throttled`` says (pure); nothing of what is not understood."""
    flags = word(said)
    counted = re.fullmatch(r"(\d+) events", said or "")
    return Throttling(
        now=None if flags is None else bool(flags & NOW),
        events=None if counted is None else int(counted[1]),
    )


class AgentCollector(Collector):
    """Reads an agent when somebody asks; what a device has no signal for is left out."""

    def __init__(self, agent: Watched, credentials: Path | None) -> None:
        self._agent = agent
        self._credentials = credentials
        self._version = importlib.metadata.version("tunefarm")

    def collect(self) -> Iterable[Metric]:
        """For any thread."""
        yield from self._farm()
        yield from device_metrics(read_telemetry(self._agent.device.cpus))
        if self._credentials is not None:
            from protos.certificates import load_credentials

            expires = load_credentials(self._credentials).expires
            yield _gauge(
                "tunefarm_certificate_expiry_timestamp_seconds",
                "When a certificate ends, seconds since 1970.",
                expires.timestamp(),
                {"holder": "agent"},
            )

    def _farm(self) -> Iterator[Metric]:
        agent, tally = self._agent, self._agent.tally
        names = {"device": agent.device.name, "kind": agent.device.kind, "version": self._version}
        yield _gauge("tunefarm_agent_info", "Always 1.", 1.0, names)
        yield _gauge(
            "tunefarm_agent_connected",
            "1 while the coordinator has this device registered, otherwise 0.",
            float(agent.connected),
        )
        yield _counter(
            "tunefarm_agent_sessions",
            "Sessions with the coordinator; each but the first is a reconnection.",
            float(tally.sessions),
        )
        done = CounterMetricFamily(
            "tunefarm_agent_measurements", "Measurements by status.", labels=("status",)
        )
        statuses = tally.statuses()
        for status in MeasurementStatus:
            if status.name in statuses:
                done.add_metric((status.name,), statuses[status.name])
        yield done
        yield _counter(
            "tunefarm_agent_lease_busy_seconds",
            "Seconds that leases took, with loading, checking and waiting for builders.",
            agent.worker.busy_s,
        )
        yield _gauge(
            "tunefarm_agent_outbox_results",
            "Results that the coordinator has not acknowledged.",
            float(agent.unacknowledged),
        )
        if tally.canary_ratio is not None:
            yield _gauge(
                "tunefarm_agent_canary_ratio",
                "The last lease's canary: its time over the device's reference.",
                tally.canary_ratio,
            )


def device_metrics(telemetry: Telemetry) -> Iterator[Metric]:
    """What a device says of itself, as far as it has such signals."""
    throttled = throttling(telemetry.throttled)
    gauges: list[tuple[str, str, float | None]] = [
        (
            "tunefarm_agent_temperature_celsius",
            "The device's hottest sensor.",
            telemetry.temperature_c,
        ),
        (
            "tunefarm_agent_frequency_hertz",
            "The mean clock of the CPUs that kernels run on.",
            None if telemetry.frequency_mhz is None else telemetry.frequency_mhz * 1e6,
        ),
        ("tunefarm_agent_load1", "The device's load average of a minute.", telemetry.load_1m),
        (
            "tunefarm_agent_throttled",
            "1 while a Raspberry Pi is slowed down, by heat or its supply, otherwise 0.",
            None if throttled.now is None else float(throttled.now),
        ),
    ]
    for name, text, value in gauges:
        if value is not None:
            yield _gauge(name, text, value)
    if throttled.events is not None:
        yield _counter(
            "tunefarm_agent_throttle_events",
            "How often an x86 CPU was slowed down since the device was started.",
            float(throttled.events),
        )


@contextlib.contextmanager
def serving(agent: Watched, address: str, credentials: Path | None) -> Iterator[int]:
    """Answer Prometheus at ``address`` meanwhile; yields the port. Off loopback the credentials of
    this file are shown, and users of the farm are let in. Raises BadRequest if there are none that
    are good for that, and Unavailable."""
    parsed = parse_address(address)
    tls = None
    if not parsed.loopback:
        tls = _mutual_tls(parsed, credentials)
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(AgentCollector(agent, credentials))
    port = MetricsPort(parsed, registry, tls)
    try:
        log.info("device %s: metrics on port %d", agent.device.name, port.port)
        yield port.port
    finally:
        port.close()


def _mutual_tls(address: Address, credentials: Path | None) -> MutualTls:
    from protos.certificates import load_credentials

    if credentials is None:
        raise BadRequest(
            f"{address.host} is not a loopback address; between machines metrics are shown with "
            "mutual TLS only, and this device has no certificate: `tunefarm agent enroll` "
            "(docs/security.md)"
        )
    if not load_credentials(credentials).for_servers:
        raise BadRequest(
            f"the certificate in {credentials} is too old for a port of metrics; enrol again with "
            "a new token of `tunefarm ca token` and --replace"
        )
    return MutualTls(functools.partial(load_credentials, credentials), _admit)


def _admit(who: Identity) -> None:
    """An agent does not know who was revoked; only the coordinator does."""
    if not who.role.is_user:
        raise Forbidden(f"{who.name} is an {who.role.value}; metrics are for users")


def _gauge(
    name: str, text: str, value: float, labels: Mapping[str, str] | None = None
) -> GaugeMetricFamily:
    labels = labels or {}
    family = GaugeMetricFamily(name, text, labels=tuple(labels))
    family.add_metric(tuple(labels.values()), value)
    return family


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, value)
