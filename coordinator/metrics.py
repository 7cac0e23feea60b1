"""What a coordinator says of itself to Prometheus; docs/operations.md lists it.

Most is read when somebody asks, on the event loop, where it may be read. Only what nobody keeps is
counted: what the tuning log does. Everything belongs to one coordinator's registry.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from coordinator.fleet.builders import Builders
from coordinator.fleet.fleet import Fleet
from coordinator.fleet.gateway import Gateway
from coordinator.jobs import Jobs
from coordinator.security.guard import Guard
from coordinator.security.permissions import check_may_call
from coordinator.security.ports import OwnCertificate
from coordinator.security.refusals import Refusals
from protos.errors import Forbidden
from protos.identity import Identity
from protos.metrics_port import PATH
from protos.records import DeviceState, JobState

COLLECT_S = 5.0
"""So long the event loop has to answer; then the scrape fails, which is an alarm by itself."""

MAX_KINDS = 64
"""Kinds of device that have series of their own; those beyond are ``other`` together."""

WRITE_BUCKETS_S = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)


class Kinds:
    """The values of the label ``kind``. What devices say of themselves decides how many there are,
    so there is a limit."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def label(self, kind: str) -> str:
        """The kind, or ``other``."""
        if kind not in self._known and len(self._known) >= MAX_KINDS:
            return "other"
        self._known.add(kind)
        return kind


class LogMetrics:
    """What the tuning log does (``tuning_log.database.Observer``)."""

    def __init__(self, registry: CollectorRegistry, kinds: Kinds) -> None:
        self._kinds = kinds
        self._measurements = Counter(
            "tunefarm_measurements",
            "Measurements that became durable, by kind of device and status.",
            ("kind", "status"),
            registry=registry,
        )
        self._cost_models = Counter(
            "tunefarm_cost_models",
            "Trainings of a cost model that ended: it was promoted or refused.",
            ("outcome",),
            registry=registry,
        )
        for outcome in ("promoted", "refused"):
            self._cost_models.labels(outcome)
        self._writes = Histogram(
            "tunefarm_log_write_seconds",
            "What a transaction that writes takes, with the wait for its turn.",
            buckets=WRITE_BUCKETS_S,
            registry=registry,
        )
        self._failures = Counter(
            "tunefarm_log_write_failures",
            "Transactions that the tuning log was not available for.",
            registry=registry,
        )

    def wrote(self, seconds: float) -> None:
        """A transaction is durable, so long after it was asked for."""
        self._writes.observe(seconds)

    def failed(self) -> None:
        """A transaction was refused because the log is not available."""
        self._failures.inc()

    def recorded(self, device_kind: str, status: str) -> None:
        """A measurement is durable that was not there before."""
        self._measurements.labels(self._kinds.label(device_kind), status).inc()

    def trained(self, promoted: bool) -> None:
        """A cost model is kept, or that it was refused."""
        self._cost_models.labels("promoted" if promoted else "refused").inc()


@dataclass(frozen=True)
class Parts:
    """Those of a coordinator that are asked; ``own`` is None where nobody but loopback comes."""

    fleet: Fleet
    gateway: Gateway
    jobs: Jobs
    builders: Builders
    refusals: Refusals
    own: OwnCertificate | None


