"""What happens inside the forked child: load, run once, time; the parent sees the outputs."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from device_agent import containment, timing
from device_agent.runtime import Kernel, Runtime
from protos.records import EvaluatorConfig, MeasurementStatus

Array = np.ndarray[Any, Any]

MAX_ERROR_CHARACTERS = 600


@dataclass(frozen=True)
class ChildTask:
    """One kernel to run. ``outputs`` are memory that the parent sees, too, and has poisoned.

    ``asked`` is when the parent began with it, on ``time.monotonic``'s clock, which both share.
    """

    artifact: bytes
    cpus: tuple[int, ...]
    num_threads: int
    inputs: Sequence[Array]
    outputs: Sequence[Array]
    evaluator: EvaluatorConfig
    best_us: float = 0.0
    timed: bool = True
    asked: float = 0.0


@dataclass(frozen=True)
class Parts:
    """Where the time of a measurement went, seconds: getting ready, first run and comparison, and
    the warm run with the repeats."""

    load_s: float = 0.0
    check_s: float = 0.0
    time_s: float = 0.0


NO_PARTS = Parts()


def run_task(runtime: Runtime, task: ChildTask) -> dict[str, Any]:
    """The child's answer: ``status``, ``error``, ``repeats_s``, ``threads`` and its ``Parts``."""
    started = time.monotonic()
    runtime.pin(task.cpus, task.num_threads)
    try:
        loaded = runtime.load(task.artifact)
    except Exception as error:  # whatever the linker says of an artifact is data
        return _failed(MeasurementStatus.LOAD_ERROR, error)
    try:
        kernel = runtime.bind(loaded, [*task.inputs, *task.outputs])
        ready = time.monotonic()
        first_s = _seconds(kernel.run)
        checked = time.monotonic()
        repeats_s = time_kernel(kernel, task, first_s, started) if task.timed else (first_s,)
    except Exception as error:  # the kernel's own checks, on its shapes for example
        return _failed(MeasurementStatus.CRASHED, error)
    return {
        "status": MeasurementStatus.OK.name,
        "error": "",
        "repeats_s": list(repeats_s),
        "threads": containment.count_threads(),
        "load_s": ready - task.asked,
        "check_s": checked - ready,
        "time_s": time.monotonic() - checked,
    }


def time_kernel(
    kernel: Kernel, task: ChildTask, first_s: float, started: float
) -> tuple[float, ...]:
    """Seconds per run of every repeat; a single one if more would be wasted or too long.

    ``started`` is when this task began, on ``time.monotonic``'s clock.
    """
    config = task.evaluator
    if timing.is_hopeless(config, task.best_us, first_s, first=True):
        return (first_s,)
    left_s = config.timeout_s - (time.monotonic() - started)
    if first_s > left_s * timing.SAFETY:
        return (first_s,)
    warm_s = _seconds(kernel.run)
    if timing.is_hopeless(config, task.best_us, warm_s, first=False):
        return (warm_s,)
    return _sample(kernel, task, warm_s, started) or (warm_s,)


def _sample(kernel: Kernel, task: ChildTask, warm_s: float, started: float) -> tuple[float, ...]:
    """Samples until they are enough, or as many as there is time for, maybe none."""
    config, spent_s = task.evaluator, 0.0
    samples_s: tuple[float, ...] = ()
    while count := timing.more_samples(config, task.best_us, samples_s, spent_s):
        now = time.monotonic()
        run_s = statistics.median(samples_s) if samples_s else warm_s
        plan = timing.plan(config, count, run_s, config.timeout_s - (now - started))
        if plan is None:
            break
        samples_s += kernel.evaluate(plan.number, plan.repeat, plan.min_repeat_ms, plan.flush_bytes)
        spent_s += time.monotonic() - now
        if plan.repeat < count:
            break
    return samples_s


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _failed(status: MeasurementStatus, error: Exception) -> dict[str, Any]:
    text = " ".join(str(error).split())[:MAX_ERROR_CHARACTERS]
    return {
        "status": status.name,
        "error": f"{type(error).__name__}: {text}",
        "repeats_s": [],
        "threads": 0,
    }


@dataclass(frozen=True)
class Answer:
    """A child's answer after it has been checked."""

    status: MeasurementStatus
    error: str
    repeats_s: tuple[float, ...]
    threads: int
    parts: Parts = NO_PARTS


def parse_answer(fields: Mapping[str, Any] | Any) -> Answer:
    """Check what a child said; raises ValueError if it is no complete answer."""
    if not isinstance(fields, dict):
        raise ValueError("not an object")
    try:
        status = MeasurementStatus[fields["status"]]
        error, repeats, threads = fields["error"], fields["repeats_s"], fields["threads"]
    except (KeyError, TypeError) as problem:
        raise ValueError(f"incomplete: {problem}") from problem
    if not isinstance(error, str) or not isinstance(repeats, list) or not isinstance(threads, int):
        raise ValueError("fields of the wrong type")
    for repeat in repeats:
        if not isinstance(repeat, float) or not math.isfinite(repeat) or repeat <= 0:
            raise ValueError(f"{repeat!r} is no time")
    if status is MeasurementStatus.OK and not repeats:
        raise ValueError("no repeats")
    return Answer(status, error, tuple(repeats), threads, _parts(fields))


def _parts(fields: Mapping[str, Any]) -> Parts:
    """What a child that got so far says of its time; raises ValueError if that is no time."""
    seconds = {name: fields.get(name, 0.0) for name in ("load_s", "check_s", "time_s")}
    for name, value in seconds.items():
        if not isinstance(value, float) or not math.isfinite(value) or value < 0:
            raise ValueError(f"{name} of {value!r} is no time")
    return Parts(**seconds)
