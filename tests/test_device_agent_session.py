"""An agent against a small real gateway, over a real socket."""

from __future__ import annotations

import contextlib
import math
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import grpc
import psutil
import pytest

from device_agent.agent import Agent
from device_agent.devices.cpu import describe_cpu
from device_agent.lease_worker import MAX_HELD
from device_agent.outbox import Outbox
from device_agent.sayable import sayable
from protos import convert, errors, farm_pb2, rpc
from protos.farm_pb2_grpc import (
    AgentGatewayServicer,
    add_AgentGatewayServicer_to_server,
)
from protos.records import (
    PROTOCOL_VERSION,
    Acknowledgement,
    Artifact,
    CancelLease,
    Circumstances,
    EvaluatorConfig,
    Heartbeat,
    KernelWork,
    Lease,
    LeaseFinished,
    Measurement,
    MeasurementStatus,
    ModelMeasurement,
    ModelVariant,
    ModelWork,
    Registered,
    Registration,
    RestartAgent,
    Telemetry,
    Trial,
    VariantResult,
)

from . import kernels
from .test_device_agent_kernels import await_child
from .test_device_agent_models import GOOD, examples, package

R = TypeVar("R")

COLD = Telemetry()

PATIENCE_S = 200.0
"""How long a test waits for an event before it gives up; never how long it takes."""


class Connection:
    """One session as the gateway sees it."""

    def __init__(self) -> None:
        self.received: queue.Queue[Any] = queue.Queue()
        self.outgoing: queue.Queue[Any] = queue.Queue()

    def send(self, record: Any) -> None:
        self.outgoing.put(record)

    def cut(self) -> None:
        """End the stream, as a coordinator does that stops."""
        self.outgoing.put(None)

    def expect(self, record_type: type[R]) -> R:
        """The next record that is no heartbeat; it must be of this type."""
        while True:
            record = self.received.get(timeout=PATIENCE_S)
            if isinstance(record, record_type):
                return record
            assert isinstance(record, Heartbeat), record

    def acknowledge(self, result: Measurement) -> None:
        self.send(Acknowledgement(result.lease_id, result.candidate_key))


