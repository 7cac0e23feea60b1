"""One device over TVM's own RPC: tracker, server and MetaSchedule's ``RPCRunner``, as they come.

``python -m benchmarks.rpc_peer`` answers one question in its standard input, of ``timed``. All
three are in processes of their own, as `tvm.exec` starts them, and speak plain TCP over loopback.
For each candidate the runner asks the tracker for the device, and the server forks a process, which
links the object file and times it. Nothing is compared with a reference.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.process import QUOTED_CHARACTERS, ProcessFailed
from benchmarks.timing import Contender
from coordinator.frontend.target import num_threads

HOST = "127.0.0.1"
FIRST_PORT, LAST_PORT = 19190, 19990
KEY = "benchmark"
WARM_UP = 2


@dataclass(frozen=True)
class Overhead:
    """Seconds that measurements took one after the other, and those of the runs they timed."""

    name: str
    measurements: int
    wall_s: float
    kernel_s: float

    @property
    def each_s(self) -> float:
        """Of a measurement, beyond the kernel's own time."""
        return (self.wall_s - self.kernel_s) / self.measurements


def timed(kernel: Contender, target: str, count: int, number: int) -> Overhead:
    """So many measurements of ``number`` runs each; raises ProcessFailed if one fails."""
    with tempfile.TemporaryDirectory(prefix="tunefarm-benchmark-") as folder:
        source = Path(folder) / "kernel.o"
        source.write_bytes(kernel.artifact)
        archive = source.with_suffix(".tar")
        with tarfile.open(archive, "w") as packed:
            packed.add(source, source.name)
        question = {
            "path": str(archive),
            "args": [[list(spec.shape), spec.dtype] for spec in kernel.args],
            "count": count,
            "number": number,
        }
        environment = {**os.environ, "TVM_NUM_THREADS": str(num_threads(target))}
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.rpc_peer"],
            input=json.dumps(question),
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise ProcessFailed(f"TVM's RPC failed:\n{done.stderr[-QUOTED_CHARACTERS:]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    return Overhead("RPCRunner", count, answer["wall_s"], answer["kernel_s"])


def _measure(question: dict[str, Any]) -> dict[str, float]:
    from tvm import rpc
    from tvm.rpc.tracker import Tracker
    from tvm.s_tir import meta_schedule as ms

    ports = {"port": FIRST_PORT, "port_end": LAST_PORT, "silent": True}
    tracker = Tracker(HOST, **ports)
    server = rpc.Server(HOST, key=KEY, tracker_addr=(HOST, tracker.port), **ports)
    try:
        runner = ms.runner.RPCRunner(
            ms.runner.RPCConfig(HOST, tracker.port, KEY),
            ms.runner.EvaluatorConfig(question["number"], 1, 0, False),
        )
        infos = [ms.arg_info.TensorInfo(dtype, shape) for shape, dtype in question["args"]]
        wanted = ms.runner.RunnerInput(question["path"], "cpu", infos)
        _seconds(runner.run([wanted] * WARM_UP))
        began = time.perf_counter()
        seconds = _seconds(runner.run([wanted] * question["count"]))
        wall_s = time.perf_counter() - began
    finally:
        server.terminate()
        tracker.terminate()
    return {"wall_s": wall_s, "kernel_s": sum(seconds) * question["number"]}


def _seconds(futures: Any) -> list[float]:
    found: list[float] = []
    for future in futures:
        result = future.result()
        if result.error_msg is not None:
            raise RuntimeError(str(result.error_msg))
        found += [float(run) for run in result.run_secs]
    return found


def main() -> None:
    """Answer the question."""
    print(json.dumps(_measure(json.load(sys.stdin))), flush=True)


if __name__ == "__main__":
    main()
