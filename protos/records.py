"""The values that cross folders: frozen, comparable, with their units in their names.

Each record that travels has a message of the same name and the same field names in ``farm.proto``;
``convert`` goes between the two.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import json
import math
import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from .errors import BadRequest
from .labels import check_labels

PROTOCOL_VERSION = 3
"""Raised when an agent of the previous version could misread this coordinator."""

CHUNK_BYTES = 1 << 20
"""Size of a piece of a streamed model, artifact or package."""

MAX_INLINE_BYTES = 256 << 10
"""A larger artifact does not travel inside a lease; the agent fetches it."""

MAX_MODEL_BYTES = 2 << 30
"""The largest model file or artifact a farm accepts (protobuf's own limit for an ONNX file)."""


def sha256_hex(data: bytes) -> str:
    """The name of a model, an artifact or a package."""
    return hashlib.sha256(data).hexdigest()


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def canonical_json(value: object) -> str:
    """One text per value: sorted keys, no white space."""
    return _canonical.encode(value)


# ------------------------------------------------------------------------------- devices


@dataclass(frozen=True)
class Device:
    """What an agent says about the device it stands for.

    ``cache_bytes`` is the last-level cache of its CPUs, 0 if the system does not say.
    ``labels`` are its owner's; raises BadRequest for those that ``labels.check_labels`` refuses.
    ``not_enforced`` is what its system does not keep kernels from, for people.
    ``builds_with`` are the versions of the compiler with which it builds its own kernels, empty if
    it builds none. ``board`` is the model of a single-board computer, empty for everything else.
    """

    name: str
    target_json: str
    cpu_model: str
    cpus: tuple[int, ...]
    num_threads: int
    emulated: bool = False
    tool_versions: Mapping[str, str] = field(default_factory=dict)
    engine_versions: Mapping[str, str] = field(default_factory=dict)
    host: str = ""
    cpu_features: tuple[str, ...] = ()
    cache_bytes: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    not_enforced: tuple[str, ...] = ()
    builds_with: Mapping[str, str] = field(default_factory=dict)
    board: str = ""

    def __post_init__(self) -> None:
        check_labels(self.labels)

    @functools.cached_property
    def kind(self) -> str:
        """Devices of one kind answer for each other: same target, CPU and board, both real or
        neither. A board that is what the CPU is called adds nothing (decision 34)."""
        made_of: list[object] = [self.target_json, self.cpu_model, self.emulated]
        if self.board not in ("", self.cpu_model):
            made_of.append(self.board)
        return sha256_hex(canonical_json(made_of).encode())[:16]


class DeviceState(enum.IntEnum):
    """What a device does now."""

    IDLE = 1
    BUSY = 2
    GONE = 3
    SET_ASIDE = 4
    DRAINED = 5
    QUARANTINED = 6


class DeviceAction(enum.IntEnum):
    """What people do with a device; farm.proto says what each means."""

    DRAIN = 1
    QUARANTINE = 2
    RESUME = 3
    FORGET = 4


@dataclass(frozen=True)
class DeviceEvent:
    """What happened to a device that failed, or was done about it; ``happened_at`` is in seconds
    since 1970 by the log's clock."""

    device: str
    step: str
    text: str
    happened_at: float


@dataclass(frozen=True)
class DeviceStatus:
    """A device as the fleet sees it. ``canary_s`` is what its canary takes, ``siblings_s``
    what it takes on devices of its kind: the median, or of two what it takes on the other. None
    where that is not known."""

    device: Device
    state: DeviceState
    kind: str
    measurements: int = 0
    last_error: str = ""
    canary_s: float | None = None
    siblings_s: float | None = None


# ------------------------------------------------------------------------------- work


@dataclass(frozen=True)
class Artifact:
    """Bytes with their SHA-256; ``data`` may be empty where only the name is meant."""

    sha256: str
    size_bytes: int
    data: bytes = field(default=b"", repr=False)

    @staticmethod
    def of(data: bytes) -> Artifact:
        """The artifact that these bytes are."""
        return Artifact(sha256_hex(data), len(data), data)

    def without_data(self) -> Artifact:
        """The reference alone."""
        return Artifact(self.sha256, self.size_bytes)


@dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype (NumPy's name) of one parameter of a kernel."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size_bytes(self) -> int:
        """What its elements take."""
        bits = re.search(r"\d+$", self.dtype)
        return (math.prod(self.shape) * (int(bits[0]) if bits else 8) + 7) // 8


CANARY_ARGS = (TensorSpec((256, 32), "float32"),)
"""The parameters of every canary: no inputs, and one output with a row for each thread it uses.

It is a kernel like any other: ``main`` of an object file, the same output at every run. Its time
is what the device is watched by, so it keeps each of the device's threads busy for a millisecond or
two and touches no memory to speak of.
"""


@dataclass(frozen=True)
class EvaluatorConfig:
    """The policy of timing, one immutable value, recorded with every measurement.

    Every candidate that is not hopeless is sampled ``repeat`` times, a sample being ``number`` runs
    or as many as take ``min_repeat_ms``. A contender, one whose least sample lies below
    ``contender_ratio`` times the task's best, is sampled on until the confidence interval of its
    median is narrower than ``precision`` times the median, ``max_repeat`` samples are there, or
    ``max_timing_ms`` have gone into them (0: no limit of time). With ``max_repeat`` at 0 nothing is
    sampled on. A candidate that looks hopeless, or like no contender, is believed when it did so in
    ``looks`` of its turns; between them are those of the other candidates of its lease.

    A canary runs before the first measurement and after every ``canary_every``; when it is off its
    reference by more than the share ``canary_drift``, the measurements since the last good one are
    SUSPECT, and so are those that were made while a lease's pacemaker stayed off by more than that.
    Raises BadRequest for numbers that are negative or not finite.
    """

    number: int = 1
    repeat: int = 5
    min_repeat_ms: int = 3
    timeout_s: float = 10.0
    hopeless_ratio: float = 5.0
    cold_cache: bool = False
    max_repeat: int = 0
    max_timing_ms: int = 0
    contender_ratio: float = 0.0
    precision: float = 0.0
    canary_every: int = 0
    canary_drift: float = 0.0
    looks: int = 1

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not math.isfinite(value) or value < 0:
                raise BadRequest(
                    f"the evaluator's {item.name} is {value}; it must be 0 or a positive number"
                )

    def drifts(self, canary_ratio: float) -> bool:
        """Whether a canary that took this many times its reference makes a device doubtful."""
        return not abs(canary_ratio - 1.0) <= self.canary_drift


@dataclass(frozen=True)
class Trial:
    """One candidate to be measured, as its built artifact."""

    candidate_key: str
    artifact: Artifact


@dataclass(frozen=True)
class KernelWork:
    """Check and time several candidates of one workload; ``canary`` is as CANARY_ARGS says.

    ``pacemaker`` is the best program of the workload so far: whether the device is slowed down is
    seen by it.
    """

    workload_key: str
    args: tuple[TensorSpec, ...]
    num_outputs: int
    input_seed: int
    reference: Artifact
    evaluator: EvaluatorConfig
    trials: tuple[Trial, ...]
    best_us: float = 0.0
    canary: Artifact | None = None
    pacemaker: Artifact | None = None


@dataclass(frozen=True)
class Build:
    """A candidate to compile."""

    candidate_key: str
    trace_json: str = field(repr=False)


@dataclass(frozen=True)
class BuildWork:
    """Compile candidates of one workload for the device's own target; each may take
    ``timeout_s``."""

    workload_key: str
    workload_json: str = field(repr=False)
    builds: tuple[Build, ...]
    timeout_s: float


@dataclass(frozen=True)
class ModelVariant:
    """One way to run the whole model, as a package."""

    name: str
    artifact: Artifact


@dataclass(frozen=True)
class ModelWork:
    """Check and time variants of a whole model in turn, in one run; and, with ``time_parts``, each
    part of each variant."""

    variants: tuple[ModelVariant, ...]
    examples: Artifact
    evaluator: EvaluatorConfig
    num_threads: int
    time_parts: bool = False


@dataclass(frozen=True)
class Lease:
    """Work that one agent holds for a time. Exactly one of ``kernel``, ``model`` and ``build`` is
    set."""

    lease_id: str
    job_id: str
    expires_s: float
    kernel: KernelWork | None = None
    model: ModelWork | None = None
    build: BuildWork | None = None

    @property
    def is_one_work(self) -> bool:
        """Whether it is what a lease must be."""
        return [self.kernel, self.model, self.build].count(None) == 2


# ------------------------------------------------------------------------------- results


class MeasurementStatus(enum.IntEnum):
    """What became of a candidate. Failure is data: each of these is logged and learnt from."""

    OK = 1
    BUILD_ERROR = 2
    BUILD_TIMEOUT = 3
    LOAD_ERROR = 4
    CRASHED = 5
    TIMED_OUT = 6
    WRONG_OUTPUT = 7
    GARBAGE = 8
    DEVICE_LOST = 9
    SUSPECT = 10

    @property
    def teaches(self) -> bool:
        """False if it says nothing of the candidate, because its device is to blame."""
        return self not in (MeasurementStatus.DEVICE_LOST, MeasurementStatus.SUSPECT)


@dataclass(frozen=True)
class Telemetry:
    """What the device says of itself; None where the system has no such signal."""

    temperature_c: float | None = None
    frequency_mhz: float | None = None
    governor: str | None = None
    load_1m: float | None = None
    throttled: str | None = None


@dataclass(frozen=True)
class Circumstances:
    """What a number can't be understood without.

    ``load_s``, ``check_s`` and ``time_s`` are parts of ``busy_s``: getting ready, the first run
    with the comparison of its outputs, and the repeats. ``canary_ratio`` is the time of the canary
    that ran after this measurement over the device's reference; None where none ran.
    """

    device: str
    tool_versions: Mapping[str, str]
    evaluator: EvaluatorConfig
    num_threads: int
    cpus: tuple[int, ...]
    emulated: bool
    before: Telemetry
    after: Telemetry
    lock_wait_s: float = 0.0
    busy_s: float = 0.0
    load_s: float = 0.0
    check_s: float = 0.0
    time_s: float = 0.0
    canary_ratio: float | None = None


@dataclass(frozen=True)
class Measurement:
    """One candidate's outcome. ``circumstances`` is None if no device was involved."""

    workload_key: str
    candidate_key: str
    status: MeasurementStatus
    lease_id: str = ""
    artifact_sha256: str = ""
    repeats_s: tuple[float, ...] = ()
    error: str = ""
    max_abs_error: float = 0.0
    circumstances: Circumstances | None = None

    @property
    def ok(self) -> bool:
        """True if its latency counts."""
        return self.status is MeasurementStatus.OK

    @property
    def latency_us(self) -> float | None:
        """The least of the repeats, microseconds (decision 15); None unless ``ok``."""
        return min(self.repeats_s) * 1e6 if self.ok and self.repeats_s else None


@dataclass(frozen=True)
class OutputError:
    """How far one output of a model is off over all examples, also relative to its range."""

    name: str
    max_abs_error: float = 0.0
    max_rel_error: float = 0.0


@dataclass(frozen=True)
class VariantResult:
    """One variant's outcome: ``repeats_s`` in seconds per inference, and the first output that is
    wrong, if one is. ``resident_bytes`` is the peak of the process that ran it, 0 if not known.
    ``part_s`` are the medians in seconds of each part within a run, if they were asked for."""

    name: str
    status: MeasurementStatus
    repeats_s: tuple[float, ...] = ()
    error: str = ""
    max_abs_error: float = 0.0
    max_rel_error: float = 0.0
    wrong_output: str = ""
    outputs: tuple[OutputError, ...] = ()
    resident_bytes: int = 0
    part_s: tuple[float, ...] = ()

    @property
    def latency_ms(self) -> float | None:
        """Median of the repeats, milliseconds; None unless it ran and was right."""
        if self.status is not MeasurementStatus.OK or not self.repeats_s:
            return None
        return statistics.median(self.repeats_s) * 1e3


@dataclass(frozen=True)
class ModelMeasurement:
    """All variants of one model, timed in turn."""

    lease_id: str
    variants: tuple[VariantResult, ...]
    circumstances: Circumstances


# ------------------------------------------------------------------------------- the session


@dataclass(frozen=True)
class Registration:
    """An agent's first message.

    ``instance`` names its process: one that comes again was there all the time. ``restartable`` if
    something starts it again when it exits.
    """

    protocol_version: int
    device: Device
    instance: str = ""
    restartable: bool = False


@dataclass(frozen=True)
class Heartbeat:
    """Sent by the agent every ``Registered.heartbeat_s`` seconds."""

    telemetry: Telemetry


@dataclass(frozen=True)
class LeaseFinished:
    """The agent is done with a lease; ``error`` says why it could not do it at all.

    ``canary_ratio`` is that of the canary which decided: the last that was off, otherwise the last;
    infinite if it failed, None if none ran. ``canary_s`` is its reference on this device, in
    seconds; None until that is known.
    """

    lease_id: str
    error: str = ""
    canary_ratio: float | None = None
    canary_s: float | None = None


@dataclass(frozen=True)
class Built:
    """What became of a candidate in the agent's compiler; ``artifact`` is None unless it is OK."""

    lease_id: str
    candidate_key: str
    status: MeasurementStatus
    error: str = ""
    artifact: Artifact | None = None


@dataclass(frozen=True)
class Goodbye:
    """The last message of an agent that was told to stop: what it holds was not its undoing."""


@dataclass(frozen=True)
class Registered:
    """The coordinator's answer to a registration."""

    session_id: str
    heartbeat_s: float


@dataclass(frozen=True)
class Acknowledgement:
    """The result is durable. An empty ``candidate_key`` means the lease's ModelMeasurement."""

    lease_id: str
    candidate_key: str = ""


@dataclass(frozen=True)
class CancelLease:
    """Nobody waits for this lease any more."""

    lease_id: str


@dataclass(frozen=True)
class RestartAgent:
    """The agent is to exit and be started again: it failed too often."""

    reason: str


# ------------------------------------------------------------------------------- jobs


class JobState(enum.IntEnum):
    """Where a job stands."""

    QUEUED = 1
    RUNNING = 2
    DONE = 3
    FAILED = 4
    CANCELLED = 5
    INTERRUPTED = 6
    PAUSED = 7

    @property
    def ended(self) -> bool:
        """True if nothing will happen to it any more unless it is submitted again."""
        return self not in (JobState.QUEUED, JobState.RUNNING, JobState.PAUSED)


class Priority(enum.IntEnum):
    """How much of the devices a job gets where several want them."""

    LOW = 1
    NORMAL = 2
    HIGH = 3

    @property
    def weight(self) -> float:
        """Its part, relative to the others'."""
        return float(4 ** (self - Priority.NORMAL))


@dataclass(frozen=True)
class Shape:
    """Dimensions of one input."""

    dims: tuple[int, ...]


UNLIMITED_TRIALS = 2**31 - 1
"""As many as the other limits allow."""


DEFAULT_PROJECT = "default"
UNKNOWN_USER = "unknown"


@dataclass(frozen=True)
class JobSpec:
    """What a client asks for.

    ``target_latency_ms`` is of the whole model: tuning ends when it is reached. ``flat_share`` is
    the share of the operators' time that tuning must win per minute, or it ends. With
    ``direct_convolutions`` no other algorithm is tried for them. ``project`` is the user's word for
    what the job belongs to. A canary that is off by more than ``canary_drift`` makes measurements
    suspect (None: by more than is usual).

    Whom it is for: the devices with ``target_json``, those with one of the ``targets``, or those of
    the kinds that ``devices`` names, by a device's name or a kind's first digits; a job that was
    accepted has whole kinds there. Of these, the ones of which ``where`` holds
    (``protos/selectors.py``). With ``exclusive``, a device does no other job's work beside its own.
    """

    model_name: str
    model_sha256: str
    target_json: str
    trials: int
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    time_limit_s: float | None = None
    seed: int = 0
    cold_cache: bool = False
    target_latency_ms: float | None = None
    flat_share: float | None = None
    direct_convolutions: bool = False
    project: str = DEFAULT_PROJECT
    submitted_by: str = UNKNOWN_USER
    priority: Priority = Priority.NORMAL
    canary_drift: float | None = None
    devices: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    exclusive: bool = False
    targets: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """Jobs of one identity continue each other: same model, shapes, target, caches and
        algorithms."""
        shapes = {name: list(shape.dims) for name, shape in self.shapes.items()}
        made_of: list[object] = [self.model_sha256, shapes, self.target_json]
        if self.cold_cache:
            made_of.append("cold")
        if self.direct_convolutions:
            made_of.append("direct")
        return sha256_hex(canonical_json(made_of).encode())


@dataclass(frozen=True)
class TrialCounts:
    """Trials of a job; ``from_log`` of ``total`` were measured before this run."""

    total: int = 0
    ok: int = 0
    failed: int = 0
    from_log: int = 0


@dataclass(frozen=True)
class TaskProgress:
    """One fused operator of the job's model.

    ``flops`` is the arithmetic of one run, ``moved_bytes`` what its parameters hold together: what
    one run must at least read and write.
    """

    name: str
    workload_key: str
    weight: int
    untuned_us: float | None = None
    tuned_us: float | None = None
    trials: int = 0
    tuned_low_us: float | None = None
    tuned_high_us: float | None = None
    tied: int = 0
    flops: float = 0.0
    moved_bytes: int = 0


@dataclass(frozen=True)
class RankingQuality:
    """How well the cost model ordered the last batches before they were measured."""

    pairwise: float
    peak_at_1: float
    peak_at_5: float
    batches: int


OWN = "tunefarm"
"""The engine that is the farm's own code."""


@dataclass(frozen=True)
class EngineResult:
    """The whole model in another engine: median latency with its 95 % interval, and how far its
    outputs are off; or the error that it gave."""

    name: str
    version: str
    latency_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    max_abs_error: float = 0.0
    max_rel_error: float = 0.0
    error: str = ""


MIXED = "mixed"
"""Some regions of a model run in the farm's own code, others in an engine."""


@dataclass(frozen=True)
class RegionResult:
    """A region of the model, from its first operator to its last: what it takes in everything that
    can run it, with the way in and out, and inside of more that runs there; and where it is best
    run as a part of the whole model."""

    first: str
    last: str
    engine: str
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    inner_ms: Mapping[str, float] = field(default_factory=dict)


UNTUNED = "untuned"
"""The whole model in the farm's own code, with no operator tuned."""


@dataclass(frozen=True)
class ThreadResult:
    """The whole model with so many threads: UNTUNED, OWN, MIXED or in an engine; the median latency
    with its 95 % interval, and the peak memory of the process that ran it, 0 if not known."""

    name: str
    num_threads: int
    latency_ms: float
    low_ms: float | None = None
    high_ms: float | None = None
    resident_bytes: int = 0


@dataclass(frozen=True)
class ModelResult:
    """The whole model, untuned, tuned and in other engines, measured in one run.

    ``engine`` is what the package runs: OWN, the engine that was faster, or MIXED. ``mixed_ms`` is
    None if no mixture was made; ``regions`` are those that were timed for it. ``left_to_engine``
    names the operators that ONNX Runtime runs in the tuned model, too, as they can't be imported.
    The errors are those of what is packaged, ``outputs`` has them for each output. ``threads`` has
    every way to run the model that was timed, with all threads of the device and with fewer.
    ``weights_bytes`` is what the model's constants hold, ``workspace_bytes`` what the tuned model's
    intermediate results take; 0 if not known.
    ``operators`` is how often the tuned model runs each workload, by key; empty if not known.
    ``labels`` are those of the device that timed it; where the tuning log answered, of the device
    that the job ran on. Raises BadRequest for those that ``labels.check_labels`` refuses.
    """

    untuned_ms: float
    tuned_ms: float
    max_abs_error: float
    max_rel_error: float
    package_filename: str
    package_sha256: str
    package_size_bytes: int
    tuned_low_ms: float | None = None
    tuned_high_ms: float | None = None
    engines: tuple[EngineResult, ...] = ()
    engine: str = OWN
    left_to_engine: tuple[str, ...] = ()
    mixed_ms: float | None = None
    regions: tuple[RegionResult, ...] = ()
    threads: tuple[ThreadResult, ...] = ()
    outputs: tuple[OutputError, ...] = ()
    weights_bytes: int = 0
    workspace_bytes: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    operators: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_labels(self.labels)

    @property
    def packaged_ms(self) -> float:
        """The latency of what is packaged."""
        if self.engine == MIXED and self.mixed_ms is not None:
            return self.mixed_ms
        chosen = (e.latency_ms for e in self.engines if e.name == self.engine)
        return next((ms for ms in chosen if ms is not None), self.tuned_ms)


@dataclass(frozen=True)
class Job:
    """A job and how far it is.

    ``tuning_ended`` says, for people, why its tuning ended; empty before that.
    ``stage_s`` is wall time in seconds per stage of the run that ended; stages overlap. It is not
    kept in the log: empty for a job that an earlier coordinator ran.

    A job for several kinds of device has ``parts``, each of them a job like any other that is for
    one kind, with the whole job's id as its ``parent_id``. The whole job's state is theirs
    (``coordinator/parts.py``); it has no operators, no result and no package of its own.
    """

    job_id: str
    spec: JobSpec
    state: JobState
    stage: str = ""
    error: str = ""
    trials: TrialCounts = TrialCounts()
    tasks: tuple[TaskProgress, ...] = ()
    ranking: RankingQuality | None = None
    elapsed_s: float = 0.0
    remaining_s: float | None = None
    result: ModelResult | None = None
    submitted_at: float = 0.0
    stage_s: Mapping[str, float] = field(default_factory=dict)
    tuning_ended: str = ""
    parent_id: str = ""
    parts: tuple[Job, ...] = ()


@dataclass(frozen=True)
class HistoryRecord:
    """One measurement of a job; ``busy_s`` is device time, 0 where none was needed.

    ``measured_at`` is in seconds since 1970 by the log's clock. ``trial`` is false for the untuned
    program and for what the log knew before the job began.
    """

    measured_at: float
    workload_key: str
    candidate_key: str
    status: MeasurementStatus
    latency_us: float | None = None
    busy_s: float = 0.0
    device: str = ""
    untuned: bool = False
    trial: bool = True


@dataclass(frozen=True)
class History:
    """A job's measurements, and the fastest time of each workload that the log had before them.

    ``device_kind`` is empty if there are none.
    """

    records: tuple[HistoryRecord, ...] = ()
    best_before_us: Mapping[str, float] = field(default_factory=dict)
    device_kind: str = ""


@dataclass(frozen=True)
class DeviceLimits:
    """What a kind of device can do at most, measured on ``device`` with all its threads.

    ``peak_gflops`` are 10^9 float32 operations a second, the bandwidths 10^9 bytes a second, read
    from memory and from the cache next to each core; ``cache_bytes`` is the last-level cache, 0 if
    the device does not say.
    """

    device: str
    peak_gflops: float
    memory_gb_s: float
    cache_gb_s: float
    cache_bytes: int = 0


@dataclass(frozen=True)
class JobMeasurements:
    """What a report shows beside the job; ``limits`` are None where those of its kind of device are
    not known."""

    history: History
    limits: DeviceLimits | None = None


# ------------------------------------------------------------------------------- predictions


@dataclass(frozen=True)
class PredictionSpec:
    """What a latency is asked for: a device's name or the first digits of its kind (empty: the only
    kind there is), and shapes for open inputs."""

    device: str = ""
    shapes: Mapping[str, Shape] = field(default_factory=dict)


class PredictionSource(enum.IntEnum):
    """Where a latency comes from: a finished job of this very model, or its operators."""

    MEASURED = 1
    PREDICTED = 2


@dataclass(frozen=True)
class PredictedOperator:
    """A fused operator of a model; ``known`` if one of its shape was timed on such a device."""

    name: str
    kind: str
    latency_us: float
    known: bool = False


@dataclass(frozen=True)
class Prediction:
    """The latency of the package that the farm would make of a model.

    It lies from ``low_ms`` to ``high_ms`` with the probability ``coverage``. ``job_id`` is the job
    that measured it, empty if it is predicted; ``operators`` are in the order in which they run,
    and empty if it was measured. It was learnt from so many timed operators and finished models.
    """

    latency_ms: float
    low_ms: float
    high_ms: float
    coverage: float
    source: PredictionSource
    device_kind: str
    job_id: str = ""
    operators: tuple[PredictedOperator, ...] = ()
    learnt_operators: int = 0
    learnt_models: int = 0

    @property
    def known_operators(self) -> int:
        """How many of its operators were timed before."""
        return sum(operator.known for operator in self.operators)


# ------------------------------------------------------------------------------- at home


@dataclass(frozen=True)
class Task:
    """A unique fused operator: its workload (text), how often the model runs it, its parameters.

    ``workload_json`` is TVM's serialised IRModule with one function ``main`` whose parameters are
    ``args``, inputs first, the last ``num_outputs`` of them outputs.
    """

    name: str
    workload_key: str
    workload_json: str = field(repr=False)
    weight: int
    args: tuple[TensorSpec, ...]
    num_outputs: int
    flops: float

    @property
    def moved_bytes(self) -> int:
        """What its parameters hold together: what one run must at least read and write."""
        return sum(spec.size_bytes for spec in self.args)


@dataclass(frozen=True)
class Candidate:
    """A workload and a trace (text): one program of the billions."""

    workload_key: str
    trace_json: str = field(repr=False)

    @property
    def key(self) -> str:
        """Its name everywhere; the untuned program has the empty trace."""
        return sha256_hex(f"{self.workload_key}\n{self.trace_json}".encode())


UNTUNED_TRACE = ""
"""The trace of the untuned program: the workload as it is, unscheduled."""
