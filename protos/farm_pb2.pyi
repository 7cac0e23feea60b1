from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DeviceState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DEVICE_STATE_UNSPECIFIED: _ClassVar[DeviceState]
    DEVICE_STATE_IDLE: _ClassVar[DeviceState]
    DEVICE_STATE_BUSY: _ClassVar[DeviceState]
    DEVICE_STATE_GONE: _ClassVar[DeviceState]
    DEVICE_STATE_SET_ASIDE: _ClassVar[DeviceState]
    DEVICE_STATE_DRAINED: _ClassVar[DeviceState]
    DEVICE_STATE_QUARANTINED: _ClassVar[DeviceState]

class DeviceAction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DEVICE_ACTION_UNSPECIFIED: _ClassVar[DeviceAction]
    DEVICE_ACTION_DRAIN: _ClassVar[DeviceAction]
    DEVICE_ACTION_QUARANTINE: _ClassVar[DeviceAction]
    DEVICE_ACTION_RESUME: _ClassVar[DeviceAction]
    DEVICE_ACTION_FORGET: _ClassVar[DeviceAction]

class MeasurementStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MEASUREMENT_STATUS_UNSPECIFIED: _ClassVar[MeasurementStatus]
    MEASUREMENT_STATUS_OK: _ClassVar[MeasurementStatus]
    MEASUREMENT_STATUS_BUILD_ERROR: _ClassVar[MeasurementStatus]
    MEASUREMENT_STATUS_BUILD_TIMEOUT: _ClassVar[MeasurementStatus]
    MEASUREMENT_STATUS_LOAD_ERROR: _ClassVar[MeasurementStatus]
    MEASUREMENT_STATUS_CRASHED: _ClassVar[MeasurementStatus]
    MEASUREMENT_STATUS_TIMED_OUT: _ClassVar[MeasurementStatus]
    MEASUREMENT_STATUS_WRONG_OUTPUT: _ClassVar[MeasurementStatus]
    MEASUREMENT_STATUS_GARBAGE: _ClassVar[MeasurementStatus]
    MEASUREMENT_STATUS_DEVICE_LOST: _ClassVar[MeasurementStatus]
    MEASUREMENT_STATUS_SUSPECT: _ClassVar[MeasurementStatus]

class JobState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_STATE_UNSPECIFIED: _ClassVar[JobState]
    JOB_STATE_QUEUED: _ClassVar[JobState]
    JOB_STATE_RUNNING: _ClassVar[JobState]
    JOB_STATE_DONE: _ClassVar[JobState]
    JOB_STATE_FAILED: _ClassVar[JobState]
    JOB_STATE_CANCELLED: _ClassVar[JobState]
    JOB_STATE_INTERRUPTED: _ClassVar[JobState]
    JOB_STATE_PAUSED: _ClassVar[JobState]

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_UNSPECIFIED: _ClassVar[Priority]
    PRIORITY_LOW: _ClassVar[Priority]
    PRIORITY_NORMAL: _ClassVar[Priority]
    PRIORITY_HIGH: _ClassVar[Priority]

class PredictionSource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PREDICTION_SOURCE_UNSPECIFIED: _ClassVar[PredictionSource]
    PREDICTION_SOURCE_MEASURED: _ClassVar[PredictionSource]
    PREDICTION_SOURCE_PREDICTED: _ClassVar[PredictionSource]
DEVICE_STATE_UNSPECIFIED: DeviceState
DEVICE_STATE_IDLE: DeviceState
DEVICE_STATE_BUSY: DeviceState
DEVICE_STATE_GONE: DeviceState
DEVICE_STATE_SET_ASIDE: DeviceState
DEVICE_STATE_DRAINED: DeviceState
DEVICE_STATE_QUARANTINED: DeviceState
DEVICE_ACTION_UNSPECIFIED: DeviceAction
DEVICE_ACTION_DRAIN: DeviceAction
DEVICE_ACTION_QUARANTINE: DeviceAction
DEVICE_ACTION_RESUME: DeviceAction
DEVICE_ACTION_FORGET: DeviceAction
MEASUREMENT_STATUS_UNSPECIFIED: MeasurementStatus
MEASUREMENT_STATUS_OK: MeasurementStatus
MEASUREMENT_STATUS_BUILD_ERROR: MeasurementStatus
MEASUREMENT_STATUS_BUILD_TIMEOUT: MeasurementStatus
MEASUREMENT_STATUS_LOAD_ERROR: MeasurementStatus
MEASUREMENT_STATUS_CRASHED: MeasurementStatus
MEASUREMENT_STATUS_TIMED_OUT: MeasurementStatus
MEASUREMENT_STATUS_WRONG_OUTPUT: MeasurementStatus
MEASUREMENT_STATUS_GARBAGE: MeasurementStatus
MEASUREMENT_STATUS_DEVICE_LOST: MeasurementStatus
MEASUREMENT_STATUS_SUSPECT: MeasurementStatus
JOB_STATE_UNSPECIFIED: JobState
JOB_STATE_QUEUED: JobState
JOB_STATE_RUNNING: JobState
JOB_STATE_DONE: JobState
JOB_STATE_FAILED: JobState
JOB_STATE_CANCELLED: JobState
JOB_STATE_INTERRUPTED: JobState
JOB_STATE_PAUSED: JobState
PRIORITY_UNSPECIFIED: Priority
PRIORITY_LOW: Priority
PRIORITY_NORMAL: Priority
PRIORITY_HIGH: Priority
PREDICTION_SOURCE_UNSPECIFIED: PredictionSource
PREDICTION_SOURCE_MEASURED: PredictionSource
PREDICTION_SOURCE_PREDICTED: PredictionSource

