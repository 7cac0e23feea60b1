"""`/metrics` on both sides: what it says is what has happened, and who is heard."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from coordinator import metrics
from coordinator.cli.main import parser
from coordinator.fleet.builders import Builders
from coordinator.jobs import Jobs
from coordinator.security.authority import Authority
from coordinator.security.ports import OwnCertificate
from coordinator.security.refusals import Refusals
from coordinator.stages import StageClock
from coordinator.tuning_log import TuningLog
from device_agent.agent import Agent
from device_agent.devices.replay import describe_replay
from device_agent.metrics import Throttling, serving, throttling
from protos.certificates import (
    Credentials,
    key_pem,
    new_key,
    requested_key,
    signing_request,
)
from protos.errors import BadRequest, Forbidden, LogUnavailable, Unavailable
from protos.identity import Identity, Role
from protos.metrics_port import MAX_CONNECTIONS, MetricsPort, MutualTls
from protos.records import Artifact, Candidate, DeviceState, EvaluatorConfig, KernelWork
from protos.rpc import COORDINATOR_NAME, Address, parse_address
from tests.farm import PATIENCE_S, RealFleet, real_fleet
from tests.kernels import VECTORS, kernel
from tests.scrape import exposed, families, get, open_metrics, stranger, value

TARGET = '{"kind":"llvm","num-cores":1}'
WORKLOAD = "workload-of-the-test"
EVALUATOR = EvaluatorConfig(repeat=3, min_repeat_ms=1, timeout_s=10.0)
HERE = parse_address("127.0.0.1:0")


# ------------------------------------------------------------------------------------- a farm


@contextlib.asynccontextmanager
async def coordinator_port(
    fleet: RealFleet, registry: CollectorRegistry, patience_s: float = PATIENCE_S
) -> AsyncIterator[int]:
    """The coordinator's `/metrics`, of a real fleet with its log, with builders that have not
    been started."""
    builders = Builders(2)
    jobs = Jobs(fleet.log, fleet.fleet, builders, embedded=False)
    parts = metrics.Parts(fleet.fleet, fleet.gateway, jobs, builders, Refusals(), None)
    loop = asyncio.get_running_loop()
    registry.register(metrics.FarmCollector(parts, metrics.Kinds(), loop, patience_s))
    port = MetricsPort(HERE, registry)
    try:
        yield port.port
    finally:
        await asyncio.to_thread(port.close)


@contextlib.contextmanager
def agent_with_metrics(port: int, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A replay device as its own process, and the port of its metrics."""
    said = folder / "agent.err"
    command = [
        *(sys.executable, "-m", "coordinator.cli.main", "-v", "agent", "--name", "board"),
        *("--coordinator", f"127.0.0.1:{port}", "--target", TARGET, "--replay", "1ms"),
        *("--metrics", "127.0.0.1:0"),
    ]
    with said.open("w") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=file)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while (found := re.search(r"metrics on port (\d+)", said.read_text())) is None:
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process, int(found[1])
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


