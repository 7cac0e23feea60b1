"""Agents that say what they must not: their stream ends with a clear status, nothing is changed,
and the others don't notice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from benchmarks.fuzz.mutations import varint
from coordinator.fleet import gateway
from protos import convert, farm_pb2, farm_pb2_grpc
from protos.records import (
    PROTOCOL_VERSION,
    Acknowledgement,
    Artifact,
    CancelLease,
    Circumstances,
    EvaluatorConfig,
    Heartbeat,
    Lease,
    LeaseFinished,
    Measurement,
    MeasurementStatus,
    ModelMeasurement,
    ModelVariant,
    ModelWork,
    Registration,
    Telemetry,
    VariantResult,
)
from protos.rpc import MAX_MESSAGE_BYTES, SERVER_OPTIONS
from tests.farm import PATIENCE_S, RealFleet, real_fleet
from tests.test_fleet import TARGET, WORKLOAD, FakeAgent, _logged, _measure

Status = MeasurementStatus
Code = grpc.StatusCode


def circumstances(agent: FakeAgent) -> Circumstances:
    nothing = Telemetry()
    return Circumstances(agent.device.name, {}, EvaluatorConfig(), 1, (0,), False, nothing, nothing)


def answer(agent: FakeAgent, lease: Lease, number: int = 0) -> Measurement:
    """What an agent says that has measured one of the lease's trials."""
    assert lease.kernel is not None
    trial = lease.kernel.trials[number]
    return Measurement(
        *(WORKLOAD, trial.candidate_key, Status.OK, lease.lease_id, trial.artifact.sha256),
        repeats_s=(1e-5, 1e-5),
        circumstances=circumstances(agent),
    )


async def still_there(agent: FakeAgent) -> bool:
    """Whether an agent's stream is as it was; raises ConnectionError if it has ended."""
    await agent.send(Measurement(WORKLOAD, "c", Status.CRASHED, "a question"))
    while await agent.receive() != CancelLease("a question"):
        pass  # leases that it is given meanwhile
    return True


def against_a_fleet(
    scenario: Callable[[RealFleet, FakeAgent, Lease, FakeAgent], Awaitable[None]], path: Path
) -> None:
    """Two agents on a fleet: one that holds a lease of two trials and misbehaves, and another."""

    async def run() -> None:
        async with real_fleet(path) as fleet:
            measuring = asyncio.create_task(_measure(fleet, ["doubled", "wrong"]))
            bad, good = FakeAgent(fleet.port, "bad"), FakeAgent(fleet.port, "good")
            await bad.register()
            lease = await bad.receive()
            assert isinstance(lease, Lease)
            await good.register()
            await scenario(fleet, bad, lease, good)
            assert not measuring.done()
            measuring.cancel()
            await bad.vanish()
            await good.vanish()

    asyncio.run(run())


LIES: list[tuple[str, Callable[[Measurement], Measurement]]] = [
    ("of the bytes", lambda m: replace(m, artifact_sha256="0" * 64)),
    ("without its times", lambda m: replace(m, repeats_s=())),
    ("without circumstances", lambda m: replace(m, circumstances=None)),
    (
        "made by 'good'",
        lambda m: replace(m, circumstances=replace(m.circumstances, device="good")),  # type: ignore[type-var]
    ),
    (
        "comes from 'bad'",
        lambda m: replace(m, circumstances=replace(m.circumstances, emulated=True)),  # type: ignore[type-var]
    ),
    ("repeats_s", lambda m: replace(m, repeats_s=(-1.0,))),
    ("repeats_s", lambda m: replace(m, repeats_s=(float("nan"),))),
    ("repeats_s has 5000 items", lambda m: replace(m, repeats_s=(1e-5,) * 5000)),
    ("came with candidate", lambda m: replace(m, workload_key="another")),
]


@pytest.mark.parametrize(("words", "lie"), LIES, ids=[words for words, _ in LIES])
def test_an_answer_that_can_not_be_is_not_kept(
    words: str, lie: Callable[[Measurement], Measurement], tmp_path: Path
) -> None:
    async def scenario(fleet: RealFleet, bad: FakeAgent, lease: Lease, good: FakeAgent) -> None:
        await bad.send(lie(answer(bad, lease)))
        code, details = await bad.refusal()
        assert (code, words in details) == (Code.INVALID_ARGUMENT, True), details
        assert _logged(fleet, bad.device.kind) == []
        taken_over = await good.receive()  # the lease goes to who behaves
        assert isinstance(taken_over, Lease)
        await good.send(answer(good, taken_over))
        while isinstance(said := await good.receive(), Lease):
            pass
        assert isinstance(said, Acknowledgement)
        assert _logged(fleet, good.device.kind) == [Status.OK]

    against_a_fleet(scenario, tmp_path)


