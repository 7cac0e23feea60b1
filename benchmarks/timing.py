"""Kernels timed in turn, in one process, with one evaluator: what is compared is timed so.

``alternate`` starts ``python -m benchmarks.timing``, a process with TVM's runtime and no compiler,
as the agent's: pinned, with the target's number of threads, while nobody builds on this host.
"""

from __future__ import annotations

import argparse
import math
import os
import pickle
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.process import run_quietly
from device_agent import inputs
from device_agent.runtime import load_runtime
from device_agent.workloads import private_copy, somewhere
from protos import host_lock
from protos.records import TensorSpec

ROUNDS = 30
MIN_REPEAT_MS = 10
SEED = 0

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Contender:
    """An object file with a function ``main``; ``timed`` False: run once, for its outputs."""

    name: str
    artifact: bytes = field(repr=False)
    args: tuple[TensorSpec, ...]
    timed: bool = True


@dataclass(frozen=True)
class Timed:
    """Seconds per run of every round, and the output of the first run; each has one."""

    rounds_s: tuple[float, ...]
    output: Array = field(repr=False)

    @property
    def median_s(self) -> float:
        """Over the rounds."""
        return statistics.median(self.rounds_s)


def contender(name: str, workload: str, trace: str, target: str, timed: bool = True) -> Contender:
    """Build a candidate as the farm's builders do; raises RuntimeError if it does not build."""
    from device_agent.build import build_kernel

    built = build_kernel(workload, trace, target)
    if built.artifact is None:
        raise RuntimeError(f"{name} does not build: {built.error}")
    return Contender(name, built.artifact.data, built.args, timed)


def seeded(args: Sequence[TensorSpec]) -> list[Array]:
    """The inputs of a kernel whose last parameter is its output; the same everywhere."""
    return [inputs.make_input(spec, SEED, index) for index, spec in enumerate(args[:-1])]


def alternate(
    contenders: Sequence[Contender], threads: int, rounds: int = ROUNDS
) -> dict[str, Timed]:
    """Time each once a round; by name. Raises ProcessFailed."""
    with tempfile.TemporaryDirectory(prefix="tunefarm-benchmark-") as directory:
        asked, answered = Path(directory) / "asked", Path(directory) / "answered"
        asked.write_bytes(pickle.dumps((list(contenders), threads, rounds)))
        command = [sys.executable, "-m", "benchmarks.timing", str(asked), str(answered)]
        run_quietly(command, os.environ)
        found: dict[str, Timed] = pickle.loads(answered.read_bytes())
        return found


def same(left: Timed, right: Timed) -> bool:
    """Whether two kernels of one workload computed the same."""
    return inputs.compare(left.output, right.output).ok


def _time_all(contenders: Sequence[Contender], threads: int, rounds: int) -> dict[str, Timed]:
    runtime = load_runtime()
    cpus = tuple(sorted(os.sched_getaffinity(0)))
    runtime.pin(cpus, threads)
    kernels, outputs, numbers = {}, {}, {}
    memory: dict[tuple[TensorSpec, ...], list[Array]] = {}
    for item in contenders:
        # Those with equal parameters share them: where memory lies is worth a hundredth or two.
        if item.args not in memory:
            inputs_ = [private_copy(array) for array in seeded(item.args)]
            memory[item.args] = [*inputs_, somewhere(item.args[-1])]
        *_, output = memory[item.args]
        kernel = runtime.bind(runtime.load(item.artifact), memory[item.args])
        output.fill(0)
        kernel.run()
        outputs[item.name] = output.copy()
        if item.timed:
            (once_s,) = kernel.evaluate(1, 1, 0, 0)
            numbers[item.name] = max(1, math.ceil(MIN_REPEAT_MS / 1e3 / once_s))
            kernels[item.name] = kernel
    seconds: dict[str, list[float]] = {item.name: [] for item in contenders}
    for _ in range(rounds):
        for name, kernel in kernels.items():
            seconds[name] += kernel.evaluate(numbers[name], 1, 0, 0)
    return {name: Timed(tuple(seconds[name]), outputs[name]) for name in seconds}


def main() -> None:
    """Answer one question of ``alternate``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.timing", description=__doc__)
    parser.add_argument("asked", type=Path)
    parser.add_argument("answered", type=Path)
    options = parser.parse_args()
    contenders, threads, rounds = pickle.loads(options.asked.read_bytes())
    with host_lock.timing(sorted(os.sched_getaffinity(0))):
        found = _time_all(contenders, threads, rounds)
    options.answered.write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    # Under the name by which the asker knows its classes, for pickle.
    from benchmarks import timing

    timing.main()