async def scraped(port: int, until: Callable[[str], bool] = bool) -> str:
    """A scrape, repeated until it says what is waited for."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        status, text = await asyncio.to_thread(get, port)
        assert status == 200, text
        if until(text):
            return text
        assert time.monotonic() < deadline, text
        await asyncio.sleep(0.05)


def test_both_sides_say_what_has_happened(tmp_path: Path) -> None:
    began = time.time()
    registry = metrics.new_registry()
    observer = metrics.LogMetrics(registry, metrics.Kinds())

    async def scenario() -> None:
        async with (
            real_fleet(tmp_path, observer) as fleet,
            coordinator_port(fleet, registry) as port,
        ):
            with agent_with_metrics(fleet.port, tmp_path) as (process, agents_port):
                device = await asyncio.wait_for(fleet.fleet.device_for(TARGET), PATIENCE_S)
                await measure_five(fleet, device.kind)
                kind = {"kind": device.kind}

                text = await scraped(port)
                ok = {**kind, "status": "OK"}
                assert value(text, "tunefarm_measurements_total", ok) == 5
                assert value(text, "tunefarm_sessions") == 1
                here = {
                    state: value(text, "tunefarm_devices", {**kind, "state": state.name})
                    for state in DeviceState
                }
                assert {here.pop(DeviceState.IDLE), here.pop(DeviceState.BUSY)} == {0.0, 1.0}
                assert set(here.values()) == {0.0}
                cpu = {**kind, "cpu": device.cpu_model}
                assert value(text, "tunefarm_device_kind_info", cpu) == 1
                assert value(text, "tunefarm_builders") == 2
                assert value(text, "tunefarm_jobs", {"state": "FAILED"}) == 0
                assert (value(text, "tunefarm_log_write_seconds_count") or 0) > 1
                assert value(text, "tunefarm_log_write_failures_total") == 0
                started = value(text, "tunefarm_coordinator_start_time_seconds")
                assert started is not None
                assert began <= started <= time.time()
                acknowledged = "tunefarm_results_acknowledged_total"
                await scraped(port, lambda text: value(text, acknowledged) == 5)

                unsent = "tunefarm_agent_outbox_results"
                said = await scraped(agents_port, lambda text: value(text, unsent) == 0)
                assert value(said, "tunefarm_agent_measurements_total", {"status": "OK"}) == 5
                assert value(said, "tunefarm_agent_connected") == 1
                assert value(said, "tunefarm_agent_sessions_total") == 1
                assert (value(said, "tunefarm_agent_lease_busy_seconds_total") or 0) >= 5 * 1e-3
                assert value(said, "tunefarm_agent_load1") is not None
                for side, one in ((port, "tunefarm_devices"), (agents_port, "tunefarm_agent_info")):
                    assert one in await asyncio.to_thread(open_metrics, side)

                session = fleet.fleet.registry.session_of("board")
                assert session is not None
                session.outbox.put_nowait(None)  # the coordinator ends the session
                again = "tunefarm_agent_sessions_total"
                await scraped(agents_port, lambda text: value(text, again) == 2)

                process.kill()
                gone = {**kind, "state": "GONE"}
                text = await scraped(port, lambda text: value(text, "tunefarm_devices", gone) == 1)
                assert value(text, "tunefarm_sessions") == 0

    asyncio.run(scenario())


async def measure_five(fleet: RealFleet, kind: str) -> None:
    job_id = fleet.job_with(WORKLOAD, VECTORS)
    trials: list[tuple[Candidate, Artifact, float | None]] = [
        (Candidate(WORKLOAD, f"[{index}]"), kernel("doubled"), None) for index in range(5)
    ]
    work = KernelWork(WORKLOAD, VECTORS, 1, 0, kernel("doubled"), EVALUATOR, ())
    clock = StageClock()
    measuring = fleet.fleet.measure(job_id, kind, work, trials, clock)
    await asyncio.wait_for(measuring, PATIENCE_S)


def test_trials_without_a_device_are_counted(tmp_path: Path) -> None:
    async def scenario() -> None:
        registry = CollectorRegistry()
        async with real_fleet(tmp_path) as fleet, coordinator_port(fleet, registry) as port:
            measuring = asyncio.create_task(measure_five(fleet, "a kind"))
            waiting = "tunefarm_trials_waiting"
            await scraped(port, lambda text: value(text, waiting, {"kind": "a kind"}) == 5)
            measuring.cancel()
            await asyncio.gather(measuring, return_exceptions=True)
            await scraped(port, lambda text: value(text, waiting, {"kind": "a kind"}) is None)

    asyncio.run(scenario())


def test_a_blocked_coordinator_fails_the_scrape(tmp_path: Path) -> None:
    async def scenario() -> None:
        registry = CollectorRegistry()
        async with real_fleet(tmp_path) as fleet, coordinator_port(fleet, registry, 0.2) as port:
            found: list[tuple[int, str]] = []
            thread = threading.Thread(target=lambda: found.append(get(port)))
            thread.start()
            thread.join(PATIENCE_S)  # on the event loop: nothing else happens meanwhile
            assert [status for status, _ in found] == [500]
            text = await scraped(port)
            assert value(text, "tunefarm_coordinator_event_loop_lag_seconds") is not None

    asyncio.run(scenario())


def test_a_log_that_is_not_available_is_counted(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    log = TuningLog.open(str(tmp_path / "log.db"), metrics.LogMetrics(registry, metrics.Kinds()))
    failures = "tunefarm_log_write_failures_total"
    assert registry.get_sample_value(failures) == 0
    log.add_cost_model("kind", "text", 100, {})
    log.add_cost_model("kind", None, 100, {})
    for outcome in ("promoted", "refused"):
        named = {"outcome": outcome}
        assert registry.get_sample_value("tunefarm_cost_models_total", named) == 1
    log.close()
    with pytest.raises(LogUnavailable):
        log.put_blob(b"x")
    assert registry.get_sample_value(failures) == 1
    assert registry.get_sample_value("tunefarm_log_write_seconds_count") == 2


def test_devices_do_not_decide_how_many_series_there_are() -> None:
    registry = CollectorRegistry()
    observer = metrics.LogMetrics(registry, metrics.Kinds())
    for number in range(metrics.MAX_KINDS + 10):
        observer.recorded(f"kind {number}", "OK")
    observer.recorded("kind 0", "OK")

    def count(kind: str) -> float | None:
        labels = {"kind": kind, "status": "OK"}
        return registry.get_sample_value("tunefarm_measurements_total", labels)

    assert (count("kind 0"), count("kind 1")) == (2, 1)
    assert (count("other"), count(f"kind {metrics.MAX_KINDS}")) == (10, None)


# ------------------------------------------------------------------------------------- the port


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "ca.pem", "test")


def _admit_all(who: Identity) -> None:
    """Whoever has a certificate."""


@contextlib.contextmanager
def secure_port(credentials: Callable[[], Credentials]) -> Iterator[int]:
    port = MetricsPort(HERE, CollectorRegistry(), MutualTls(credentials, _admit_all))
    try:
        yield port.port
    finally:
        port.close()


def _shown(port: int, authority: Authority) -> bytes:
    """The certificate that the port shows, DER."""
    context = stranger(authority.certificate)
    with (
        socket.create_connection(("127.0.0.1", port), PATIENCE_S) as plain,
        context.wrap_socket(plain, server_hostname=COORDINATOR_NAME) as connection,
    ):
        return connection.getpeercert(binary_form=True) or b""


def test_who_says_nothing_keeps_nobody_waiting(authority: Authority) -> None:
    with secure_port(OwnCertificate(authority).current) as port, contextlib.ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS - 1):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE_S))
        assert _shown(port, authority)


def test_there_are_only_so_many_connections(authority: Authority) -> None:
    with secure_port(OwnCertificate(authority).current) as port:
        with contextlib.ExitStack() as stack:
            for _ in range(MAX_CONNECTIONS):
                stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE_S))
            with pytest.raises((ssl.SSLError, OSError)):
                _shown(port, authority)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with contextlib.suppress(ssl.SSLError, OSError):
                assert _shown(port, authority)
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_renewed_certificate_is_shown_at_once_and_an_ended_one_never(
    authority: Authority,
) -> None:
    def made() -> Credentials:
        key, certificate = authority.for_coordinator()
        return Credentials(key, certificate, authority.certificate)

    class Ended(Credentials):
        """Stands for one whose 90 days are over, which can't be waited for."""

        @property
        def expires(self) -> datetime.datetime:
            return datetime.datetime.now(datetime.UTC)

    shown = [made()]
    with secure_port(lambda: shown[-1]) as port:
        first = _shown(port, authority)
        assert _shown(port, authority) == first
        shown.append(made())
        assert _shown(port, authority) != first
        shown.append(Ended(*made().__dict__.values()))
        with pytest.raises((ssl.SSLError, OSError)):
            _shown(port, authority)
        shown.append(made())
        assert _shown(port, authority) != first
    with (
        pytest.raises(Forbidden, match="the certificate ended on"),
        secure_port(lambda: Ended(*made().__dict__.values())),
    ):
        pass