def test_what_is_said_out_of_order_or_again_changes_nothing(tmp_path: Path) -> None:
    """Each of these is harmless, and its stream goes on."""

    async def scenario(fleet: RealFleet, bad: FakeAgent, lease: Lease, good: FakeAgent) -> None:
        first = answer(bad, lease)
        for _ in range(3):  # a replay
            await bad.send(first)
            assert await bad.receive() == Acknowledgement(lease.lease_id, first.candidate_key)
        await bad.send(replace(first, status=Status.CRASHED))  # a second thought
        assert isinstance(await bad.receive(), Acknowledgement)
        await bad.send(replace(first, candidate_key="never leased"))
        assert isinstance(await bad.receive(), Acknowledgement)
        await bad.send(LeaseFinished("never leased", "an error", 9.0))
        await good.send(LeaseFinished(lease.lease_id, "not its own"))
        await bad.send(ModelMeasurement(lease.lease_id, (), circumstances(bad)))
        assert await bad.receive() == CancelLease(lease.lease_id)  # it is no model's
        assert await still_there(bad)
        assert await still_there(good)
        assert _logged(fleet, bad.device.kind) == [Status.OK]
        assert fleet.fleet.queue.leases.held(lease.lease_id) is not None, "nobody else ended it"
        await bad.send(LeaseFinished(lease.lease_id))
        await bad.send(answer(bad, lease, 1))  # after it said that it was done
        while not isinstance(said := await bad.receive(), Acknowledgement):
            assert isinstance(said, Lease)  # the second trial was leased again
        assert sorted(_logged(fleet, bad.device.kind)) == [Status.OK, Status.OK]

    async def run() -> None:
        async with real_fleet(tmp_path) as fleet:
            measuring = asyncio.create_task(_measure(fleet, ["doubled", "wrong"]))
            bad, good = FakeAgent(fleet.port, "bad"), FakeAgent(fleet.port, "good")
            await bad.register()
            lease = await bad.receive()
            assert isinstance(lease, Lease)
            await good.register()
            await scenario(fleet, bad, lease, good)
            done = await asyncio.wait_for(measuring, PATIENCE_S)
            assert [measurement.status for measurement in done] == [Status.OK, Status.OK]
            await bad.vanish()
            await good.vanish()

    asyncio.run(run())


NAME = farm_pb2.AgentMessage.FromString(
    convert.to_agent_message(
        Registration(PROTOCOL_VERSION, FakeAgent.describe("bad"))
    ).SerializeToString()
)


def _registered_as(**changes: Any) -> bytes:
    message = farm_pb2.AgentMessage.FromString(NAME.SerializeToString())
    for name, value in changes.items():
        setattr(message.registration.device, name, value)
    return message.SerializeToString()


FIRST: list[tuple[str, bytes, grpc.StatusCode, str]] = [
    ("no message", b"\xff\xff\xff", Code.INVALID_ARGUMENT, "3 bytes that are no message"),
    ("nothing", b"", Code.INVALID_ARGUMENT, "empty AgentMessage"),
    ("a huge length", b"\x0a" + varint(2**40), Code.INVALID_ARGUMENT, "that are no message"),
    ("text that is none", b"\x0a\x03\x12\x01\xff", Code.INVALID_ARGUMENT, "no message"),
    ("control characters", _registered_as(name="a\x1b[2J"), Code.INVALID_ARGUMENT, "device.name"),
    ("a long name", _registered_as(name="n" * 65), Code.INVALID_ARGUMENT, "may have 64"),
    ("no name", _registered_as(name=""), Code.INVALID_ARGUMENT, "needs a name"),
    ("too much", bytes(MAX_MESSAGE_BYTES + 1), Code.RESOURCE_EXHAUSTED, "larger than max"),
]


@pytest.mark.parametrize(
    ("data", "code", "words"), [case[1:] for case in FIRST], ids=[case[0] for case in FIRST]
)
def test_a_first_message_that_is_none(
    data: bytes, code: grpc.StatusCode, words: str, tmp_path: Path
) -> None:
    async def run() -> None:
        async with real_fleet(tmp_path) as fleet:
            good = FakeAgent(fleet.port, "good")
            await good.register()
            async with grpc.aio.insecure_channel(f"127.0.0.1:{fleet.port}") as channel:
                call: Any = channel.stream_stream("/tunefarm.v1.AgentGateway/Session")()
                await call.write(data)
                assert await asyncio.wait_for(call.code(), PATIENCE_S) is code
                assert words in await call.details()
            assert await still_there(good)
            names = [d.name for d in fleet.fleet.registry.devices_for(TARGET)]
            assert names == ["good"]
            await good.vanish()

    asyncio.run(run())


def test_bytes_that_are_no_message_end_a_session_and_its_lease_goes_on_elsewhere(
    tmp_path: Path,
) -> None:
    async def scenario(fleet: RealFleet, bad: FakeAgent, lease: Lease, good: FakeAgent) -> None:
        raw: Any = bad._channel.stream_stream("/tunefarm.v1.AgentGateway/Session")()
        await raw.write(b"\x0b" * 100)
        assert await asyncio.wait_for(raw.code(), PATIENCE_S) is Code.INVALID_ARGUMENT
        assert await still_there(bad), "another stream on the same connection"
        await bad.send_message(farm_pb2.AgentMessage())
        code, _ = await bad.refusal()
        assert code is Code.INVALID_ARGUMENT
        assert isinstance(await good.receive(), Lease)

    against_a_fleet(scenario, tmp_path)


