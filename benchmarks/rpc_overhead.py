"""What a measurement takes beyond its kernel's own time: the farm's and TVM's RPC, one device each.

Both time the same object file on this machine's CPUs, one candidate after the other, with the same
number of runs: the farm by a real ``tunefarm agent`` over loopback, which forks a child for each
candidate and compares its output with a reference, its results durable in a SQLite log; TVM as
``benchmarks.rpc_peer`` says. The first measurements, for which processes are started, are left out
on both sides. The kernel's own time is that of the runs that the evaluators report.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks import rpc_peer
from benchmarks.operators import matmul
from benchmarks.process import progress
from benchmarks.proposing import imported_task
from benchmarks.replay import STARTED_WITHIN_S, listening
from benchmarks.result import table
from benchmarks.rpc_peer import Overhead
from benchmarks.timing import Contender, contender
from coordinator.fleet.fleet import Fleet
from coordinator.frontend.target import resolve_target
from coordinator.stages import StageClock
from coordinator.tuning_log import TuningLog
from protos.records import (
    UNTUNED_TRACE,
    Artifact,
    Candidate,
    EvaluatorConfig,
    JobSpec,
    KernelWork,
    Task,
    sha256_hex,
)

MEASUREMENTS = 64
NUMBER = 3
"""Runs, as stock's evaluator makes at least."""

SIZE = 64
"""Of the matrices: the kernel's own time is to be small beside the overhead."""

EVALUATOR = EvaluatorConfig(number=NUMBER, repeat=1, min_repeat_ms=0)


def compared(count: int) -> tuple[Overhead, Overhead]:
    """The farm's, and TVM's."""
    target = resolve_target("auto", None)
    task = imported_task(matmul(SIZE), target)
    kernel = contender("untuned", task.workload_json, UNTUNED_TRACE, target)
    progress(f"one device: {count} measurements over TVM's RPC")
    theirs = rpc_peer.timed(kernel, target, count, NUMBER)
    progress(f"one device: {count} measurements by the farm")
    with tempfile.TemporaryDirectory(prefix="tunefarm-benchmark-") as folder:
        ours = asyncio.run(_farms(kernel, task, target, count, Path(folder) / "log.db"))
    return ours, theirs


async def _farms(kernel: Contender, task: Task, target: str, count: int, path: Path) -> Overhead:
    log = TuningLog.open(str(path))
    fleet = Fleet(log)
    try:
        async with listening(fleet) as port, _agent(port, target):
            async with asyncio.timeout(STARTED_WITHIN_S):
                device = await fleet.device_for(target)
            spec = JobSpec("overhead", sha256_hex(b""), target, count)
            job_id = log.add_job(spec, "benchmark", embedded=True).job_id
            log.set_tasks(job_id, [task])
            artifact = Artifact.of(kernel.artifact)
            work = KernelWork(
                *(task.workload_key, task.args, task.num_outputs, 0, artifact, EVALUATOR, ())
            )

            async def measure(numbers: Sequence[int]) -> float:
                trials: list[tuple[Candidate, Artifact, float | None]] = [
                    (Candidate(task.workload_key, f"[{number}]"), artifact, None)
                    for number in numbers
                ]
                found = await fleet.measure(job_id, device.kind, work, trials, StageClock())
                failed = [one for one in found if not one.ok]
                if failed:
                    raise RuntimeError(f"{failed[0].status.name}: {failed[0].error}")
                return sum(sum(one.repeats_s) * NUMBER for one in found)

            await measure(range(-rpc_peer.WARM_UP, 0))
            began = time.perf_counter()
            kernel_s = await measure(range(count))
            return Overhead("tunefarm", count, time.perf_counter() - began, kernel_s)
    finally:
        log.close()


@asynccontextmanager
async def _agent(port: int, target: str) -> AsyncIterator[None]:
    command = [sys.executable, "-m", "coordinator.cli.main", "agent", "--target", target]
    command += ["--coordinator", f"127.0.0.1:{port}", "--name", "overhead"]
    agent = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        agent.terminate()
        agent.wait()


def overhead_table(overheads: Sequence[Overhead]) -> str:
    """Milliseconds of a measurement."""
    headings = ("one device", "measurements", "ms each", "kernel's own", "beyond it")
    rows = [
        (
            *(one.name, one.measurements, one.wall_s / one.measurements * 1e3),
            *(one.kernel_s / one.measurements * 1e3, one.each_s * 1e3),
        )
        for one in overheads
    ]
    return table(headings, rows)


def main() -> None:
    """Only this part of ``benchmarks.fleet``."""
    ours, theirs = compared(MEASUREMENTS)
    print(overhead_table((ours, theirs)))
    print(f"{theirs.each_s / ours.each_s:.3g}")


if __name__ == "__main__":
    main()