def test_only_metrics_are_served() -> None:
    port = MetricsPort(HERE, metrics.new_registry())
    try:
        status, text = get(port.port)
        assert (status, "process_cpu_seconds_total" in exposed(families(text))) == (200, True)
        assert get(port.port, path="/metrics?x=1")[0] == 200
        for path in ("/", "/metrics/", "/../etc/passwd"):
            assert get(port.port, path=path) == (404, "metrics are at /metrics\n")
    finally:
        port.close()


def test_a_port_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address("127.0.0.1", taken.getsockname()[1], True)
        with pytest.raises(
            Unavailable, match=r"can't listen on 127\.0\.0\.1:\d+ for metrics.*--me"
        ):
            MetricsPort(address, CollectorRegistry())


@pytest.fixture
def _signals_as_before() -> Iterator[None]:
    """The commands set handlers of their own."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("serve", "--metrics", "0.0.0.0:7414"), "with mutual TLS only. Give --listen-tls"),
        (("serve", "--metrics", "here"), "is not HOST:PORT"),
        (
            ("agent", "--replay", "1ms", "--coordinator", "127.0.0.1:1", "--metrics", "[::]:7415"),
            "this device has no certificate: `tunefarm agent enroll`",
        ),
    ],
)
def test_outside_loopback_nothing_is_shown_in_plain_text(
    arguments: tuple[str, ...], complaint: str, _signals_as_before: None
) -> None:
    options = parser().parse_args(arguments)
    with pytest.raises(BadRequest, match=complaint):
        options.run(options)


def test_a_certificate_without_that_purpose_is_not_shown(
    authority: Authority, tmp_path: Path
) -> None:
    """A user's is as an agent's was before agents had metrics."""
    key = new_key()
    issued = authority.issue(Identity("a", Role.VIEWER), requested_key(signing_request(key)))
    path = tmp_path / "agent.pem"
    Credentials(key_pem(key), issued.certificate, authority.certificate).save(path)
    agent = Agent("127.0.0.1:1", describe_replay("board", TARGET, 0.001))
    with (
        pytest.raises(BadRequest, match="too old for a port of metrics; enrol again"),
        serving(agent, "0.0.0.0:0", path),
    ):
        pass


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (None, Throttling()),
        ("", Throttling()),
        ("0x0", Throttling(now=False)),
        ("0x50000", Throttling(now=False)),
        ("0x50005", Throttling(now=True)),
        ("12 events", Throttling(events=12)),
        ("many events", Throttling()),
        ("0xnonsense", Throttling()),
    ],
)
def test_what_a_device_says_of_throttling(said: str | None, meant: Throttling) -> None:
    assert throttling(said) == meant
