"""Times variants of a whole model in turn, in one run, each in a process of its own."""

from __future__ import annotations

import dataclasses
import logging
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from device_agent import examples
from device_agent.examples import Example
from device_agent.frames import Frame, FrameError
from device_agent.helper_process import HelperDiedError, HelperProcess, HelperTimeoutError
from device_agent.kernel_runner import LeaseFailedError
from protos import errors, host_lock
from protos.records import Artifact, Device, MeasurementStatus, ModelWork, VariantResult

log = logging.getLogger(__name__)

Array = np.ndarray[Any, Any]

LOAD_TIMEOUT_S = 120.0
"""To start Python, import an engine and read the weights; slow cards take their time."""

FAR_BEHIND = 3.0
ENOUGH_ROUNDS = 6
"""One that takes this many times as long as the fastest is timed in this many rounds only, the
fewest whose median has a 95 % interval: untuned models may take seconds."""


class _FailedError(Exception):
    def __init__(self, status: MeasurementStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class _Variant:
    """One variant on its way; ``helper`` is None once it has failed."""

    result: VariantResult
    helper: HelperProcess | None = None
    part_s: list[list[float]] = field(default_factory=list)

    @property
    def finished(self) -> VariantResult:
        """With the medians of its parts."""
        if not self.result.repeats_s:
            return self.result
        medians = tuple(map(statistics.median, zip(*self.part_s, strict=True)))
        return dataclasses.replace(self.result, part_s=medians)


@dataclass(frozen=True)
class ModelRun:
    """All variants' results, in the order of the work."""

    variants: tuple[VariantResult, ...]
    lock_wait_s: float
    busy_s: float


class ModelRunner:
    """Runs models for one device. One thread uses it; ``close`` may come from another."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._helpers: list[HelperProcess] = []
        self._closed = False

    def run(self, work: ModelWork, fetch: Callable[[Artifact], bytes]) -> ModelRun:
        """Check every variant, then time those that are right, in turn.

        ``fetch`` gives an artifact's bytes; what it raises passes. Raises LeaseFailedError if the
        examples are unusable or the device has too few threads.
        """
        if not 1 <= work.num_threads <= len(self._device.cpus):
            raise LeaseFailedError(
                f"{work.num_threads} threads asked of a device with {len(self._device.cpus)} CPUs"
            )
        data = fetch(work.examples)
        try:
            expected = examples.read_examples(data)
        except errors.BadRequest as error:
            raise LeaseFailedError(str(error)) from error
        artifacts = [fetch(variant.artifact) for variant in work.variants]
        variants = [_Variant(VariantResult(v.name, MeasurementStatus.OK)) for v in work.variants]
        with tempfile.TemporaryDirectory(prefix="tunefarm-model-") as directory:
            path = Path(directory)
            (path / "examples.npz").write_bytes(data)
            try:
                return self._run(work, variants, artifacts, expected, path)
            finally:
                self._end_all()

    def close(self) -> None:
        """End what runs; later requests are refused."""
        self._closed = True
        self._end_all(grace_s=0.0)

    def _run(
        self,
        work: ModelWork,
        variants: Sequence[_Variant],
        artifacts: Sequence[bytes],
        expected: Sequence[Example],
        path: Path,
    ) -> ModelRun:
        started = time.monotonic()
        with host_lock.working():
            for number, variant in enumerate(variants):
                folder = path / str(number)
                folder.mkdir()
                (folder / "artifact").write_bytes(artifacts[number])
                self._guard(
                    variant,
                    lambda v=variant, n=number, f=folder: self._check(  # type: ignore[misc]
                        v, work, n, f, expected
                    ),
                )
        with host_lock.timing(self._device.cpus) as waited:
            for _round in range(max(work.evaluator.repeat, 1)):
                for variant in variants:
                    if variant.helper is not None and not _far_behind(variant, variants):
                        self._guard(variant, lambda v=variant: self._repeat(v, work))  # type: ignore[misc]
        busy_s = time.monotonic() - started - waited
        return ModelRun(tuple(variant.finished for variant in variants), waited, busy_s)

    def _check(
        self,
        variant: _Variant,
        work: ModelWork,
        number: int,
        folder: Path,
        expected: Sequence[Example],
    ) -> None:
        variant.helper = self._start(work.num_threads, folder)
        load = {
            "op": "load",
            "artifact": str(folder / "artifact"),
            "examples": str(folder.parent / "examples.npz"),
            "num_threads": work.num_threads,
        }
        _ask(variant.helper, load, LOAD_TIMEOUT_S, "loaded", MeasurementStatus.LOAD_ERROR)
        timeout_s = work.evaluator.timeout_s * len(expected)
        frame = _ask(variant.helper, {"op": "check"}, timeout_s, "checked")
        found = examples.compare_model(expected, _outputs(frame, len(expected)))
        variant.result = dataclasses.replace(
            variant.result,
            max_abs_error=found.max_abs_error,
            max_rel_error=found.max_rel_error,
            wrong_output=found.output,
            outputs=found.outputs,
        )
        if found.wrong:
            raise _FailedError(MeasurementStatus.WRONG_OUTPUT, found.wrong)
        variant.helper.freeze()

    def _repeat(self, variant: _Variant, work: ModelWork) -> None:
        assert variant.helper is not None
        config = work.evaluator
        number = max(config.number, 1)
        header = {
            "op": "repeat",
            "number": number,
            "min_repeat_ms": config.min_repeat_ms,
            "cold_cache": config.cold_cache,
            "time_parts": work.time_parts,
        }
        timeout_s = config.timeout_s * (number + 1)  # and its warm-up
        variant.helper.thaw()
        try:
            frame = _ask(variant.helper, header, timeout_s, "repeated")
        finally:
            variant.helper.freeze()  # idle thread pools spin for longer than the next one's turn
        seconds = frame.header.get("seconds")
        if not isinstance(seconds, float) or not seconds > 0:
            raise _FailedError(MeasurementStatus.GARBAGE, f"{seconds!r} is no time")
        if work.time_parts:
            found = _part_times(frame.header.get("part_s"))
            if variant.part_s and len(found) != len(variant.part_s[0]):
                message = f"{len(found)} parts, and {len(variant.part_s[0])} before"
                raise _FailedError(MeasurementStatus.GARBAGE, message)
            variant.part_s.append(found)
        resident = frame.header.get("resident_bytes")
        variant.result = dataclasses.replace(
            variant.result,
            repeats_s=(*variant.result.repeats_s, seconds),
            resident_bytes=resident if isinstance(resident, int) and resident > 0 else 0,
        )

    def _guard(self, variant: _Variant, step: Callable[[], None]) -> None:
        """Take one step with a variant; its failure is its result."""
        try:
            step()
        except (_FailedError, HelperDiedError, HelperTimeoutError, FrameError) as error:
            if self._closed:
                raise LeaseFailedError("the agent is shutting down") from error
            log.info("variant %s: %s", variant.result.name, error)
            variant.result = dataclasses.replace(
                variant.result, status=_status(error), error=str(error), repeats_s=()
            )
            helper, variant.helper = variant.helper, None
            if helper is not None:
                self._end(helper, 0.0)

    def _start(self, num_threads: int, folder: Path) -> HelperProcess:
        cpus = self._device.cpus
        # TVM pins its threads to the machine's first CPUs; right only if these are ours.
        first = cpus == tuple(range(len(cpus)))
        arguments = ["--cpus", ",".join(map(str, cpus)), "--parent", str(os.getpid())]
        with self._lock:
            if self._closed:
                raise LeaseFailedError("the agent is shutting down")
            helper = HelperProcess(
                "device_agent.model_child",
                arguments,
                num_threads,
                directory=folder,
                extra={"TVM_BIND_THREADS": "1" if first else "0"},
            )
            self._helpers.append(helper)
        return helper

    def _end(self, helper: HelperProcess, grace_s: float) -> None:
        helper.close(grace_s)
        with self._lock:
            if helper in self._helpers:
                self._helpers.remove(helper)

    def _end_all(self, grace_s: float = 0.2) -> None:
        with self._lock:
            helpers = list(self._helpers)
        for helper in helpers:
            self._end(helper, grace_s)


def _far_behind(variant: _Variant, variants: Sequence[_Variant]) -> bool:
    """Whether more rounds would tell nothing new of it."""
    own_s = variant.result.repeats_s
    if len(own_s) < ENOUGH_ROUNDS:
        return False
    least_s = min(min(one.result.repeats_s) for one in variants if one.result.repeats_s)
    return min(own_s) > FAR_BEHIND * least_s


def _status(error: Exception) -> MeasurementStatus:
    if isinstance(error, _FailedError):
        return error.status
    if isinstance(error, HelperTimeoutError):
        return MeasurementStatus.TIMED_OUT
    return MeasurementStatus.GARBAGE if isinstance(error, FrameError) else MeasurementStatus.CRASHED


def _ask(
    helper: HelperProcess,
    header: dict[str, Any],
    timeout_s: float,
    wanted: str,
    failure: MeasurementStatus = MeasurementStatus.CRASHED,
) -> Frame:
    helper.send(header)
    frame = helper.receive(timeout_s)
    operation = frame.header.get("op")
    if operation == "failed":
        raise _FailedError(failure, str(frame.header.get("error", "")))
    if operation != wanted:
        raise _FailedError(MeasurementStatus.GARBAGE, f"answered {operation!r}, not {wanted!r}")
    return frame


def _part_times(found: Any) -> list[float]:
    """One repeat's seconds of each part, as the child says."""
    if not isinstance(found, list) or not all(isinstance(s, float) and s >= 0 for s in found):
        raise _FailedError(MeasurementStatus.GARBAGE, f"{str(found)[:200]} are no times")
    return found


def _outputs(frame: Frame, count: int) -> list[Mapping[str, Array]]:
    """The outputs of each example, as the child described them."""
    found: list[dict[str, Array]] = [{} for _ in range(count)]
    try:
        described = frame.header["outputs"]
        for (index, name, dtype, shape), blob in zip(described, frame.blobs, strict=True):
            found[index][name] = np.frombuffer(blob, dtype).reshape(shape)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise _FailedError(MeasurementStatus.GARBAGE, f"outputs that can't be: {error}") from error
    return list(found)
