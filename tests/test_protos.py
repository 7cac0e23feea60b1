"""The contract: records and messages say the same, errors cross the wire, stubs are current."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import subprocess
import sys
import typing
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from protos import convert, errors, farm_pb2, farm_pb2_grpc, records, rpc

ROOT = Path(__file__).resolve().parent.parent

AT_HOME = {records.Task, records.Candidate}
"""Records that only the coordinator sees."""

ENVELOPES = {
    "Chunk",
    "AgentMessage",
    "GatewayMessage",
    "FetchArtifactRequest",
    "SubmitJobRequest",
    "JobRequest",
    "ListJobsRequest",
    "ListJobsResponse",
    "ListDeviceEventsRequest",
    "ListDeviceEventsResponse",
    "ListDevicesRequest",
    "ListDevicesResponse",
    "PredictModelRequest",
    "ControlDeviceRequest",
    "ControlDeviceResponse",
    "JobPriorityRequest",
    "EnrolRequest",
    "RenewRequest",
    "Certificate",
}
"""Messages of the RPCs themselves, which no record stands for."""


def _defined(kind: Callable[[Any], bool]) -> list[Any]:
    return [
        value
        for value in vars(records).values()
        if isinstance(value, type) and value.__module__ == records.__name__ and kind(value)
    ]


TRAVELLERS = [record for record in _defined(dataclasses.is_dataclass) if record not in AT_HOME]
ENUMS = _defined(lambda value: issubclass(value, enum.Enum))

# ------------------------------------------------------------------------------- samples

DATA = records.Artifact.of(b"\x00\xff kernel")
REFERENCE = DATA.without_data()
DEVICE = records.Device(
    name="bench-1",
    target_json='{"kind":"llvm","num-cores":2}',
    cpu_model="Cortex-A76",
    cpus=(2, 3),
    num_threads=2,
    emulated=True,
    tool_versions={"tvm": "0.27.0"},
    engine_versions={"onnxruntime": "1.31.1"},
    host="shelf",
    cpu_features=("asimd", "dotprod"),
    cache_bytes=2 << 20,
    labels={"rack": "3"},
    not_enforced=("the network",),
    builds_with={"tvm": "0.27.0"},
    board="Raspberry Pi 5 Model B Rev 1.0",
)
BARE_DEVICE = records.Device("d", "{}", "", (), 1)
EVALUATOR = records.EvaluatorConfig(3, 7, 20, 2.5, 4.0, True, 30, 100, 1.05, 0.02, 8, 0.1)
TELEMETRY = records.Telemetry(61.5, 2400.0, "performance", 0.25, "0x50000")
COLD = records.Telemetry(temperature_c=0.0, governor="", load_1m=0.0)
TENSOR = records.TensorSpec((1, 3, 48, 192), "float32")
SCALAR = records.TensorSpec((), "int64")
CIRCUMSTANCES = records.Circumstances(
    device="bench-1",
    tool_versions={"tvm": "0.27.0"},
    evaluator=EVALUATOR,
    num_threads=2,
    cpus=(2, 3),
    emulated=True,
    before=TELEMETRY,
    after=COLD,
    lock_wait_s=0.125,
    busy_s=1.5,
    load_s=0.25,
    check_s=0.5,
    time_s=0.75,
    canary_ratio=1.25,
)
BARE_CIRCUMSTANCES = records.Circumstances(
    "d", {}, records.EvaluatorConfig(), 1, (), False, records.Telemetry(), records.Telemetry()
)
KERNEL = records.KernelWork(
    workload_key="w",
    args=(TENSOR, SCALAR),
    num_outputs=1,
    input_seed=2**40,
    reference=REFERENCE,
    evaluator=EVALUATOR,
    trials=(records.Trial("c1", DATA), records.Trial("c2", REFERENCE)),
    best_us=12.5,
    canary=REFERENCE,
    pacemaker=DATA,
)
BARE_KERNEL = records.KernelWork("w", (), 0, 0, REFERENCE, records.EvaluatorConfig(), ())
MODEL = records.ModelWork(
    variants=(records.ModelVariant("tuned", DATA),),
    examples=REFERENCE,
    evaluator=EVALUATOR,
    num_threads=2,
    time_parts=True,
)
BUILD = records.Build("c1", "[[], []]")
BUILDS = records.BuildWork("w", '{"root":1}', (BUILD, records.Build("c2", "")), 60.0)
OUTPUT = records.OutputError("y", 0.75, 0.5)
VARIANT = records.VariantResult(
    *("tuned", records.MeasurementStatus.WRONG_OUTPUT, (0.25, 0.5), "differs", 0.75, 0.5, "y"),
    outputs=(OUTPUT,),
    resident_bytes=2**33,
    part_s=(0.125, 0.25),
)
SPEC = records.JobSpec(
    model_name="cls",
    model_sha256="ab" * 32,
    target_json="{}",
    trials=900,
    shapes={"x": records.Shape((1, 3, 48, 192))},
    time_limit_s=240.0,
    seed=-7,
    cold_cache=True,
    target_latency_ms=20.0,
    flat_share=0.01,
    direct_convolutions=True,
    canary_drift=0.5,
    project="vision",
    submitted_by="ada",
    priority=records.Priority.HIGH,
    devices=("bench-1", "1a2b3c4d"),
    where=("rack=3",),
    exclusive=True,
    targets=("{}", "[]"),
)
BARE_SPEC = records.JobSpec("m", "", "{}", 0)
RANKING = records.RankingQuality(0.75, 0.5, 1.0, 8)
ENGINE = records.EngineResult("openvino", "1", 3.0, 2.5, 3.5, 1e-6, 1e-5, "odd")
REGION = records.RegionResult(
    "Conv (a)", "Relu (b)", "openvino", {"openvino": 1.5}, {"openvino": 1.25}
)
THREADS = records.ThreadResult("mixed", 2, 1.5, 1.25, 1.75, 2**33)
RESULT = records.ModelResult(
    *(90.0, 3.5, 1e-6, 1e-5, "cls-1.whl", "cd" * 32, 2**33, 3.25, 3.75, (ENGINE,), "openvino"),
    left_to_engine=("LSTM (node 'l')",),
    mixed_ms=2.75,
    regions=(REGION,),
    threads=(THREADS,),
    outputs=(OUTPUT,),
    weights_bytes=2**34,
    workspace_bytes=2**35,
    labels={"watts": "7.5"},
    operators={"w": 4},
)
PROGRESS = records.TaskProgress("conv2d", "w", 4, 250.0, 12.5, 64, 12.25, 12.75, 2, 1e6, 2**33)
LIMITS = records.DeviceLimits("bench-1", 100.0, 10.0, 50.0, 2**33)
PAST = records.HistoryRecord(
    *(1.7e9, "w", "c1", records.MeasurementStatus.CRASHED, 12.5, 0.25, "bench-1", True, True)
)
HISTORY = records.History((PAST, PAST), {"w": 12.5}, "kind")
PREDICTED = records.PredictedOperator("Conv (node 'c')", "dense", 12.5, True)
PREDICTION = records.Prediction(
    *(2.0, 1.5, 2.5, 0.9, records.PredictionSource.PREDICTED, "kind", "j1", (PREDICTED,), 309, 8)
)
BARE_MEASUREMENT = records.Measurement("", "", records.MeasurementStatus.OK)
JOB = records.Job(
    job_id="j1",
    spec=SPEC,
    state=records.JobState.FAILED,
    stage="tuning",
    error="no device",
    trials=records.TrialCounts(10, 7, 3, 2),
    tasks=(PROGRESS, records.TaskProgress("t", "w2", 1)),
    ranking=RANKING,
    elapsed_s=1.5,
    remaining_s=200.0,
    result=RESULT,
    submitted_at=1.7e9,
    stage_s={"build": 12.5},
    tuning_ended="all trials were made",
    parent_id="j0",
    parts=(records.Job("j1.1", BARE_SPEC, records.JobState.QUEUED, parent_id="j1"),),
)

FULL: list[Any] = [
    DEVICE,
    records.DeviceStatus(DEVICE, records.DeviceState.BUSY, "kind", 2**40, "lost twice", 1e-3, 2e-3),
    DATA,
    TENSOR,
    EVALUATOR,
    records.Trial("c1", DATA),
    KERNEL,
    records.ModelVariant("tuned", DATA),
    MODEL,
    records.Lease("l1", "j1", 30.5, kernel=KERNEL),
    records.Lease("l1", "j1", 30.5, model=MODEL),
    BUILD,
    BUILDS,
    records.Lease("l1", "j1", 30.5, build=BUILDS),
    records.Built("l1", "c1", records.MeasurementStatus.BUILD_ERROR, "no such loop"),
    records.Built("l1", "c1", records.MeasurementStatus.OK, "", DATA),
    TELEMETRY,
    CIRCUMSTANCES,
    records.Measurement(
        workload_key="w",
        candidate_key="c1",
        status=records.MeasurementStatus.DEVICE_LOST,
        lease_id="l1",
        artifact_sha256=DATA.sha256,
        repeats_s=(1e-5, 2e-5),
        error="SIGSEGV",
        max_abs_error=1e-7,
        circumstances=CIRCUMSTANCES,
    ),
    OUTPUT,
    VARIANT,
    records.ModelMeasurement("l1", (VARIANT,), CIRCUMSTANCES),
    records.Registration(records.PROTOCOL_VERSION, DEVICE, "i1", restartable=True),
    records.Heartbeat(TELEMETRY),
    records.LeaseFinished("l1", "no such artifact", 1.25, 1e-3),
    records.Goodbye(),
    records.DeviceEvent("d1", "restart", "its agent was told to restart", 1.7e9),
    records.Registered("s1", 2.5),
    records.Acknowledgement("l1", "c1"),
    records.CancelLease("l1"),
    records.RestartAgent("its canary failed"),
    records.Shape((1, -1)),
    SPEC,
    records.TrialCounts(10, 7, 3, 2),
    PROGRESS,
    RANKING,
    ENGINE,
    REGION,
    THREADS,
    RESULT,
    JOB,
    PAST,
    HISTORY,
    LIMITS,
    records.JobMeasurements(HISTORY, LIMITS),
    records.PredictionSpec("bench-1", {"x": records.Shape((1, 3, 48, 192))}),
    PREDICTED,
    PREDICTION,
]

MINIMAL: list[Any] = [
    BARE_DEVICE,
    records.DeviceStatus(BARE_DEVICE, records.DeviceState.IDLE, ""),
    records.Artifact("", 0),
    SCALAR,
    records.EvaluatorConfig(0, 0, 0, 0.0, 0.0, cold_cache=False),
    records.Trial("", REFERENCE),
    BARE_KERNEL,
    records.ModelVariant("", REFERENCE),
    records.ModelWork((), REFERENCE, records.EvaluatorConfig(), 0),
    records.Build("", ""),
    records.BuildWork("", "", (), 0.0),
    records.Built("", "", records.MeasurementStatus.OK),
    records.Lease("l1", "", 0.0),
    records.Telemetry(),
    COLD,
    BARE_CIRCUMSTANCES,
    BARE_MEASUREMENT,
    records.OutputError(""),
    records.VariantResult("", records.MeasurementStatus.OK),
    records.EngineResult("", ""),
    records.RegionResult("", "", ""),
    records.ThreadResult("", 0, 0.0),
    records.ModelMeasurement("", (), BARE_CIRCUMSTANCES),
    records.Registration(0, BARE_DEVICE),
    records.Heartbeat(records.Telemetry()),
    records.LeaseFinished(""),
    records.Goodbye(),
    records.DeviceEvent("", "", "", 0.0),
    records.Registered("", 0.0),
    records.Acknowledgement(""),
    records.CancelLease(""),
    records.RestartAgent(""),
    records.Shape(()),
    BARE_SPEC,
    dataclasses.replace(BARE_SPEC, time_limit_s=0.0),
    records.TrialCounts(),
    records.TaskProgress("", "", 0),
    records.RankingQuality(0.0, 0.0, 0.0, 0),
    records.ModelResult(0.0, 0.0, 0.0, 0.0, "", "", 0),
    records.Job("", BARE_SPEC, records.JobState.QUEUED),
    records.HistoryRecord(0.0, "", "", records.MeasurementStatus.OK),
    records.History(),
    records.DeviceLimits("", 0.0, 0.0, 0.0),
    records.JobMeasurements(records.History()),
    records.PredictionSpec(),
    records.PredictedOperator("", "", 0.0),
    records.Prediction(0.0, 0.0, 0.0, 0.0, records.PredictionSource.MEASURED, ""),
]


def _name(value: Any) -> str:
    return type(value).__name__ if dataclasses.is_dataclass(value) else str(value)


# ------------------------------------------------------------------------------- names


@pytest.mark.parametrize("record", TRAVELLERS, ids=lambda record: record.__name__)
def test_a_message_has_its_records_fields(record: type) -> None:
    descriptor: Any = convert.message_type(record).DESCRIPTOR
    fields = {field.name for field in dataclasses.fields(typing.cast(Any, record))}
    assert {field.name for field in descriptor.fields} == fields


def test_every_message_is_a_record_or_an_envelope() -> None:
    messages = set(farm_pb2.DESCRIPTOR.message_types_by_name)
    assert messages == {record.__name__ for record in TRAVELLERS} | ENVELOPES


def test_what_stays_at_home_has_no_message() -> None:
    for record in AT_HOME:
        with pytest.raises(AttributeError):
            convert.message_type(record)


@pytest.mark.parametrize("kind", ENUMS, ids=lambda kind: kind.__name__)
def test_enums_say_the_same(kind: type[enum.IntEnum]) -> None:
    in_proto: dict[str, int] = dict(getattr(farm_pb2, kind.__name__).items())
    unspecified = next(name for name, number in in_proto.items() if number == 0)
    prefix = unspecified.removesuffix("UNSPECIFIED")
    assert prefix.replace("_", "").lower() == kind.__name__.lower()
    in_records = {prefix + member.name: member.value for member in kind}
    assert in_proto == {unspecified: 0} | in_records


def test_every_proto_enum_has_a_record_enum() -> None:
    assert set(farm_pb2.DESCRIPTOR.enum_types_by_name) == {kind.__name__ for kind in ENUMS}


# ------------------------------------------------------------------------------- there and back


def _over_the_wire(message: Message) -> Message:
    return type(message).FromString(message.SerializeToString())


@pytest.mark.parametrize("record", FULL + MINIMAL, ids=_name)
def test_a_record_comes_back_as_it_went(record: Any) -> None:
    back = convert.from_message(_over_the_wire(convert.to_message(record)), type(record))
    assert back == record
    assert repr(back) == repr(record)  # types too: an enum is no number, a tuple no list


@pytest.mark.parametrize("record", TRAVELLERS, ids=lambda record: record.__name__)
def test_the_samples_are_full_and_minimal(record: type) -> None:
    assert any(type(sample) is record for sample in MINIMAL)
    full = [sample for sample in FULL if type(sample) is record]
    for field in dataclasses.fields(typing.cast(Any, record)):
        assert any(getattr(sample, field.name) for sample in full), field.name


def test_maps_and_lists_keep_all_their_items() -> None:
    device = dataclasses.replace(
        DEVICE, tool_versions={"b": "2", "a": "1", "c": ""}, cpus=(3, 1, 3)
    )
    assert convert.from_message(convert.to_message(device), records.Device) == device


def test_every_enum_value_travels() -> None:
    for status in records.MeasurementStatus:
        sent = records.Measurement("w", "c", status)
        assert convert.from_message(convert.to_message(sent), records.Measurement).status is status


AGENT_SAYS = [
    records.Registration(records.PROTOCOL_VERSION, DEVICE),
    records.Heartbeat(TELEMETRY),
    records.Measurement("w", "c", records.MeasurementStatus.OK),
    records.ModelMeasurement("l1", (VARIANT,), CIRCUMSTANCES),
    records.Built("l1", "c", records.MeasurementStatus.OK, "", DATA),
    records.LeaseFinished("l1"),
    records.Goodbye(),
]
GATEWAY_SAYS = [
    records.Registered("s1", 2.5),
    records.Lease("l1", "j1", 30.0, kernel=KERNEL),
    records.Lease("l1", "j1", 30.0, model=MODEL),
    records.Lease("l1", "j1", 30.0, build=BUILDS),
    records.Acknowledgement("l1"),
    records.CancelLease("l1"),
    records.RestartAgent("its canary failed"),
]


@pytest.mark.parametrize("record", AGENT_SAYS, ids=_name)
def test_what_an_agent_says(record: Any) -> None:
    message = farm_pb2.AgentMessage.FromString(convert.to_agent_message(record).SerializeToString())
    assert convert.from_agent_message(message) == record


@pytest.mark.parametrize("record", GATEWAY_SAYS, ids=_name)
def test_what_the_gateway_says(record: Any) -> None:
    message = farm_pb2.GatewayMessage.FromString(
        convert.to_gateway_message(record).SerializeToString()
    )
    assert convert.from_gateway_message(message) == record


def test_every_kind_of_envelope_is_tried() -> None:
    for envelope, said in (
        (farm_pb2.AgentMessage, AGENT_SAYS),
        (farm_pb2.GatewayMessage, GATEWAY_SAYS),
    ):
        kinds = {field.message_type.name for field in envelope.DESCRIPTOR.fields}
        assert kinds == {type(record).__name__ for record in said}


# ------------------------------------------------------------------------------- refusals


def _without(record: Any, field: str) -> Any:
    message = convert.to_message(record)
    message.ClearField(field)
    return message


@pytest.mark.parametrize(
    ("message", "record_type", "complaint"),
    [
        (_without(BARE_MEASUREMENT, "status"), records.Measurement, "Measurement.status = 0"),
        (farm_pb2.Measurement(status=77), records.Measurement, "Measurement.status = 77"),
        (_without(JOB, "state"), records.Job, "Job.state = 0"),
        (_without(JOB, "spec"), records.Job, "Job.spec is missing"),
        (farm_pb2.Registration(protocol_version=1), records.Registration, "Registration.device"),
        (farm_pb2.Heartbeat(), records.Heartbeat, "Heartbeat.telemetry is missing"),
        (_without(KERNEL, "reference"), records.KernelWork, "KernelWork.reference is missing"),
        (_without(CIRCUMSTANCES, "before"), records.Circumstances, "Circumstances.before"),
        (
            farm_pb2.KernelWork(
                reference=convert.to_message(REFERENCE),
                evaluator=convert.to_message(EVALUATOR),
                trials=[farm_pb2.Trial(candidate_key="c")],
            ),
            records.KernelWork,
            "Trial.artifact is missing",
        ),
    ],
)
def test_a_malformed_message_is_refused(
    message: Message, record_type: type, complaint: str
) -> None:
    with pytest.raises(errors.ProtocolViolation, match=complaint):
        convert.from_message(message, record_type)


def test_an_empty_envelope_is_refused() -> None:
    with pytest.raises(errors.ProtocolViolation, match="empty AgentMessage"):
        convert.from_agent_message(farm_pb2.AgentMessage())
    with pytest.raises(errors.ProtocolViolation, match="empty GatewayMessage"):
        convert.from_gateway_message(farm_pb2.GatewayMessage())


def test_a_lease_without_work_is_refused() -> None:
    message = convert.to_gateway_message(records.Lease("l1", "j1", 30.0))
    with pytest.raises(errors.ProtocolViolation, match="lease l1"):
        convert.from_gateway_message(message)


# ------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    "address", ["127.0.0.1:7411", "127.9.9.9:1", "localhost:65535", "[::1]:7411", "127.0.0.1:0"]
)
def test_loopback_addresses_are_taken(address: str) -> None:
    assert rpc.check_plain(address) == address
    assert rpc.parse_address(address).loopback


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("", "is not HOST:PORT"),
        ("127.0.0.1", "is not HOST:PORT"),
        ("127.0.0.1:", "is not HOST:PORT"),
        ("127.0.0.1:http", "is not HOST:PORT"),
        ("127.0.0.1:-1", "is not HOST:PORT"),
        ("127.0.0.1:65536", "is not HOST:PORT"),
        ("unix:/tmp/socket", "is not HOST:PORT"),
        (":7411", "is not HOST:PORT"),
        ("0.0.0.0:7411", "not a loopback"),
        ("[::]:7411", "not a loopback"),
        ("10.0.0.1:7411", "not a loopback"),
        ("farm.example.org:7411", "not a loopback"),
        ("localhost.example.org:7411", "not a loopback"),
        ("127.0.0.1.example.org:7411", "not a loopback"),
    ],
)
def test_other_addresses_are_refused(address: str, complaint: str) -> None:
    with pytest.raises(errors.BadRequest, match=complaint):
        rpc.check_plain(address)
    with pytest.raises(errors.BadRequest, match=r"HOST:PORT|takes mutual TLS"):
        rpc.channel(address)


# ------------------------------------------------------------------------------- errors


def _subclasses(kind: type) -> Iterator[type]:
    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)


FARM_ERRORS = [kind for kind in _subclasses(errors.FarmError) if kind.__module__ == errors.__name__]


def test_every_error_has_a_status_code() -> None:
    assert set(rpc.STATUS_CODES) == set(FARM_ERRORS)
    assert grpc.StatusCode.OK not in rpc.STATUS_CODES.values()
    assert grpc.StatusCode.UNKNOWN not in rpc.STATUS_CODES.values()


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = (errors.__doc__ or "").replace("│", " ").split()
    for kind in FARM_ERRORS:
        assert kind.__name__ in drawn


class RefusingFarm(farm_pb2_grpc.FarmServicer):
    """Raises the FarmError whose name it is asked for."""

    def _refuse(self, name: str) -> None:
        raise getattr(errors, name)(f"refused with {name}")

    @rpc.aborts
    async def GetJob(self, request: Any, context: Any) -> farm_pb2.Job:  # noqa: N802
        if request.job_id:
            self._refuse(request.job_id)
        return farm_pb2.Job(job_id="fine")

    @rpc.stream_aborts
    async def WatchJob(self, request: Any, context: Any) -> AsyncIterator[farm_pb2.Job]:  # noqa: N802
        yield farm_pb2.Job(job_id="first")
        if request.job_id:
            self._refuse(request.job_id)


def _with_refusing_farm(client: Callable[[farm_pb2_grpc.FarmStub, str], None]) -> None:
    """Run a blocking client against a real server."""

    def call(address: str) -> None:
        with rpc.channel(address) as channel:
            client(farm_pb2_grpc.FarmStub(channel), address)

    async def serve() -> None:
        server = grpc.aio.server(options=list(rpc.SERVER_OPTIONS))
        farm_pb2_grpc.add_FarmServicer_to_server(RefusingFarm(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            await asyncio.to_thread(call, f"127.0.0.1:{port}")
        finally:
            await server.stop(grace=None)

    asyncio.run(serve())


def _ask(stub: farm_pb2_grpc.FarmStub, job_id: str) -> farm_pb2.Job:
    return stub.GetJob(farm_pb2.JobRequest(job_id=job_id), timeout=10)


def test_not_found_crosses_the_wire() -> None:
    def client(stub: farm_pb2_grpc.FarmStub, address: str) -> None:
        with pytest.raises(grpc.RpcError) as raw:
            _ask(stub, "NotFound")
        assert raw.value.code() is grpc.StatusCode.NOT_FOUND
        assert raw.value.details() == "refused with NotFound"
        with (
            pytest.raises(errors.NotFound, match=r"^refused with NotFound$"),
            rpc.client_errors("get job", address),
        ):
            _ask(stub, "NotFound")
        with rpc.client_errors("get job", address):
            assert _ask(stub, "").job_id == "fine"

    _with_refusing_farm(client)


def test_every_error_crosses_the_wire() -> None:
    def client(stub: farm_pb2_grpc.FarmStub, address: str) -> None:
        for kind in FARM_ERRORS:
            with (
                pytest.raises(errors.FarmError, match=f"refused with {kind.__name__}") as caught,
                rpc.client_errors("get job", address),
            ):
                _ask(stub, kind.__name__)
            # The client's is the same or its nearest relation with that status code.
            assert rpc.STATUS_CODES[type(caught.value)] is rpc.STATUS_CODES[kind]

    _with_refusing_farm(client)


def test_a_stream_that_is_refused_keeps_what_came_before() -> None:
    def client(stub: farm_pb2_grpc.FarmStub, address: str) -> None:
        seen = []
        with pytest.raises(errors.Conflict), rpc.client_errors("watch job", address):
            for job in stub.WatchJob(farm_pb2.JobRequest(job_id="Conflict"), timeout=10):
                seen.append(job.job_id)
        assert seen == ["first"]

    _with_refusing_farm(client)


def test_no_coordinator_is_unavailable_and_says_where() -> None:
    address = "127.0.0.1:1"
    with (
        rpc.channel(address) as channel,
        pytest.raises(errors.Unavailable, match=rf"get job: no coordinator answers at {address}"),
        rpc.client_errors("get job", address),
    ):
        _ask(farm_pb2_grpc.FarmStub(channel), "j1")


# ------------------------------------------------------------------------------- stubs


def test_generated_stubs_are_current() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "protos.generate", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("shape", "dtype", "size"),
    [
        ((3, 5), "float32", 60),
        ((7,), "int8", 7),
        ((7,), "bool", 7),
        ((3,), "int4", 2),
        ((), "float64", 8),
    ],
)
def test_what_a_tensors_elements_take(shape: tuple[int, ...], dtype: str, size: int) -> None:
    assert records.TensorSpec(shape, dtype).size_bytes == size