def test_a_lease_is_finished_once(tmp_path: Path) -> None:
    """Said again and again, it would set the device aside and give its trials more attempts."""

    async def scenario(fleet: RealFleet, bad: FakeAgent, lease: Lease, good: FakeAgent) -> None:
        held = fleet.fleet.queue.leases.held(lease.lease_id)
        assert held is not None
        for _ in range(20):
            await bad.send(LeaseFinished(lease.lease_id, "the canary drifts", 9.0))
        assert await still_there(bad)
        assert {trial.attempts for trial in held.trials.values()} == {1}, "leased again"
        assert fleet.fleet.registry.set_aside("bad") == ""

    against_a_fleet(scenario, tmp_path)


class Deaf(FakeAgent):
    """It reads nothing after its registration; what may wait for that on its side is little."""

    def __init__(self, port: int, name: str) -> None:
        super().__init__(port, name)
        little = [("grpc.http2.bdp_probe", 0)]
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=little)
        self._call = farm_pb2_grpc.AgentGatewayStub(self._channel).Session()


def test_who_says_nothing_or_reads_nothing_is_hung_up_on(tmp_path: Path) -> None:
    async def run() -> None:
        async with real_fleet(tmp_path) as fleet:
            server = grpc.aio.server(options=list(SERVER_OPTIONS))
            impatient = gateway.Gateway(fleet.fleet, registered_within_s=0.05)
            farm_pb2_grpc.add_AgentGatewayServicer_to_server(impatient, server)
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            silent = FakeAgent(port, "silent")
            code, details = await silent.refusal()
            assert (code, "no registration" in details) == (Code.INVALID_ARGUMENT, True)
            await server.stop(None)

            deaf = Deaf(fleet.port, "deaf")
            await deaf.register()
            said = convert.to_agent_message(Measurement("w", "c", Status.CRASHED, "l" * 128))
            thrown_out = asyncio.create_task(fleet.devices(TARGET, 0))
            while not thrown_out.done():
                with contextlib.suppress(TimeoutError):  # nobody takes it any more
                    await asyncio.wait_for(deaf.send_message(said), 0.5)
            await thrown_out
            await deaf.vanish()

    asyncio.run(run())


def test_a_models_answer_must_be_of_its_variants(tmp_path: Path) -> None:
    work = ModelWork(
        (ModelVariant("untuned", Artifact.of(b"p")),), Artifact.of(b"e"), EvaluatorConfig(), 1
    )

    async def run() -> None:
        async with real_fleet(tmp_path) as fleet:
            agent = FakeAgent(fleet.port, "bad")
            await agent.register()
            measuring = asyncio.create_task(fleet.fleet.measure_model("j", agent.device.kind, work))
            lease = await agent.receive()
            assert isinstance(lease, Lease)
            other = VariantResult("tuned", Status.OK, (0.5,))
            await agent.send(ModelMeasurement(lease.lease_id, (other,), circumstances(agent)))
            code, details = await agent.refusal()
            assert (code, "variants" in details) == (Code.INVALID_ARGUMENT, True)
            again = FakeAgent(fleet.port, "bad")
            await again.register()
            lease = await again.receive()
            assert isinstance(lease, Lease)
            empty = VariantResult("untuned", Status.OK)
            await again.send(ModelMeasurement(lease.lease_id, (empty,), circumstances(again)))
            code, details = await again.refusal()
            assert (code, "without its times" in details) == (Code.INVALID_ARGUMENT, True)
            assert not measuring.done()
            measuring.cancel()

    asyncio.run(run())


def test_nothing_compressed_is_taken(tmp_path: Path) -> None:
    """What a compressed message takes when it is unpacked has no limit."""

    async def run() -> None:
        async with (
            real_fleet(tmp_path) as fleet,
            grpc.aio.insecure_channel(
                f"127.0.0.1:{fleet.port}", compression=grpc.Compression.Gzip
            ) as channel,
        ):
            fetch: Any = channel.unary_stream("/tunefarm.v1.AgentGateway/FetchArtifact")
            call = fetch(bytes(1 << 20))
            assert await asyncio.wait_for(call.code(), PATIENCE_S) is Code.UNIMPLEMENTED
            assert "compress" in (await call.details()).lower()

    asyncio.run(run())


def test_heartbeats_within_bounds_are_taken(tmp_path: Path) -> None:
    async def run() -> None:
        async with real_fleet(tmp_path) as fleet:
            agent = FakeAgent(fleet.port, "hot")
            await agent.register()
            await agent.send(Heartbeat(Telemetry(temperature_c=1e12)))
            code, details = await agent.refusal()
            assert (code, "temperature_c" in details) == (Code.INVALID_ARGUMENT, True)

    asyncio.run(run())
