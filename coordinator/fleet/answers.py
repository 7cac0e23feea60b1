"""What an answer must be to the lease that it is for, beyond what its message's bounds say (pure).

An agent that says something else is broken or lies: its stream ends, and nothing of what it said is
kept.
"""

from __future__ import annotations

from protos.errors import ProtocolViolation
from protos.records import (
    Circumstances,
    Device,
    Measurement,
    MeasurementStatus,
    ModelMeasurement,
    ModelWork,
)


def check_measurement(
    device: str, artifact_sha256: str, measurement: Measurement, emulated: bool | None = None
) -> None:
    """Raise ProtocolViolation unless ``device`` (its name, and whether it is ``emulated`` if that
    is known) may say this of a trial with this artifact."""
    what = f"the measurement of candidate {measurement.candidate_key[:12]}"
    if measurement.artifact_sha256 not in ("", artifact_sha256):
        raise ProtocolViolation(
            f"{what} is of the bytes {measurement.artifact_sha256[:12]}; leased were those of "
            f"{artifact_sha256[:12]}"
        )
    if measurement.ok and not (measurement.repeats_s and measurement.circumstances):
        raise ProtocolViolation(f"{what} is OK, without its times or without circumstances")
    if measurement.circumstances is not None:
        _check_device(device, emulated, measurement.circumstances, what)


def check_model_measurement(device: Device, work: ModelWork, answer: ModelMeasurement) -> None:
    """Raise ProtocolViolation unless ``device`` may say this of a whole model."""
    what = f"the measurement of lease {answer.lease_id}"
    asked = [variant.name for variant in work.variants]
    if [result.name for result in answer.variants] != asked:
        raise ProtocolViolation(f"{what} is not of the variants that were leased, one for each")
    for result in answer.variants:
        if result.status is MeasurementStatus.OK and not result.repeats_s:
            raise ProtocolViolation(f"{what} says that {result.name} is OK, without its times")
    _check_device(device.name, device.emulated, answer.circumstances, what)


def _check_device(
    device: str, emulated: bool | None, circumstances: Circumstances, what: str
) -> None:
    if circumstances.device != device or emulated not in (None, circumstances.emulated):
        raise ProtocolViolation(
            f"{what} says that it was made by {circumstances.device!r}, but it comes from "
            f"{device!r}"
        )