class FarmCollector(Collector):
    """Reads a coordinator's parts on their event loop."""

    def __init__(
        self,
        parts: Parts,
        kinds: Kinds,
        loop: asyncio.AbstractEventLoop,
        patience_s: float = COLLECT_S,
    ) -> None:
        self._parts = parts
        self._kinds = kinds
        self._loop = loop
        self._patience_s = patience_s
        self._started_at = time.time()
        self._version = importlib.metadata.version("tunefarm")

    def collect(self) -> Iterable[Metric]:
        """For any other thread than the loop's; raises TimeoutError if the loop does not answer."""
        asked = time.monotonic()

        async def read() -> list[Metric]:
            lag_s = time.monotonic() - asked
            return [*self._process(lag_s), *self._fleet(), *self._work(), *self._certificates()]

        answer = asyncio.run_coroutine_threadsafe(read(), self._loop)
        try:
            return answer.result(self._patience_s)
        except TimeoutError:
            answer.cancel()
            raise

    def _process(self, lag_s: float) -> Iterator[Metric]:
        yield _gauge(
            "tunefarm_coordinator_info", "Always 1.", ("version",), {(self._version,): 1.0}
        )
        yield _gauge(
            "tunefarm_coordinator_start_time_seconds",
            "When it was started, seconds since 1970.",
            (),
            {(): self._started_at},
        )
        yield _gauge(
            "tunefarm_coordinator_event_loop_lag_seconds",
            "How long this scrape waited for the event loop, as every message does.",
            (),
            {(): lag_s},
        )

    def _fleet(self) -> Iterator[Metric]:
        fleet, label = self._parts.fleet, self._kinds.label
        states: dict[tuple[str, ...], float] = {}
        described: dict[tuple[str, ...], float] = {}
        for status in fleet.registry.statuses({}):
            kind = label(status.kind)
            for state in DeviceState:
                here = (kind, state.name)
                states[here] = states.get(here, 0.0) + (state is status.state)
            if kind == status.kind:
                described[kind, status.device.cpu_model] = 1.0
        yield _gauge("tunefarm_devices", "Devices by what they do.", ("kind", "state"), states)
        yield _gauge(
            "tunefarm_device_kind_info", "Always 1; what a kind is.", ("kind", "cpu"), described
        )
        yield _gauge(
            "tunefarm_sessions", "Connected agents.", (), {(): float(len(fleet.registry.sessions))}
        )
        yield _gauge(
            "tunefarm_leases",
            "Leases that devices hold.",
            (),
            {(): float(sum(1 for _ in fleet.queue.leases))},
        )
        waiting: dict[tuple[str, ...], float] = {}
        for name, count in fleet.queue.waiting().items():
            waiting[label(name),] = waiting.get((label(name),), 0.0) + count
        yield _gauge(
            "tunefarm_trials_waiting", "Built trials without a device.", ("kind",), waiting
        )

    def _work(self) -> Iterator[Metric]:
        parts = self._parts
        jobs = parts.jobs.states()
        yield _gauge(
            "tunefarm_jobs",
            "Jobs that this coordinator has had since it was started, by their state now.",
            ("state",),
            {(state.name,): float(jobs[state]) for state in JobState},
        )
        load = parts.builders.load
        yield _gauge("tunefarm_builders", "Build workers.", (), {(): float(load.workers)})
        yield _gauge("tunefarm_builders_busy", "Those with work.", (), {(): float(load.busy)})
        yield _gauge(
            "tunefarm_builds_waiting", "Builds without a worker.", (), {(): float(load.waiting)}
        )
        yield _counter(
            "tunefarm_results_acknowledged",
            "Results that agents need not send again.",
            (),
            {(): float(parts.gateway.acknowledged)},
        )
        yield _counter(
            "tunefarm_refusals",
            "Calls and sessions that ended with a refusal, by method and gRPC status.",
            ("method", "code"),
            {key: float(count) for key, count in parts.refusals.counts.items()},
        )

    def _certificates(self) -> Iterator[Metric]:
        own = self._parts.own
        if own is not None:
            yield _gauge(
                "tunefarm_certificate_expiry_timestamp_seconds",
                "When a certificate ends, seconds since 1970.",
                ("holder",),
                {
                    ("coordinator",): own.current().expires.timestamp(),
                    ("authority",): own.authority.expires.timestamp(),
                },
            )


def may_read(guard: Guard) -> Callable[[Identity], None]:
    """Raises Forbidden for those whose certificate is not good any more, and for agents."""

    def admit(who: Identity) -> None:
        if not guard.is_good(who):
            raise Forbidden(f"the certificate of {who.name} has ended or was revoked")
        check_may_call(PATH, who)

    return admit


def new_registry() -> CollectorRegistry:
    """With what the system says of this process."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry


Values = Mapping[tuple[str, ...], float]


def _gauge(name: str, text: str, labels: tuple[str, ...], values: Values) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _counter(name: str, text: str, labels: tuple[str, ...], values: Values) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family
