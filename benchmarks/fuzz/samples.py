"""Valid messages of every kind that a farm's ports take: what is mutated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from google.protobuf.message import Message

from benchmarks.fuzz.generated import generated
from protos import convert, farm_pb2
from protos.certificates import new_key, signing_request
from protos.records import (
    CANARY_ARGS,
    PROTOCOL_VERSION,
    Acknowledgement,
    Artifact,
    Build,
    BuildWork,
    Built,
    CancelLease,
    Circumstances,
    Device,
    EvaluatorConfig,
    Goodbye,
    Heartbeat,
    JobSpec,
    KernelWork,
    Lease,
    LeaseFinished,
    Measurement,
    MeasurementStatus,
    ModelMeasurement,
    ModelVariant,
    ModelWork,
    OutputError,
    PredictionSpec,
    Priority,
    Registered,
    Registration,
    RestartAgent,
    Telemetry,
    TensorSpec,
    Trial,
    VariantResult,
)

NO_DEVICE_TARGET = '{"kind":"llvm","num-cores":63}'
"""Of jobs that are never begun, as no device has it."""

TELEMETRY = Telemetry(61.5, 2400.0, "performance", 0.25, "0x50000")
ARTIFACT = Artifact.of(b"an artifact")
LARGE = Artifact.of(bytes(300_000))
ARGS = (TensorSpec((4,), "float32"),) * 2


def fake_device(name: str, target: str) -> Device:
    """What a fake agent says it is: of a kind that no real device has."""
    return Device(
        *(name, target, "a CPU of the fuzzer", (0,), 1),
        emulated=True,
        tool_versions={"fuzzer": "1"},
        engine_versions={"onnxruntime": "1"},
        host="fuzzer",
        cpu_features=("avx2",),
        labels={"rack": "3"},
    )


def measurement(device: Device, lease_id: str, workload: str, trial: Trial) -> Measurement:
    """What a device answers that has measured this trial."""
    latency_s = (int(trial.artifact.sha256[:8] or "1", 16) % 1000 + 500) * 1e-8
    return Measurement(
        *(workload, trial.candidate_key, MeasurementStatus.OK, lease_id, trial.artifact.sha256),
        repeats_s=(latency_s,) * 6,
        circumstances=Circumstances(
            *(device.name, device.tool_versions, EvaluatorConfig(), 1, (0,), device.emulated),
            *(TELEMETRY, TELEMETRY),
            busy_s=0.01,
            canary_ratio=1.0,
        ),
    )


def agents_messages(device: Device, lease_id: str) -> list[Message]:
    """What an agent says."""
    answer = measurement(device, lease_id, "w" * 64, Trial("c" * 64, ARTIFACT))
    assert answer.circumstances is not None
    variant = VariantResult(
        *("tuned-0", MeasurementStatus.OK, (0.25, 0.5), "", 1e-6, 1e-6, ""),
        outputs=(OutputError("y", 1e-6, 1e-6),),
    )
    said: list[Any] = [
        Registration(PROTOCOL_VERSION, device),
        Heartbeat(TELEMETRY),
        answer,
        replace(answer, status=MeasurementStatus.CRASHED, repeats_s=(), error="SIGSEGV"),
        ModelMeasurement(lease_id, (variant,), answer.circumstances),
        Built(lease_id, "c" * 64, MeasurementStatus.OK, "", ARTIFACT),
        Built(lease_id, "c" * 64, MeasurementStatus.BUILD_ERROR, "no such loop"),
        LeaseFinished(lease_id, "", 1.0),
        LeaseFinished(lease_id, "no such artifact"),
        Goodbye(),
    ]
    return [convert.to_agent_message(record) for record in said]


def leases(lease_id: str) -> list[Lease]:
    """What a coordinator gives an agent."""
    kernel = KernelWork(
        *("w" * 64, ARGS, 1, 7, ARTIFACT, EvaluatorConfig(repeat=3, timeout_s=2.0)),
        trials=(Trial("c" * 64, ARTIFACT), Trial("d" * 64, LARGE.without_data())),
        best_us=12.5,
    )
    model = ModelWork(
        (ModelVariant("tuned-0", LARGE.without_data()),), ARTIFACT, EvaluatorConfig(), 1
    )
    builds = BuildWork("w" * 64, '{"root":1}', (Build("c" * 64, ""),), 60.0)
    watched = replace(kernel, canary=ARTIFACT, pacemaker=ARTIFACT, args=CANARY_ARGS * 2)
    return [
        Lease(lease_id, "j-1", 60.0, kernel=kernel),
        Lease(lease_id, "j-1", 60.0, kernel=watched),
        Lease(lease_id, "j-1", 60.0, model=model),
        Lease(lease_id, "j-1", 60.0, build=builds),
    ]


def gateways_messages(lease_id: str) -> list[Message]:
    """What a coordinator says to an agent."""
    said: list[Any] = [
        *leases(lease_id),
        Registered("a session", 2.0),
        Acknowledgement(lease_id, "c" * 64),
        Acknowledgement(lease_id),
        CancelLease(lease_id),
        RestartAgent("it failed"),
    ]
    return [convert.to_gateway_message(record) for record in said]


@dataclass(frozen=True)
class Call:
    """A method that is called with one of these messages, mutated; or, where it ``streams``, with
    all of them, one of which is."""

    method: str
    valid: list[Message]
    streams: bool = False
    answers: bool = False  # with several messages


def farm_calls(job_id: str, device: str, model: bytes) -> list[Call]:
    """What clients ask. ``job_id`` and ``device`` are some that nobody needs."""
    spec = JobSpec(
        *("fuzzed", "", NO_DEVICE_TARGET, 4),
        time_limit_s=10.0,
        submitted_by="fuzzer",
    )
    prediction = PredictionSpec(device)
    job = farm_pb2.JobRequest(job_id=job_id)
    farm = "/tunefarm.v1.Farm/"
    priority = farm_pb2.JobPriorityRequest(job_id=job_id)
    priority.priority = Priority.LOW  # type: ignore[assignment]
    drain = farm_pb2.ControlDeviceRequest(device=device, reason="fuzzed")
    drain.action = 1  # type: ignore[assignment]
    return [
        Call(
            farm + "SubmitJob",
            [
                farm_pb2.SubmitJobRequest(spec=convert.to_message(spec)),
                farm_pb2.SubmitJobRequest(model_chunk=model),
            ],
            streams=True,
        ),
        Call(
            farm + "PredictModel",
            [
                farm_pb2.PredictModelRequest(spec=convert.to_message(prediction)),
                farm_pb2.PredictModelRequest(model_chunk=model),
            ],
            streams=True,
        ),
        *(Call(farm + name, [job]) for name in ("GetJob", "CancelJob", "PauseJob", "ResumeJob")),
        *(
            Call(farm + name, [job], answers=True)
            for name in ("WatchJob", "FetchPackage", "FetchMeasurements")
        ),
        Call(farm + "ListJobs", [farm_pb2.ListJobsRequest(limit=2, project="default")]),
        Call(farm + "SetJobPriority", [priority]),
        Call(farm + "ListDevices", [farm_pb2.ListDevicesRequest()]),
        Call(farm + "ListDeviceEvents", [farm_pb2.ListDeviceEventsRequest(device=device)]),
        Call(farm + "ControlDevice", [drain]),
        Call(
            "/tunefarm.v1.AgentGateway/FetchArtifact",
            [farm_pb2.FetchArtifactRequest(sha256=ARTIFACT.sha256)],
            answers=True,
        ),
    ]


def enrolment_call() -> Call:
    """Asks for a certificate, with a secret that was never given."""
    request = farm_pb2.EnrolRequest(secret=bytes(32), signing_request=signing_request(new_key()))
    return Call("/tunefarm.v1.Enrolment/Enrol", [request])


def renewal_call() -> Call:
    """Asks for another certificate."""
    request = farm_pb2.RenewRequest(signing_request=signing_request(new_key()))
    return Call("/tunefarm.v1.Certificates/Renew", [request])


class Pool:
    """Messages to mutate: those that are valid, and those that Hypothesis made of them."""

    def __init__(self, valid: list[Message], count: int, seed: int) -> None:
        self.valid = [message.SerializeToString() for message in valid]
        self.generated = generated(valid, count, seed)