class Gateway(AgentGatewayServicer):
    """Registers every agent and lets the test talk to it."""

    def __init__(self) -> None:
        self.connections: queue.Queue[Connection] = queue.Queue()
        self.artifacts: dict[str, bytes] = {}
        self.fetched: list[str] = []
        self.refusal: tuple[grpc.StatusCode, str] | None = None
        self.greetings: list[Any] = []  # of the next sessions, in place of a Registered

    def Session(self, request_iterator: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        if self.refusal is not None:
            context.abort(*self.refusal)
        connection = Connection()

        def receive() -> None:
            with contextlib.suppress(grpc.RpcError):
                for message in request_iterator:
                    connection.received.put(convert.from_agent_message(message))
            connection.cut()

        thread = threading.Thread(target=receive)
        thread.start()
        self.connections.put(connection)
        greeting = self.greetings.pop(0) if self.greetings else Registered("session", 0.05)
        yield convert.to_gateway_message(greeting)
        while (record := connection.outgoing.get()) is not None:
            yield convert.to_gateway_message(record)

    def FetchArtifact(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        self.fetched.append(request.sha256)
        if request.sha256 not in self.artifacts:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such artifact")
        data = self.artifacts[request.sha256]
        middle = len(data) // 2
        yield farm_pb2.Chunk(data=data[:middle])
        yield farm_pb2.Chunk(data=data[middle:])

    def connection(self) -> Connection:
        """The next session, after its registration."""
        connection = self.connections.get(timeout=PATIENCE_S)
        registration = connection.expect(Registration)
        assert registration.protocol_version == PROTOCOL_VERSION
        assert registration.device.name == "board"
        return connection


class Farm:
    """A gateway on a port and one agent that dials it."""

    def __init__(self, outbox: Outbox | None = None) -> None:
        self.gateway = Gateway()
        self._pool = futures.ThreadPoolExecutor(8)
        self._server = grpc.server(self._pool, options=list(rpc.SERVER_OPTIONS))
        add_AgentGatewayServicer_to_server(self.gateway, self._server)  # type: ignore[no-untyped-call]
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        device = describe_cpu("board", kernels.target_json(1), None, emulated=False)
        self.agent = Agent(self.address, device, outbox=outbox)
        self.stop = threading.Event()
        self.failures: list[Exception] = []
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        try:
            self.agent.run(self.stop)
        except Exception as error:
            self.failures.append(error)

    def join(self) -> None:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def close(self) -> None:
        self.stop.set()
        if self._thread.ident is not None:
            self.join()
        self._server.stop(0).wait()
        self._pool.shutdown()


@pytest.fixture
def farm() -> Iterator[Farm]:
    one = Farm()
    with contextlib.closing(one):
        yield one


def lease(
    lease_id: str, *trials: Artifact, reference: Artifact | None = None, **evaluator: Any
) -> Lease:
    config = EvaluatorConfig(**{"repeat": 2, "min_repeat_ms": 1, "timeout_s": 30.0, **evaluator})
    named = tuple(Trial(f"candidate{number}", trial) for number, trial in enumerate(trials))
    reference = reference or kernels.kernel("doubled")
    work = KernelWork("workload", kernels.VECTORS, 1, 7, reference, config, named)
    return Lease(lease_id, "job", 3600.0, kernel=work)


def good() -> Artifact:
    return kernels.kernel("doubled")


def test_results_are_streamed_with_their_circumstances(farm: Farm) -> None:
    farm.start()
    connection = farm.gateway.connection()
    connection.send(lease("one", good(), kernels.kernel("wrong"), kernels.kernel("segfault")))
    connection.send(lease("two", good()))
    results = [connection.expect(Measurement) for _ in range(3)]
    results.sort(key=lambda result: result.candidate_key)  # those that fail come first
    assert [result.status for result in results] == [
        MeasurementStatus.OK,
        MeasurementStatus.WRONG_OUTPUT,
        MeasurementStatus.CRASHED,
    ]
    assert [result.candidate_key for result in results] == [f"candidate{n}" for n in range(3)]
    assert results[0].lease_id == "one"
    assert results[0].artifact_sha256 == good().sha256
    assert len(results[0].repeats_s) == 2
    circumstances = results[0].circumstances
    assert circumstances is not None
    assert (circumstances.device, circumstances.num_threads) == ("board", 1)
    assert circumstances.evaluator.repeat == 2
    parts_s = (circumstances.load_s, circumstances.check_s, circumstances.time_s)
    assert min(parts_s) > 0
    assert sum(parts_s) <= circumstances.busy_s
    assert connection.expect(LeaseFinished) == LeaseFinished("one")
    assert connection.expect(Measurement).lease_id == "two"
    assert connection.expect(LeaseFinished) == LeaseFinished("two")


def test_the_heart_beats(farm: Farm) -> None:
    farm.start()
    connection = farm.gateway.connection()
    for _ in range(2):
        assert isinstance(connection.received.get(timeout=PATIENCE_S), Heartbeat)


def test_what_was_not_acknowledged_is_sent_again(farm: Farm) -> None:
    farm.start()
    first = farm.gateway.connection()
    first.send(lease("one", good(), kernels.kernel("wrong")))
    results = [first.expect(Measurement) for _ in range(2)]
    assert first.expect(LeaseFinished) == LeaseFinished("one")
    first.acknowledge(results[0])
    first.cut()
    second = farm.gateway.connection()
    assert second.expect(Measurement) == results[1]
    second.acknowledge(results[1])
    second.cut()
    third = farm.gateway.connection()
    third.send(lease("two", good()))
    assert third.expect(Measurement).lease_id == "two"


def test_what_was_not_acknowledged_is_sent_by_the_agent_that_comes_after(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "board.outbox")
    with contextlib.closing(Farm(outbox)) as before:
        before.start()
        connection = before.gateway.connection()
        connection.send(lease("one", good(), kernels.kernel("wrong")))
        results = [connection.expect(Measurement) for _ in range(2)]
        connection.acknowledge(results[0])
        while len(outbox) > 1:
            time.sleep(0.01)
    outbox.close()
    outbox = Outbox(tmp_path / "board.outbox")
    with contextlib.closing(Farm(outbox)) as after:
        after.start()
        assert after.gateway.connection().expect(Measurement) == results[1]
    outbox.close()


def test_an_agent_restarts_when_it_is_told_to_and_something_starts_it_again(farm: Farm) -> None:
    farm.start()
    connection = farm.gateway.connection()
    connection.send(RestartAgent("its canary failed"))  # nothing would start this one again
    connection.send(lease("one", good()))
    assert connection.expect(Measurement).status is MeasurementStatus.OK
    assert not farm.agent.told_to_restart
    farm.agent._restartable = True
    connection.send(RestartAgent("its canary failed"))
    farm.join()
    assert farm.agent.told_to_restart
    assert farm.failures == []


def test_leases_of_a_lost_session_are_dropped_and_results_are_not(farm: Farm) -> None:
    farm.start()
    first = farm.gateway.connection()
    first.send(lease("one", kernels.kernel("endless"), good(), timeout_s=2.0))
    first.send(lease("never", good()))
    await_child(farm.agent.worker.kernels)
    first.cut()
    second = farm.gateway.connection()
    second.send(lease("two", good()))
    late = second.expect(Measurement)
    assert (late.lease_id, late.status) == ("one", MeasurementStatus.TIMED_OUT)
    while isinstance(record := second.received.get(timeout=PATIENCE_S), Heartbeat | LeaseFinished):
        pass
    assert isinstance(record, Measurement)
    assert record.lease_id == "two"


def test_a_cancelled_lease_ends_after_the_trial_that_runs(farm: Farm) -> None:
    farm.start()
    connection = farm.gateway.connection()
    endless = kernels.kernel("endless")
    connection.send(lease("one", endless, endless, good(), timeout_s=2.0))
    assert connection.expect(Measurement).candidate_key == "candidate0"
    connection.send(CancelLease("one"))
    connection.send(CancelLease("unknown"))
    assert connection.expect(Measurement).status is MeasurementStatus.TIMED_OUT
    assert connection.expect(LeaseFinished) == LeaseFinished("one")


def test_artifacts_are_fetched_and_inline_ones_are_kept(farm: Farm) -> None:
    wrong = kernels.kernel("wrong")
    farm.gateway.artifacts[wrong.sha256] = wrong.data
    farm.start()
    connection = farm.gateway.connection()
    connection.send(lease("one", wrong.without_data()))
    assert connection.expect(Measurement).status is MeasurementStatus.WRONG_OUTPUT
    connection.expect(LeaseFinished)
    reference = good().without_data()
    connection.send(lease("two", wrong.without_data(), reference, reference=reference))
    assert connection.expect(Measurement).status is MeasurementStatus.WRONG_OUTPUT
    assert connection.expect(Measurement).status is MeasurementStatus.OK
    assert farm.gateway.fetched == [wrong.sha256]


def _unknown(gateway: Gateway) -> Lease:
    return lease("bad", kernels.kernel("wrong").without_data())


def _mixed_up(gateway: Gateway) -> Lease:
    wrong = kernels.kernel("wrong")
    gateway.artifacts[wrong.sha256] = bytes(len(wrong.data))
    return lease("bad", wrong.without_data())


def _crashing_reference(gateway: Gateway) -> Lease:
    return lease("bad", good(), reference=kernels.kernel("segfault"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_unknown, "no such artifact"),
        (_mixed_up, "another SHA-256"),
        (_crashing_reference, "SIGSEGV"),
    ],
)
def test_a_lease_that_can_not_be_done_says_why_and_the_next_is_done(
    farm: Farm, make: Callable[[Gateway], Lease], words: str
) -> None:
    farm.start()
    connection = farm.gateway.connection()
    connection.send(make(farm.gateway))
    connection.send(lease("next", good()))
    finished = connection.expect(LeaseFinished)
    assert finished.lease_id == "bad"
    assert words in finished.error
    assert connection.expect(Measurement).status is MeasurementStatus.OK


def test_a_model_is_measured(farm: Farm) -> None:
    farm.start()
    connection = farm.gateway.connection()
    variants = (ModelVariant("tuned", package(GOOD)),)
    config = EvaluatorConfig(repeat=2, min_repeat_ms=1)
    connection.send(Lease("m", "job", 3600.0, model=ModelWork(variants, examples(), config, 1)))
    measurement = connection.expect(ModelMeasurement)
    assert measurement.variants[0].status is MeasurementStatus.OK, measurement.variants[0].error
    connection.cut()
    again = farm.gateway.connection()
    assert again.expect(ModelMeasurement) == measurement
    again.send(Acknowledgement("m"))


def test_what_the_system_refuses_is_said_and_is_no_defect_of_the_agent(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    farm.start()
    connection = farm.gateway.connection()
    config = EvaluatorConfig(repeat=2, min_repeat_ms=1)
    model = ModelWork((ModelVariant("tuned", package(GOOD)),), examples(), config, 1)
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", "/proc/no-room-here")
        connection.send(Lease("refused", "job", 3600.0, model=model))
        finished = connection.expect(LeaseFinished)
    assert finished.lease_id == "refused"
    assert finished.error.startswith("the system of this device refused: ")
    assert "/proc/no-room-here" in finished.error
    connection.send(Lease("done", "job", 3600.0, model=model))
    assert connection.expect(ModelMeasurement).variants[0].status is MeasurementStatus.OK


def test_a_killed_kernel_process_is_a_crash_and_the_agent_goes_on(farm: Farm) -> None:
    farm.start()
    connection = farm.gateway.connection()
    connection.send(lease("one", kernels.kernel("endless"), good()))
    await_child(farm.agent.worker.kernels)
    zygote = farm.agent.worker.kernels.zygote_pid
    assert zygote is not None
    psutil.Process(zygote).kill()
    assert connection.expect(Measurement).status is MeasurementStatus.CRASHED
    assert connection.expect(Measurement).status is MeasurementStatus.OK


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, errors.BadRequest),
        (grpc.StatusCode.FAILED_PRECONDITION, errors.Conflict),
    ],
)
def test_a_refused_registration_ends_the_agent(
    farm: Farm, code: grpc.StatusCode, error: type[Exception]
) -> None:
    farm.gateway.refusal = (code, "not you")
    farm.start()
    farm.join()
    assert [type(failure) for failure in farm.failures] == [error]
    assert "not you" in str(farm.failures[0])


