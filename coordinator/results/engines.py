"""The other engines a model could run in: which there are, how they did, and who is packaged."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import replace

from coordinator.package.manifest import EngineUsed, Manifest
from protos.engines import ENGINES, REFERENCE_ENGINE
from protos.errors import JobFailed
from protos.median import median_interval
from protos.records import MIXED, OWN, Device, EngineResult, VariantResult

log = logging.getLogger(__name__)

MAX_ERROR_CHARACTERS = 600

NOISE = 0.98
"""Our own code is packaged unless an engine takes less than this share of its time: within the
rest nobody could tell them apart, and our package needs no engine."""


NOT_RUN = "the device did not run it"

_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+!-]{0,63}")
"""What may stand in a package's requirements; it is an agent that says it."""


def engines_used(device: Device) -> dict[str, EngineUsed]:
    """The engines that this device has and this coordinator knows, by name."""
    found = {}
    for known in ENGINES:
        version = device.engine_versions.get(known.name)
        if version is not None and _VERSION.fullmatch(version):
            found[known.name] = EngineUsed(known.name, version, known.licence)
        elif version is not None:
            log.warning("device %s: %s has no version %.64r", device.name, known.title, version)
    return found


def check_left_to_engine(operators: Sequence[str], device: Device) -> None:
    """Raise JobFailed if there are operators that only ONNX Runtime can run and it is not there."""
    if operators and REFERENCE_ENGINE not in engines_used(device):
        raise JobFailed(
            f"only ONNX Runtime can run {', '.join(operators[:5])}, and device {device.name} has "
            "none: install it there (pip install onnxruntime) and start the agent again"
        )


def engine_manifest(manifest: Manifest, used: EngineUsed) -> Manifest:
    """The manifest of a package that an engine runs: any CPU, no records."""
    return replace(manifest, engines=(used,), cpu_features=(), records=())


def engine_result(
    used: EngineUsed, variant: VariantResult | None, reason: str = NOT_RUN
) -> EngineResult:
    """What a variant's run says of its engine; ``variant`` is None if it was not run, for
    ``reason``."""
    if variant is None:
        return EngineResult(used.name, used.version, error=reason[:MAX_ERROR_CHARACTERS])
    interval_s = median_interval(variant.repeats_s)
    return EngineResult(
        used.name,
        used.version,
        latency_ms=variant.latency_ms,
        low_ms=interval_s[0] * 1e3 if interval_s else None,
        high_ms=interval_s[1] * 1e3 if interval_s else None,
        max_abs_error=variant.max_abs_error,
        max_rel_error=variant.max_rel_error,
        error=variant.error[:MAX_ERROR_CHARACTERS],
    )


def choose_engine(
    own_ms: float, engines: Sequence[EngineResult], mixed_ms: float | None = None
) -> str:
    """Who runs the model: OWN, the fastest engine if it is faster by more than noise, or MIXED if
    that is faster than both by more than noise."""
    timed = [(one.latency_ms, one.name) for one in engines if one.latency_ms is not None]
    fastest_ms, name = min(timed, default=(own_ms, OWN))
    if fastest_ms >= NOISE * own_ms:
        fastest_ms, name = own_ms, OWN
    return MIXED if mixed_ms is not None and mixed_ms < NOISE * fastest_ms else name
