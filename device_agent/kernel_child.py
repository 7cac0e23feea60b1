"""What happens inside a forked child: load, run, time; the parent sees the outputs."""

from __future__ import annotations

import math
import mmap
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from device_agent import containment, timing
from device_agent.runtime import Kernel, Runtime
from protos.records import MeasurementStatus

Array = np.ndarray[Any, Any]

MAX_ERROR_CHARACTERS = 600

AGAIN_BELOW_S = 0.1
"""A kernel that is faster runs twice before its outputs are looked at. The second run has warm
caches, so the faster of the two says something; and memory that a kernel forgets to fill, zero in
the first run, is what the first run left there."""

COLD_BELOW_S = 0.005
"""A single run that is faster is made twice, and the faster counts: other candidates had the caches
before the first, and either may have been disturbed."""


@dataclass(frozen=True)
class ChildTask:
    """One kernel to run. ``outputs`` are memory that the parent sees, too."""

    artifact: bytes
    cpus: tuple[int, ...]
    num_threads: int
    inputs: Sequence[Array]
    outputs: Sequence[Array]


MAX_GAP_PAGES = 1024
"""Address space that is left unused, at most, before a kernel is loaded."""

LOAD, CHECK = {"do": "load"}, {"do": "check"}
"""The questions before all plans."""


class KernelChild:
    """Answers what the parent asks of one kernel: to load it, to run it, then plans of timing."""

    def __init__(self, runtime: Runtime, task: ChildTask) -> None:
        self._runtime = runtime
        self._task = task
        self._kernel: Kernel | None = None

    def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of an Answer, as JSON values."""
        if self._kernel is None:
            return self._load()
        try:
            return self._run(self._kernel, question)
        except Exception as error:  # the kernel's own checks, on its shapes for example
            return _failed(MeasurementStatus.CRASHED, error)

    def _load(self) -> dict[str, Any]:
        task = self._task
        # Where a kernel and its memory lie is worth some hundredths of its time, rarely much more.
        # A measurement in another process is one at other addresses, as in another run of a model.
        self._gap = mmap.mmap(-1, (1 + secrets.randbelow(MAX_GAP_PAGES)) * mmap.PAGESIZE)
        self._runtime.pin(task.cpus, task.num_threads)
        try:
            loaded = self._runtime.load(task.artifact)
        except Exception as error:  # whatever the linker says of an artifact is data
            return _failed(MeasurementStatus.LOAD_ERROR, error)
        self._kernel = self._runtime.bind(loaded, [*task.inputs, *task.outputs])
        return _right()

    @staticmethod
    def _run(kernel: Kernel, question: Mapping[str, Any]) -> dict[str, Any]:
        if question == CHECK:
            return _right((_single_run_s(kernel, AGAIN_BELOW_S),))
        plan = timing.Plan(**question)
        if plan == timing.SINGLE_RUN:
            return _right((_single_run_s(kernel, COLD_BELOW_S),))
        return _right(
            kernel.evaluate(plan.number, plan.repeat, plan.min_repeat_ms, plan.flush_bytes)
        )


def _single_run_s(kernel: Kernel, again_below_s: float) -> float:
    run_s = _seconds(kernel.run)
    return min(run_s, _seconds(kernel.run)) if run_s < again_below_s else run_s


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _right(repeats_s: Sequence[float] = ()) -> dict[str, Any]:
    return {
        "status": MeasurementStatus.OK.name,
        "error": "",
        "repeats_s": list(repeats_s),
        "threads": containment.count_threads(),
    }


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
    """A child's answer after it has been checked; ``repeats_s`` are seconds per run."""

    status: MeasurementStatus
    error: str
    repeats_s: tuple[float, ...]
    threads: int


def parse_answer(fields: Mapping[str, Any] | Any, timed: bool = True) -> Answer:
    """Check what a child said; raises ValueError if it is no complete answer.

    One that is not ``timed``, to be loaded, has no repeats.
    """
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
    if status is MeasurementStatus.OK and timed and not repeats:
        raise ValueError("no repeats")
    return Answer(status, error, tuple(repeats), threads)