def test_a_coordinator_that_is_not_there_is_called_until_the_agent_is_stopped(farm: Farm) -> None:
    unused = Agent("127.0.0.1:1", describe_cpu("board", None, None, emulated=False))
    stop = threading.Event()
    thread = threading.Thread(target=unused.run, args=(stop,))
    thread.start()
    stop.set()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_stopping_kills_what_runs(farm: Farm) -> None:
    farm.start()
    connection = farm.gateway.connection()
    connection.send(lease("one", kernels.kernel("endless")))
    await_child(farm.agent.worker.kernels)
    running = psutil.Process().children(recursive=True)
    assert len(running) >= 2, "a zygote and its child"
    farm.stop.set()
    farm.join()
    assert farm.failures == []
    assert not [process for process in running if process.is_running()]


# ------------------------------------------------------------------------------- a bad coordinator


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (Registered("again", 1.0), "Registered at the wrong time"),
        (Lease("both", "job", 1.0), "must carry one kind of work"),
        (CancelLease("c" * 200), "CancelLease.lease_id has 200 characters"),
        (lease("bad", timeout_s=1e9), "timeout_s"),
        (replace(lease("bad"), expires_s=float("nan")), "expires_s"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_what_the_coordinator_must_not_say_ends_the_session_and_no_more(
    farm: Farm, bad: Any, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    farm.start()
    first = farm.gateway.connection()
    first.send(bad)
    farm.gateway.connection()  # it dials in anew
    assert words in caplog.text


def test_what_comes_before_the_registration_is_answered_ends_the_session(
    farm: Farm, caplog: pytest.LogCaptureFixture
) -> None:
    farm.gateway.greetings = [CancelLease("early"), Registered("fast", 0.0)]
    farm.start()
    for _ in range(2):  # an agent that hangs up at once may not have been heard
        farm.gateway.connections.get(timeout=PATIENCE_S)
    farm.gateway.connection()
    assert "CancelLease at the wrong time" in caplog.text
    assert "without a pause" in caplog.text


def test_a_lease_that_comes_twice_is_done_once(farm: Farm) -> None:
    farm.start()
    connection = farm.gateway.connection()
    for _ in range(2):
        connection.send(lease("one", kernels.kernel("endless"), timeout_s=0.5))
    connection.send(lease("two", good()))
    connection.send(Acknowledgement("one", "never measured"))
    assert connection.expect(Measurement).lease_id == "one"
    assert connection.expect(LeaseFinished) == LeaseFinished("one")
    assert connection.expect(Measurement).lease_id == "two"


def test_more_leases_than_a_device_can_hold_end_the_session(farm: Farm) -> None:
    farm.start()
    connection = farm.gateway.connection()
    connection.send(lease("long", kernels.kernel("endless"), timeout_s=2.0))
    for number in range(MAX_HELD + 1):
        connection.send(lease(f"{number}", good()))
    farm.gateway.connection()


def test_more_bytes_than_an_artifact_has_are_not_kept(farm: Farm) -> None:
    wrong = kernels.kernel("wrong")
    farm.gateway.artifacts[wrong.sha256] = wrong.data * 3
    farm.start()
    connection = farm.gateway.connection()
    connection.send(lease("bad", wrong.without_data()))
    finished = connection.expect(LeaseFinished)
    assert f"not {wrong.size_bytes}" in finished.error


def test_a_result_that_can_not_be_said_is_garbage() -> None:
    measurement = Measurement("w", "c", MeasurementStatus.OK, "l", repeats_s=(math.inf,))
    said = sayable(measurement)
    assert isinstance(said, Measurement)
    assert (said.status, said.repeats_s) == (MeasurementStatus.GARBAGE, ())
    assert "repeats_s is inf" in said.error
    fine = replace(measurement, repeats_s=(1e-5,))
    assert sayable(fine) is fine
    circumstances = Circumstances("d", {}, EvaluatorConfig(), 1, (), False, COLD, COLD)
    variants = (
        VariantResult("a", MeasurementStatus.OK, (0.5,)),
        VariantResult("b", MeasurementStatus.OK, (0.5,), resident_bytes=2**63),
    )
    model = sayable(ModelMeasurement("l", variants, circumstances))
    assert isinstance(model, ModelMeasurement)
    assert [v.status for v in model.variants] == [MeasurementStatus.OK, MeasurementStatus.GARBAGE]
    with pytest.raises(errors.ProtocolViolation, match="temperature_c"):
        sayable(ModelMeasurement("l", (), replace(circumstances, before=Telemetry(1e12))))