class EnrolRequest(_message.Message):
    __slots__ = ("secret", "signing_request")
    SECRET_FIELD_NUMBER: _ClassVar[int]
    SIGNING_REQUEST_FIELD_NUMBER: _ClassVar[int]
    secret: bytes
    signing_request: bytes
    def __init__(self, secret: _Optional[bytes] = ..., signing_request: _Optional[bytes] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("signing_request",)
    SIGNING_REQUEST_FIELD_NUMBER: _ClassVar[int]
    signing_request: bytes
    def __init__(self, signing_request: _Optional[bytes] = ...) -> None: ...

class Certificate(_message.Message):
    __slots__ = ("certificate",)
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    def __init__(self, certificate: _Optional[bytes] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class Device(_message.Message):
    __slots__ = ("name", "target_json", "cpu_model", "cpus", "num_threads", "emulated", "tool_versions", "host", "cpu_features", "engine_versions", "cache_bytes", "labels", "not_enforced", "builds_with", "board")
    class ToolVersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class EngineVersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class BuildsWithEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    TARGET_JSON_FIELD_NUMBER: _ClassVar[int]
    CPU_MODEL_FIELD_NUMBER: _ClassVar[int]
    CPUS_FIELD_NUMBER: _ClassVar[int]
    NUM_THREADS_FIELD_NUMBER: _ClassVar[int]
    EMULATED_FIELD_NUMBER: _ClassVar[int]
    TOOL_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    CPU_FEATURES_FIELD_NUMBER: _ClassVar[int]
    ENGINE_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    CACHE_BYTES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    NOT_ENFORCED_FIELD_NUMBER: _ClassVar[int]
    BUILDS_WITH_FIELD_NUMBER: _ClassVar[int]
    BOARD_FIELD_NUMBER: _ClassVar[int]
    name: str
    target_json: str
    cpu_model: str
    cpus: _containers.RepeatedScalarFieldContainer[int]
    num_threads: int
    emulated: bool
    tool_versions: _containers.ScalarMap[str, str]
    host: str
    cpu_features: _containers.RepeatedScalarFieldContainer[str]
    engine_versions: _containers.ScalarMap[str, str]
    cache_bytes: int
    labels: _containers.ScalarMap[str, str]
    not_enforced: _containers.RepeatedScalarFieldContainer[str]
    builds_with: _containers.ScalarMap[str, str]
    board: str
    def __init__(self, name: _Optional[str] = ..., target_json: _Optional[str] = ..., cpu_model: _Optional[str] = ..., cpus: _Optional[_Iterable[int]] = ..., num_threads: _Optional[int] = ..., emulated: _Optional[bool] = ..., tool_versions: _Optional[_Mapping[str, str]] = ..., host: _Optional[str] = ..., cpu_features: _Optional[_Iterable[str]] = ..., engine_versions: _Optional[_Mapping[str, str]] = ..., cache_bytes: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., not_enforced: _Optional[_Iterable[str]] = ..., builds_with: _Optional[_Mapping[str, str]] = ..., board: _Optional[str] = ...) -> None: ...

class DeviceStatus(_message.Message):
    __slots__ = ("device", "state", "kind", "measurements", "last_error", "canary_s", "siblings_s")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MEASUREMENTS_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    CANARY_S_FIELD_NUMBER: _ClassVar[int]
    SIBLINGS_S_FIELD_NUMBER: _ClassVar[int]
    device: Device
    state: DeviceState
    kind: str
    measurements: int
    last_error: str
    canary_s: float
    siblings_s: float
    def __init__(self, device: _Optional[_Union[Device, _Mapping]] = ..., state: _Optional[_Union[DeviceState, str]] = ..., kind: _Optional[str] = ..., measurements: _Optional[int] = ..., last_error: _Optional[str] = ..., canary_s: _Optional[float] = ..., siblings_s: _Optional[float] = ...) -> None: ...

class Artifact(_message.Message):
    __slots__ = ("sha256", "size_bytes", "data")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    size_bytes: int
    data: bytes
    def __init__(self, sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class TensorSpec(_message.Message):
    __slots__ = ("shape", "dtype")
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    shape: _containers.RepeatedScalarFieldContainer[int]
    dtype: str
    def __init__(self, shape: _Optional[_Iterable[int]] = ..., dtype: _Optional[str] = ...) -> None: ...

class EvaluatorConfig(_message.Message):
    __slots__ = ("number", "repeat", "min_repeat_ms", "timeout_s", "hopeless_ratio", "cold_cache", "max_repeat", "max_timing_ms", "contender_ratio", "precision", "canary_every", "canary_drift", "looks")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    REPEAT_FIELD_NUMBER: _ClassVar[int]
    MIN_REPEAT_MS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    HOPELESS_RATIO_FIELD_NUMBER: _ClassVar[int]
    COLD_CACHE_FIELD_NUMBER: _ClassVar[int]
    MAX_REPEAT_FIELD_NUMBER: _ClassVar[int]
    MAX_TIMING_MS_FIELD_NUMBER: _ClassVar[int]
    CONTENDER_RATIO_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    CANARY_EVERY_FIELD_NUMBER: _ClassVar[int]
    CANARY_DRIFT_FIELD_NUMBER: _ClassVar[int]
    LOOKS_FIELD_NUMBER: _ClassVar[int]
    number: int
    repeat: int
    min_repeat_ms: int
    timeout_s: float
    hopeless_ratio: float
    cold_cache: bool
    max_repeat: int
    max_timing_ms: int
    contender_ratio: float
    precision: float
    canary_every: int
    canary_drift: float
    looks: int
    def __init__(self, number: _Optional[int] = ..., repeat: _Optional[int] = ..., min_repeat_ms: _Optional[int] = ..., timeout_s: _Optional[float] = ..., hopeless_ratio: _Optional[float] = ..., cold_cache: _Optional[bool] = ..., max_repeat: _Optional[int] = ..., max_timing_ms: _Optional[int] = ..., contender_ratio: _Optional[float] = ..., precision: _Optional[float] = ..., canary_every: _Optional[int] = ..., canary_drift: _Optional[float] = ..., looks: _Optional[int] = ...) -> None: ...

class Trial(_message.Message):
    __slots__ = ("candidate_key", "artifact")
    CANDIDATE_KEY_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    candidate_key: str
    artifact: Artifact
    def __init__(self, candidate_key: _Optional[str] = ..., artifact: _Optional[_Union[Artifact, _Mapping]] = ...) -> None: ...

class KernelWork(_message.Message):
    __slots__ = ("workload_key", "args", "num_outputs", "input_seed", "reference", "evaluator", "best_us", "trials", "canary", "pacemaker")
    WORKLOAD_KEY_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    NUM_OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    INPUT_SEED_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    EVALUATOR_FIELD_NUMBER: _ClassVar[int]
    BEST_US_FIELD_NUMBER: _ClassVar[int]
    TRIALS_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    PACEMAKER_FIELD_NUMBER: _ClassVar[int]
    workload_key: str
    args: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    num_outputs: int
    input_seed: int
    reference: Artifact
    evaluator: EvaluatorConfig
    best_us: float
    trials: _containers.RepeatedCompositeFieldContainer[Trial]
    canary: Artifact
    pacemaker: Artifact
    def __init__(self, workload_key: _Optional[str] = ..., args: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ..., num_outputs: _Optional[int] = ..., input_seed: _Optional[int] = ..., reference: _Optional[_Union[Artifact, _Mapping]] = ..., evaluator: _Optional[_Union[EvaluatorConfig, _Mapping]] = ..., best_us: _Optional[float] = ..., trials: _Optional[_Iterable[_Union[Trial, _Mapping]]] = ..., canary: _Optional[_Union[Artifact, _Mapping]] = ..., pacemaker: _Optional[_Union[Artifact, _Mapping]] = ...) -> None: ...

class Build(_message.Message):
    __slots__ = ("candidate_key", "trace_json")
    CANDIDATE_KEY_FIELD_NUMBER: _ClassVar[int]
    TRACE_JSON_FIELD_NUMBER: _ClassVar[int]
    candidate_key: str
    trace_json: str
    def __init__(self, candidate_key: _Optional[str] = ..., trace_json: _Optional[str] = ...) -> None: ...

class BuildWork(_message.Message):
    __slots__ = ("workload_key", "workload_json", "builds", "timeout_s")
    WORKLOAD_KEY_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_JSON_FIELD_NUMBER: _ClassVar[int]
    BUILDS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    workload_key: str
    workload_json: str
    builds: _containers.RepeatedCompositeFieldContainer[Build]
    timeout_s: float
    def __init__(self, workload_key: _Optional[str] = ..., workload_json: _Optional[str] = ..., builds: _Optional[_Iterable[_Union[Build, _Mapping]]] = ..., timeout_s: _Optional[float] = ...) -> None: ...

class ModelVariant(_message.Message):
    __slots__ = ("name", "artifact")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    name: str
    artifact: Artifact
    def __init__(self, name: _Optional[str] = ..., artifact: _Optional[_Union[Artifact, _Mapping]] = ...) -> None: ...

class ModelWork(_message.Message):
    __slots__ = ("variants", "examples", "evaluator", "num_threads", "time_parts")
    VARIANTS_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    EVALUATOR_FIELD_NUMBER: _ClassVar[int]
    NUM_THREADS_FIELD_NUMBER: _ClassVar[int]
    TIME_PARTS_FIELD_NUMBER: _ClassVar[int]
    variants: _containers.RepeatedCompositeFieldContainer[ModelVariant]
    examples: Artifact
    evaluator: EvaluatorConfig
    num_threads: int
    time_parts: bool
    def __init__(self, variants: _Optional[_Iterable[_Union[ModelVariant, _Mapping]]] = ..., examples: _Optional[_Union[Artifact, _Mapping]] = ..., evaluator: _Optional[_Union[EvaluatorConfig, _Mapping]] = ..., num_threads: _Optional[int] = ..., time_parts: _Optional[bool] = ...) -> None: ...

class Lease(_message.Message):
    __slots__ = ("lease_id", "job_id", "expires_s", "kernel", "model", "build")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_S_FIELD_NUMBER: _ClassVar[int]
    KERNEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    BUILD_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    job_id: str
    expires_s: float
    kernel: KernelWork
    model: ModelWork
    build: BuildWork
    def __init__(self, lease_id: _Optional[str] = ..., job_id: _Optional[str] = ..., expires_s: _Optional[float] = ..., kernel: _Optional[_Union[KernelWork, _Mapping]] = ..., model: _Optional[_Union[ModelWork, _Mapping]] = ..., build: _Optional[_Union[BuildWork, _Mapping]] = ...) -> None: ...

class Telemetry(_message.Message):
    __slots__ = ("temperature_c", "frequency_mhz", "governor", "load_1m", "throttled")
    TEMPERATURE_C_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_MHZ_FIELD_NUMBER: _ClassVar[int]
    GOVERNOR_FIELD_NUMBER: _ClassVar[int]
    LOAD_1M_FIELD_NUMBER: _ClassVar[int]
    THROTTLED_FIELD_NUMBER: _ClassVar[int]
    temperature_c: float
    frequency_mhz: float
    governor: str
    load_1m: float
    throttled: str
    def __init__(self, temperature_c: _Optional[float] = ..., frequency_mhz: _Optional[float] = ..., governor: _Optional[str] = ..., load_1m: _Optional[float] = ..., throttled: _Optional[str] = ...) -> None: ...

class Circumstances(_message.Message):
    __slots__ = ("device", "tool_versions", "evaluator", "num_threads", "cpus", "emulated", "before", "after", "lock_wait_s", "busy_s", "load_s", "check_s", "time_s", "canary_ratio")
    class ToolVersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    TOOL_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    EVALUATOR_FIELD_NUMBER: _ClassVar[int]
    NUM_THREADS_FIELD_NUMBER: _ClassVar[int]
    CPUS_FIELD_NUMBER: _ClassVar[int]
    EMULATED_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LOCK_WAIT_S_FIELD_NUMBER: _ClassVar[int]
    BUSY_S_FIELD_NUMBER: _ClassVar[int]
    LOAD_S_FIELD_NUMBER: _ClassVar[int]
    CHECK_S_FIELD_NUMBER: _ClassVar[int]
    TIME_S_FIELD_NUMBER: _ClassVar[int]
    CANARY_RATIO_FIELD_NUMBER: _ClassVar[int]
    device: str
    tool_versions: _containers.ScalarMap[str, str]
    evaluator: EvaluatorConfig
    num_threads: int
    cpus: _containers.RepeatedScalarFieldContainer[int]
    emulated: bool
    before: Telemetry
    after: Telemetry
    lock_wait_s: float
    busy_s: float
    load_s: float
    check_s: float
    time_s: float
    canary_ratio: float
    def __init__(self, device: _Optional[str] = ..., tool_versions: _Optional[_Mapping[str, str]] = ..., evaluator: _Optional[_Union[EvaluatorConfig, _Mapping]] = ..., num_threads: _Optional[int] = ..., cpus: _Optional[_Iterable[int]] = ..., emulated: _Optional[bool] = ..., before: _Optional[_Union[Telemetry, _Mapping]] = ..., after: _Optional[_Union[Telemetry, _Mapping]] = ..., lock_wait_s: _Optional[float] = ..., busy_s: _Optional[float] = ..., load_s: _Optional[float] = ..., check_s: _Optional[float] = ..., time_s: _Optional[float] = ..., canary_ratio: _Optional[float] = ...) -> None: ...

class Measurement(_message.Message):
    __slots__ = ("lease_id", "workload_key", "candidate_key", "artifact_sha256", "status", "repeats_s", "error", "max_abs_error", "circumstances")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_KEY_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_KEY_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_SHA256_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REPEATS_S_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_ERROR_FIELD_NUMBER: _ClassVar[int]
    CIRCUMSTANCES_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    workload_key: str
    candidate_key: str
    artifact_sha256: str
    status: MeasurementStatus
    repeats_s: _containers.RepeatedScalarFieldContainer[float]
    error: str
    max_abs_error: float
    circumstances: Circumstances
    def __init__(self, lease_id: _Optional[str] = ..., workload_key: _Optional[str] = ..., candidate_key: _Optional[str] = ..., artifact_sha256: _Optional[str] = ..., status: _Optional[_Union[MeasurementStatus, str]] = ..., repeats_s: _Optional[_Iterable[float]] = ..., error: _Optional[str] = ..., max_abs_error: _Optional[float] = ..., circumstances: _Optional[_Union[Circumstances, _Mapping]] = ...) -> None: ...

class VariantResult(_message.Message):
    __slots__ = ("name", "status", "repeats_s", "error", "max_abs_error", "max_rel_error", "wrong_output", "outputs", "resident_bytes", "part_s")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REPEATS_S_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_ERROR_FIELD_NUMBER: _ClassVar[int]
    MAX_REL_ERROR_FIELD_NUMBER: _ClassVar[int]
    WRONG_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    PART_S_FIELD_NUMBER: _ClassVar[int]
    name: str
    status: MeasurementStatus
    repeats_s: _containers.RepeatedScalarFieldContainer[float]
    error: str
    max_abs_error: float
    max_rel_error: float
    wrong_output: str
    outputs: _containers.RepeatedCompositeFieldContainer[OutputError]
    resident_bytes: int
    part_s: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, name: _Optional[str] = ..., status: _Optional[_Union[MeasurementStatus, str]] = ..., repeats_s: _Optional[_Iterable[float]] = ..., error: _Optional[str] = ..., max_abs_error: _Optional[float] = ..., max_rel_error: _Optional[float] = ..., wrong_output: _Optional[str] = ..., outputs: _Optional[_Iterable[_Union[OutputError, _Mapping]]] = ..., resident_bytes: _Optional[int] = ..., part_s: _Optional[_Iterable[float]] = ...) -> None: ...

class OutputError(_message.Message):
    __slots__ = ("name", "max_abs_error", "max_rel_error")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_ERROR_FIELD_NUMBER: _ClassVar[int]
    MAX_REL_ERROR_FIELD_NUMBER: _ClassVar[int]
    name: str
    max_abs_error: float
    max_rel_error: float
    def __init__(self, name: _Optional[str] = ..., max_abs_error: _Optional[float] = ..., max_rel_error: _Optional[float] = ...) -> None: ...

class ModelMeasurement(_message.Message):
    __slots__ = ("lease_id", "variants", "circumstances")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    VARIANTS_FIELD_NUMBER: _ClassVar[int]
    CIRCUMSTANCES_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    variants: _containers.RepeatedCompositeFieldContainer[VariantResult]
    circumstances: Circumstances
    def __init__(self, lease_id: _Optional[str] = ..., variants: _Optional[_Iterable[_Union[VariantResult, _Mapping]]] = ..., circumstances: _Optional[_Union[Circumstances, _Mapping]] = ...) -> None: ...

class Built(_message.Message):
    __slots__ = ("lease_id", "candidate_key", "status", "error", "artifact")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_KEY_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    candidate_key: str
    status: MeasurementStatus
    error: str
    artifact: Artifact
    def __init__(self, lease_id: _Optional[str] = ..., candidate_key: _Optional[str] = ..., status: _Optional[_Union[MeasurementStatus, str]] = ..., error: _Optional[str] = ..., artifact: _Optional[_Union[Artifact, _Mapping]] = ...) -> None: ...

class Registration(_message.Message):
    __slots__ = ("protocol_version", "device", "instance", "restartable")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    RESTARTABLE_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    device: Device
    instance: str
    restartable: bool
    def __init__(self, protocol_version: _Optional[int] = ..., device: _Optional[_Union[Device, _Mapping]] = ..., instance: _Optional[str] = ..., restartable: _Optional[bool] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("telemetry",)
    TELEMETRY_FIELD_NUMBER: _ClassVar[int]
    telemetry: Telemetry
    def __init__(self, telemetry: _Optional[_Union[Telemetry, _Mapping]] = ...) -> None: ...

class LeaseFinished(_message.Message):
    __slots__ = ("lease_id", "error", "canary_ratio", "canary_s")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CANARY_RATIO_FIELD_NUMBER: _ClassVar[int]
    CANARY_S_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    error: str
    canary_ratio: float
    canary_s: float
    def __init__(self, lease_id: _Optional[str] = ..., error: _Optional[str] = ..., canary_ratio: _Optional[float] = ..., canary_s: _Optional[float] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AgentMessage(_message.Message):
    __slots__ = ("registration", "heartbeat", "measurement", "model_measurement", "lease_finished", "goodbye", "built")
    REGISTRATION_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    MEASUREMENT_FIELD_NUMBER: _ClassVar[int]
    MODEL_MEASUREMENT_FIELD_NUMBER: _ClassVar[int]
    LEASE_FINISHED_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    BUILT_FIELD_NUMBER: _ClassVar[int]
    registration: Registration
    heartbeat: Heartbeat
    measurement: Measurement
    model_measurement: ModelMeasurement
    lease_finished: LeaseFinished
    goodbye: Goodbye
    built: Built
    def __init__(self, registration: _Optional[_Union[Registration, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., measurement: _Optional[_Union[Measurement, _Mapping]] = ..., model_measurement: _Optional[_Union[ModelMeasurement, _Mapping]] = ..., lease_finished: _Optional[_Union[LeaseFinished, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ..., built: _Optional[_Union[Built, _Mapping]] = ...) -> None: ...

class Registered(_message.Message):
    __slots__ = ("session_id", "heartbeat_s")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_S_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    heartbeat_s: float
    def __init__(self, session_id: _Optional[str] = ..., heartbeat_s: _Optional[float] = ...) -> None: ...

class Acknowledgement(_message.Message):
    __slots__ = ("lease_id", "candidate_key")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_KEY_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    candidate_key: str
    def __init__(self, lease_id: _Optional[str] = ..., candidate_key: _Optional[str] = ...) -> None: ...

class CancelLease(_message.Message):
    __slots__ = ("lease_id",)
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    def __init__(self, lease_id: _Optional[str] = ...) -> None: ...

class RestartAgent(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class GatewayMessage(_message.Message):
    __slots__ = ("registered", "lease", "acknowledgement", "cancel_lease", "restart_agent")
    REGISTERED_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGEMENT_FIELD_NUMBER: _ClassVar[int]
    CANCEL_LEASE_FIELD_NUMBER: _ClassVar[int]
    RESTART_AGENT_FIELD_NUMBER: _ClassVar[int]
    registered: Registered
    lease: Lease
    acknowledgement: Acknowledgement
    cancel_lease: CancelLease
    restart_agent: RestartAgent
    def __init__(self, registered: _Optional[_Union[Registered, _Mapping]] = ..., lease: _Optional[_Union[Lease, _Mapping]] = ..., acknowledgement: _Optional[_Union[Acknowledgement, _Mapping]] = ..., cancel_lease: _Optional[_Union[CancelLease, _Mapping]] = ..., restart_agent: _Optional[_Union[RestartAgent, _Mapping]] = ...) -> None: ...

class FetchArtifactRequest(_message.Message):
    __slots__ = ("sha256",)
    SHA256_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    def __init__(self, sha256: _Optional[str] = ...) -> None: ...

class Shape(_message.Message):
    __slots__ = ("dims",)
    DIMS_FIELD_NUMBER: _ClassVar[int]
    dims: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, dims: _Optional[_Iterable[int]] = ...) -> None: ...

class JobSpec(_message.Message):
    __slots__ = ("model_name", "model_sha256", "shapes", "target_json", "trials", "time_limit_s", "seed", "cold_cache", "target_latency_ms", "flat_share", "direct_convolutions", "project", "submitted_by", "priority", "canary_drift", "devices", "where", "exclusive", "targets")
    class ShapesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Shape
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Shape, _Mapping]] = ...) -> None: ...
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_SHA256_FIELD_NUMBER: _ClassVar[int]
    SHAPES_FIELD_NUMBER: _ClassVar[int]
    TARGET_JSON_FIELD_NUMBER: _ClassVar[int]
    TRIALS_FIELD_NUMBER: _ClassVar[int]
    TIME_LIMIT_S_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    COLD_CACHE_FIELD_NUMBER: _ClassVar[int]
    TARGET_LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    FLAT_SHARE_FIELD_NUMBER: _ClassVar[int]
    DIRECT_CONVOLUTIONS_FIELD_NUMBER: _ClassVar[int]
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    SUBMITTED_BY_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    CANARY_DRIFT_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    EXCLUSIVE_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_sha256: str
    shapes: _containers.MessageMap[str, Shape]
    target_json: str
    trials: int
    time_limit_s: float
    seed: int
    cold_cache: bool
    target_latency_ms: float
    flat_share: float
    direct_convolutions: bool
    project: str
    submitted_by: str
    priority: Priority
    canary_drift: float
    devices: _containers.RepeatedScalarFieldContainer[str]
    where: _containers.RepeatedScalarFieldContainer[str]
    exclusive: bool
    targets: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, model_name: _Optional[str] = ..., model_sha256: _Optional[str] = ..., shapes: _Optional[_Mapping[str, Shape]] = ..., target_json: _Optional[str] = ..., trials: _Optional[int] = ..., time_limit_s: _Optional[float] = ..., seed: _Optional[int] = ..., cold_cache: _Optional[bool] = ..., target_latency_ms: _Optional[float] = ..., flat_share: _Optional[float] = ..., direct_convolutions: _Optional[bool] = ..., project: _Optional[str] = ..., submitted_by: _Optional[str] = ..., priority: _Optional[_Union[Priority, str]] = ..., canary_drift: _Optional[float] = ..., devices: _Optional[_Iterable[str]] = ..., where: _Optional[_Iterable[str]] = ..., exclusive: _Optional[bool] = ..., targets: _Optional[_Iterable[str]] = ...) -> None: ...

class TrialCounts(_message.Message):
    __slots__ = ("total", "ok", "failed", "from_log")
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    OK_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    FROM_LOG_FIELD_NUMBER: _ClassVar[int]
    total: int
    ok: int
    failed: int
    from_log: int
    def __init__(self, total: _Optional[int] = ..., ok: _Optional[int] = ..., failed: _Optional[int] = ..., from_log: _Optional[int] = ...) -> None: ...

class TaskProgress(_message.Message):
    __slots__ = ("name", "workload_key", "weight", "untuned_us", "tuned_us", "trials", "tuned_low_us", "tuned_high_us", "tied", "flops", "moved_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_KEY_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    UNTUNED_US_FIELD_NUMBER: _ClassVar[int]
    TUNED_US_FIELD_NUMBER: _ClassVar[int]
    TRIALS_FIELD_NUMBER: _ClassVar[int]
    TUNED_LOW_US_FIELD_NUMBER: _ClassVar[int]
    TUNED_HIGH_US_FIELD_NUMBER: _ClassVar[int]
    TIED_FIELD_NUMBER: _ClassVar[int]
    FLOPS_FIELD_NUMBER: _ClassVar[int]
    MOVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    workload_key: str
    weight: int
    untuned_us: float
    tuned_us: float
    trials: int
    tuned_low_us: float
    tuned_high_us: float
    tied: int
    flops: float
    moved_bytes: int
    def __init__(self, name: _Optional[str] = ..., workload_key: _Optional[str] = ..., weight: _Optional[int] = ..., untuned_us: _Optional[float] = ..., tuned_us: _Optional[float] = ..., trials: _Optional[int] = ..., tuned_low_us: _Optional[float] = ..., tuned_high_us: _Optional[float] = ..., tied: _Optional[int] = ..., flops: _Optional[float] = ..., moved_bytes: _Optional[int] = ...) -> None: ...

class RankingQuality(_message.Message):
    __slots__ = ("pairwise", "peak_at_1", "peak_at_5", "batches")
    PAIRWISE_FIELD_NUMBER: _ClassVar[int]
    PEAK_AT_1_FIELD_NUMBER: _ClassVar[int]
    PEAK_AT_5_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    pairwise: float
    peak_at_1: float
    peak_at_5: float
    batches: int
    def __init__(self, pairwise: _Optional[float] = ..., peak_at_1: _Optional[float] = ..., peak_at_5: _Optional[float] = ..., batches: _Optional[int] = ...) -> None: ...

class EngineResult(_message.Message):
    __slots__ = ("name", "version", "latency_ms", "low_ms", "high_ms", "max_abs_error", "max_rel_error", "error")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    LOW_MS_FIELD_NUMBER: _ClassVar[int]
    HIGH_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_ERROR_FIELD_NUMBER: _ClassVar[int]
    MAX_REL_ERROR_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    latency_ms: float
    low_ms: float
    high_ms: float
    max_abs_error: float
    max_rel_error: float
    error: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., latency_ms: _Optional[float] = ..., low_ms: _Optional[float] = ..., high_ms: _Optional[float] = ..., max_abs_error: _Optional[float] = ..., max_rel_error: _Optional[float] = ..., error: _Optional[str] = ...) -> None: ...

class RegionResult(_message.Message):
    __slots__ = ("first", "last", "engine", "latency_ms", "inner_ms")
    class LatencyMsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class InnerMsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    INNER_MS_FIELD_NUMBER: _ClassVar[int]
    first: str
    last: str
    engine: str
    latency_ms: _containers.ScalarMap[str, float]
    inner_ms: _containers.ScalarMap[str, float]
    def __init__(self, first: _Optional[str] = ..., last: _Optional[str] = ..., engine: _Optional[str] = ..., latency_ms: _Optional[_Mapping[str, float]] = ..., inner_ms: _Optional[_Mapping[str, float]] = ...) -> None: ...

class ModelResult(_message.Message):
    __slots__ = ("untuned_ms", "tuned_ms", "max_abs_error", "max_rel_error", "package_filename", "package_sha256", "package_size_bytes", "tuned_low_ms", "tuned_high_ms", "engines", "engine", "left_to_engine", "mixed_ms", "regions", "threads", "outputs", "weights_bytes", "workspace_bytes", "labels", "operators")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class OperatorsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    UNTUNED_MS_FIELD_NUMBER: _ClassVar[int]
    TUNED_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_ERROR_FIELD_NUMBER: _ClassVar[int]
    MAX_REL_ERROR_FIELD_NUMBER: _ClassVar[int]
    PACKAGE_FILENAME_FIELD_NUMBER: _ClassVar[int]
    PACKAGE_SHA256_FIELD_NUMBER: _ClassVar[int]
    PACKAGE_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TUNED_LOW_MS_FIELD_NUMBER: _ClassVar[int]
    TUNED_HIGH_MS_FIELD_NUMBER: _ClassVar[int]
    ENGINES_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    LEFT_TO_ENGINE_FIELD_NUMBER: _ClassVar[int]
    MIXED_MS_FIELD_NUMBER: _ClassVar[int]
    REGIONS_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_BYTES_FIELD_NUMBER: _ClassVar[int]
    WORKSPACE_BYTES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    OPERATORS_FIELD_NUMBER: _ClassVar[int]
    untuned_ms: float
    tuned_ms: float
    max_abs_error: float
    max_rel_error: float
    package_filename: str
    package_sha256: str
    package_size_bytes: int
    tuned_low_ms: float
    tuned_high_ms: float
    engines: _containers.RepeatedCompositeFieldContainer[EngineResult]
    engine: str
    left_to_engine: _containers.RepeatedScalarFieldContainer[str]
    mixed_ms: float
    regions: _containers.RepeatedCompositeFieldContainer[RegionResult]
    threads: _containers.RepeatedCompositeFieldContainer[ThreadResult]
    outputs: _containers.RepeatedCompositeFieldContainer[OutputError]
    weights_bytes: int
    workspace_bytes: int
    labels: _containers.ScalarMap[str, str]
    operators: _containers.ScalarMap[str, int]
    def __init__(self, untuned_ms: _Optional[float] = ..., tuned_ms: _Optional[float] = ..., max_abs_error: _Optional[float] = ..., max_rel_error: _Optional[float] = ..., package_filename: _Optional[str] = ..., package_sha256: _Optional[str] = ..., package_size_bytes: _Optional[int] = ..., tuned_low_ms: _Optional[float] = ..., tuned_high_ms: _Optional[float] = ..., engines: _Optional[_Iterable[_Union[EngineResult, _Mapping]]] = ..., engine: _Optional[str] = ..., left_to_engine: _Optional[_Iterable[str]] = ..., mixed_ms: _Optional[float] = ..., regions: _Optional[_Iterable[_Union[RegionResult, _Mapping]]] = ..., threads: _Optional[_Iterable[_Union[ThreadResult, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[OutputError, _Mapping]]] = ..., weights_bytes: _Optional[int] = ..., workspace_bytes: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., operators: _Optional[_Mapping[str, int]] = ...) -> None: ...

class ThreadResult(_message.Message):
    __slots__ = ("name", "num_threads", "latency_ms", "low_ms", "high_ms", "resident_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUM_THREADS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    LOW_MS_FIELD_NUMBER: _ClassVar[int]
    HIGH_MS_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    num_threads: int
    latency_ms: float
    low_ms: float
    high_ms: float
    resident_bytes: int
    def __init__(self, name: _Optional[str] = ..., num_threads: _Optional[int] = ..., latency_ms: _Optional[float] = ..., low_ms: _Optional[float] = ..., high_ms: _Optional[float] = ..., resident_bytes: _Optional[int] = ...) -> None: ...

class Job(_message.Message):
    __slots__ = ("job_id", "spec", "state", "stage", "error", "trials", "tasks", "ranking", "elapsed_s", "remaining_s", "result", "submitted_at", "stage_s", "tuning_ended", "parent_id", "parts")
    class StageSEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    TRIALS_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    RANKING_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_S_FIELD_NUMBER: _ClassVar[int]
    REMAINING_S_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    SUBMITTED_AT_FIELD_NUMBER: _ClassVar[int]
    STAGE_S_FIELD_NUMBER: _ClassVar[int]
    TUNING_ENDED_FIELD_NUMBER: _ClassVar[int]
    PARENT_ID_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    spec: JobSpec
    state: JobState
    stage: str
    error: str
    trials: TrialCounts
    tasks: _containers.RepeatedCompositeFieldContainer[TaskProgress]
    ranking: RankingQuality
    elapsed_s: float
    remaining_s: float
    result: ModelResult
    submitted_at: float
    stage_s: _containers.ScalarMap[str, float]
    tuning_ended: str
    parent_id: str
    parts: _containers.RepeatedCompositeFieldContainer[Job]
    def __init__(self, job_id: _Optional[str] = ..., spec: _Optional[_Union[JobSpec, _Mapping]] = ..., state: _Optional[_Union[JobState, str]] = ..., stage: _Optional[str] = ..., error: _Optional[str] = ..., trials: _Optional[_Union[TrialCounts, _Mapping]] = ..., tasks: _Optional[_Iterable[_Union[TaskProgress, _Mapping]]] = ..., ranking: _Optional[_Union[RankingQuality, _Mapping]] = ..., elapsed_s: _Optional[float] = ..., remaining_s: _Optional[float] = ..., result: _Optional[_Union[ModelResult, _Mapping]] = ..., submitted_at: _Optional[float] = ..., stage_s: _Optional[_Mapping[str, float]] = ..., tuning_ended: _Optional[str] = ..., parent_id: _Optional[str] = ..., parts: _Optional[_Iterable[_Union[Job, _Mapping]]] = ...) -> None: ...

class HistoryRecord(_message.Message):
    __slots__ = ("measured_at", "workload_key", "candidate_key", "status", "latency_us", "busy_s", "device", "untuned", "trial")
    MEASURED_AT_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_KEY_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_KEY_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_US_FIELD_NUMBER: _ClassVar[int]
    BUSY_S_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    UNTUNED_FIELD_NUMBER: _ClassVar[int]
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    measured_at: float
    workload_key: str
    candidate_key: str
    status: MeasurementStatus
    latency_us: float
    busy_s: float
    device: str
    untuned: bool
    trial: bool
    def __init__(self, measured_at: _Optional[float] = ..., workload_key: _Optional[str] = ..., candidate_key: _Optional[str] = ..., status: _Optional[_Union[MeasurementStatus, str]] = ..., latency_us: _Optional[float] = ..., busy_s: _Optional[float] = ..., device: _Optional[str] = ..., untuned: _Optional[bool] = ..., trial: _Optional[bool] = ...) -> None: ...

class History(_message.Message):
    __slots__ = ("records", "best_before_us", "device_kind")
    class BestBeforeUsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    BEST_BEFORE_US_FIELD_NUMBER: _ClassVar[int]
    DEVICE_KIND_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[HistoryRecord]
    best_before_us: _containers.ScalarMap[str, float]
    device_kind: str
    def __init__(self, records: _Optional[_Iterable[_Union[HistoryRecord, _Mapping]]] = ..., best_before_us: _Optional[_Mapping[str, float]] = ..., device_kind: _Optional[str] = ...) -> None: ...

class DeviceLimits(_message.Message):
    __slots__ = ("device", "peak_gflops", "memory_gb_s", "cache_gb_s", "cache_bytes")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    PEAK_GFLOPS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_GB_S_FIELD_NUMBER: _ClassVar[int]
    CACHE_GB_S_FIELD_NUMBER: _ClassVar[int]
    CACHE_BYTES_FIELD_NUMBER: _ClassVar[int]
    device: str
    peak_gflops: float
    memory_gb_s: float
    cache_gb_s: float
    cache_bytes: int
    def __init__(self, device: _Optional[str] = ..., peak_gflops: _Optional[float] = ..., memory_gb_s: _Optional[float] = ..., cache_gb_s: _Optional[float] = ..., cache_bytes: _Optional[int] = ...) -> None: ...

class JobMeasurements(_message.Message):
    __slots__ = ("history", "limits")
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    history: History
    limits: DeviceLimits
    def __init__(self, history: _Optional[_Union[History, _Mapping]] = ..., limits: _Optional[_Union[DeviceLimits, _Mapping]] = ...) -> None: ...

class SubmitJobRequest(_message.Message):
    __slots__ = ("spec", "model_chunk")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    MODEL_CHUNK_FIELD_NUMBER: _ClassVar[int]
    spec: JobSpec
    model_chunk: bytes
    def __init__(self, spec: _Optional[_Union[JobSpec, _Mapping]] = ..., model_chunk: _Optional[bytes] = ...) -> None: ...

class JobRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class ListJobsRequest(_message.Message):
    __slots__ = ("limit", "project")
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    limit: int
    project: str
    def __init__(self, limit: _Optional[int] = ..., project: _Optional[str] = ...) -> None: ...

class ListJobsResponse(_message.Message):
    __slots__ = ("jobs",)
    JOBS_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[Job]
    def __init__(self, jobs: _Optional[_Iterable[_Union[Job, _Mapping]]] = ...) -> None: ...

class JobPriorityRequest(_message.Message):
    __slots__ = ("job_id", "priority")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    priority: Priority
    def __init__(self, job_id: _Optional[str] = ..., priority: _Optional[_Union[Priority, str]] = ...) -> None: ...

class ListDevicesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ControlDeviceRequest(_message.Message):
    __slots__ = ("device", "action", "reason")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    device: str
    action: DeviceAction
    reason: str
    def __init__(self, device: _Optional[str] = ..., action: _Optional[_Union[DeviceAction, str]] = ..., reason: _Optional[str] = ...) -> None: ...

class ControlDeviceResponse(_message.Message):
    __slots__ = ("device",)
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    device: DeviceStatus
    def __init__(self, device: _Optional[_Union[DeviceStatus, _Mapping]] = ...) -> None: ...

class DeviceEvent(_message.Message):
    __slots__ = ("device", "step", "text", "happened_at")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    HAPPENED_AT_FIELD_NUMBER: _ClassVar[int]
    device: str
    step: str
    text: str
    happened_at: float
    def __init__(self, device: _Optional[str] = ..., step: _Optional[str] = ..., text: _Optional[str] = ..., happened_at: _Optional[float] = ...) -> None: ...

class ListDeviceEventsRequest(_message.Message):
    __slots__ = ("device", "limit")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    device: str
    limit: int
    def __init__(self, device: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class ListDeviceEventsResponse(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[DeviceEvent]
    def __init__(self, events: _Optional[_Iterable[_Union[DeviceEvent, _Mapping]]] = ...) -> None: ...

class ListDevicesResponse(_message.Message):
    __slots__ = ("devices",)
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    devices: _containers.RepeatedCompositeFieldContainer[DeviceStatus]
    def __init__(self, devices: _Optional[_Iterable[_Union[DeviceStatus, _Mapping]]] = ...) -> None: ...

class PredictionSpec(_message.Message):
    __slots__ = ("device", "shapes")
    class ShapesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Shape
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Shape, _Mapping]] = ...) -> None: ...
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    SHAPES_FIELD_NUMBER: _ClassVar[int]
    device: str
    shapes: _containers.MessageMap[str, Shape]
    def __init__(self, device: _Optional[str] = ..., shapes: _Optional[_Mapping[str, Shape]] = ...) -> None: ...

class PredictedOperator(_message.Message):
    __slots__ = ("name", "kind", "latency_us", "known")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LATENCY_US_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    latency_us: float
    known: bool
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., latency_us: _Optional[float] = ..., known: _Optional[bool] = ...) -> None: ...

class Prediction(_message.Message):
    __slots__ = ("latency_ms", "low_ms", "high_ms", "coverage", "source", "device_kind", "job_id", "operators", "learnt_operators", "learnt_models")
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    LOW_MS_FIELD_NUMBER: _ClassVar[int]
    HIGH_MS_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_KIND_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    OPERATORS_FIELD_NUMBER: _ClassVar[int]
    LEARNT_OPERATORS_FIELD_NUMBER: _ClassVar[int]
    LEARNT_MODELS_FIELD_NUMBER: _ClassVar[int]
    latency_ms: float
    low_ms: float
    high_ms: float
    coverage: float
    source: PredictionSource
    device_kind: str
    job_id: str
    operators: _containers.RepeatedCompositeFieldContainer[PredictedOperator]
    learnt_operators: int
    learnt_models: int
    def __init__(self, latency_ms: _Optional[float] = ..., low_ms: _Optional[float] = ..., high_ms: _Optional[float] = ..., coverage: _Optional[float] = ..., source: _Optional[_Union[PredictionSource, str]] = ..., device_kind: _Optional[str] = ..., job_id: _Optional[str] = ..., operators: _Optional[_Iterable[_Union[PredictedOperator, _Mapping]]] = ..., learnt_operators: _Optional[int] = ..., learnt_models: _Optional[int] = ...) -> None: ...

class PredictModelRequest(_message.Message):
    __slots__ = ("spec", "model_chunk")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    MODEL_CHUNK_FIELD_NUMBER: _ClassVar[int]
    spec: PredictionSpec
    model_chunk: bytes
    def __init__(self, spec: _Optional[_Union[PredictionSpec, _Mapping]] = ..., model_chunk: _Optional[bytes] = ...) -> None: ...
