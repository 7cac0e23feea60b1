"""Stock MetaSchedule's way of timing one candidate, for kernels that the farm built.

``stock_runner`` keeps ``python -m benchmarks.stock_runner`` running and asks it for one measurement
after the other. The child has a ``LocalRunner`` as it comes: the default evaluator (3 runs or
100 ms, once, the mean), its own worker process, random inputs, no comparison of outputs.
``TVM_NUM_THREADS`` is the target's ``num-cores``. The object file travels in a tar archive, as
stock's builder leaves it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from benchmarks.process import QUOTED_CHARACTERS, ProcessFailed
from benchmarks.timing import Contender
from coordinator.frontend.target import num_threads


class StockRunner:
    """The peer's process, which ``stock_runner`` starts; ``errors`` is its standard error."""

    def __init__(self, child: subprocess.Popen[str], folder: Path, errors: IO[str]) -> None:
        self._child = child
        self._folder = folder
        self._errors = errors

    def latency_s(self, kernel: Contender) -> float:
        """What stock says of a kernel, the mean of its runs; raises ProcessFailed if it fails."""
        args = [[list(spec.shape), spec.dtype] for spec in kernel.args]
        answer = self._ask({"path": str(self._archive(kernel)), "args": args})
        if answer["error"]:
            raise ProcessFailed(f"stock's runner on {kernel.name}: {answer['error']}")
        runs: list[float] = answer["seconds"]
        return sum(runs) / len(runs)

    def _archive(self, kernel: Contender) -> Path:
        path = self._folder / f"{kernel.name.replace('/', '-')}.tar"
        source = path.with_suffix(".o")
        source.write_bytes(kernel.artifact)
        with tarfile.open(path, "w") as archive:
            archive.add(source, source.name)
        return path

    def _ask(self, question: dict[str, Any]) -> Any:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            print(json.dumps(question), file=self._child.stdin, flush=True)
            line = self._child.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._errors.seek(0)
            raise ProcessFailed(
                f"stock's runner ended:\n{self._errors.read()[-QUOTED_CHARACTERS:]}"
            )
        return json.loads(line)


@contextlib.contextmanager
def stock_runner(target: str) -> Iterator[StockRunner]:
    """The peer's process, which ends with the body."""
    environment = {**os.environ, "TVM_NUM_THREADS": str(num_threads(target))}
    with (
        tempfile.TemporaryDirectory(prefix="tunefarm-benchmark-") as folder,
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.stock_runner"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as child,
    ):
        yield StockRunner(child, Path(folder), errors)


def _measure(runner: Any, path: str, args: Sequence[tuple[Sequence[int], str]]) -> dict[str, Any]:
    from tvm.s_tir import meta_schedule as ms

    infos = [ms.arg_info.TensorInfo(dtype, shape) for shape, dtype in args]
    (future,) = runner.run([ms.runner.RunnerInput(path, "cpu", infos)])
    result = future.result()
    seconds = [float(run) for run in result.run_secs or ()]
    return {
        "seconds": seconds,
        "error": None if result.error_msg is None else str(result.error_msg),
    }


def main() -> None:
    """Answer one question a line, until there are no more."""
    from tvm.s_tir import meta_schedule as ms

    runner = ms.runner.LocalRunner()
    for line in sys.stdin:
        question = json.loads(line)
        print(json.dumps(_measure(runner, question["path"], question["args"])), flush=True)


if __name__ == "__main__":
    main()
