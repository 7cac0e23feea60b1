"""The peer: stock MetaSchedule on one model, in a process of its own.

``run_stock`` starts ``python -m benchmarks.stock`` and reads what that writes. The child takes the
program that the farm makes of the model, and tunes it with ``ms.tune_tir``: LocalBuilder (time-out
raised from 30 to 300 s, or it builds nothing: every builder process first parses the intrinsics of
every target), LocalRunner and the XGBoost model, all else as it comes. The runner is asked for one
candidate at a time, which is what it does by itself, so as to note when each was measured. Stock
compares no output with a reference. ``TVM_NUM_THREADS`` is the target's ``num-cores``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.operators import Operator
from benchmarks.process import run_quietly
from coordinator.frontend.target import num_threads
from coordinator.search.traces import trace_to_json

BUILD_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class StockRun:
    """What became of one search. Times are seconds; the search's begins with its first proposal.

    ``trials`` has, for each candidate, when it was measured and its latency in microseconds (None
    if it failed). ``best_trace_json`` is the fastest candidate's trace, None if there is none.
    ``search_s`` ends with the last measurement; ``whole_s`` is the process's life.
    """

    trials: tuple[tuple[float, float | None], ...]
    workload_json: str
    best_trace_json: str | None
    import_s: float
    search_s: float
    whole_s: float
    stage_s: Mapping[str, float]

    @property
    def ok(self) -> int:
        """Trials that were built and timed."""
        return sum(latency is not None for _, latency in self.trials)

    @property
    def failed(self) -> int:
        """The others."""
        return len(self.trials) - self.ok

    @property
    def best_us(self) -> float | None:
        """The best latency as the runner reported it."""
        return min((us for _, us in self.trials if us is not None), default=None)


def run_stock(operator: Operator, target: str, trials: int, seed: int) -> StockRun:
    """Tune with stock MetaSchedule; raises ProcessFailed if its process fails."""
    with tempfile.TemporaryDirectory(prefix="tunefarm-benchmark-") as directory:
        model, out = Path(directory) / "model.onnx", Path(directory) / "run.json"
        model.write_bytes(operator.model)
        started = time.monotonic()
        run_quietly(
            [
                *(sys.executable, "-m", "benchmarks.stock", str(model), str(out)),
                *("--target", target, "--trials", str(trials), "--seed", str(seed)),
            ],
            {**os.environ, "TVM_NUM_THREADS": str(num_threads(target))},
        )
        whole_s = time.monotonic() - started
        found = json.loads(out.read_text())
    found["trials"] = tuple((at, latency) for at, latency in found["trials"])
    return StockRun(**{**found, "whole_s": whole_s})


def workload(model: bytes, target_json: str) -> Any:
    """The IRModule of the model's operator with the most arithmetic, as the farm imports it.

    TVM's own passes would leave a convolution channels first. Both search the same program.
    """
    import tvm

    from coordinator.frontend.importer import import_model

    tasks = import_model(model, {}, target_json, {}).tasks
    return tvm.ir.load_json(max(tasks, key=lambda task: task.flops).workload_json)


def noting_runner(moments: list[float]) -> Any:
    """LocalRunner that appends ``time.monotonic()`` after each measurement."""
    from tvm.ir.utils import derived_object
    from tvm.s_tir import meta_schedule as ms

    runner = ms.runner.LocalRunner()

    @derived_object
    class NotingRunner(ms.runner.PyRunner):  # type: ignore[misc]
        def run(self, runner_inputs: Any) -> Any:
            futures = []
            for candidate in runner_inputs:
                futures.extend(runner.run([candidate]))
                moments.append(time.monotonic())
            return futures

    return NotingRunner()


def noting_callback(results: list[tuple[bool, float | None]]) -> Any:
    """A measure callback that appends, for each candidate, whether it was built and its latency.

    That is the mean in microseconds, None if it failed.
    """
    from tvm.ir.utils import derived_object
    from tvm.s_tir import meta_schedule as ms

    @derived_object
    class NotingCallback(ms.measure_callback.PyMeasureCallback):  # type: ignore[misc]
        def apply(self, scheduler: Any, task: Any, candidates: Any, built: Any, ran: Any) -> None:
            for build, result in zip(built, ran, strict=True):
                runs = [float(seconds) for seconds in result.run_secs or ()]
                latency_us = sum(runs) / len(runs) * 1e6 if runs else None
                results.append((build.error_msg is None, latency_us))

    return NotingCallback()


def tune(model: bytes, target_json: str, trials: int, seed: int) -> StockRun:
    """The search, in this process."""
    started = time.monotonic()
    import tvm
    import tvm.s_tir.tensor_intrin
    from tvm.s_tir import meta_schedule as ms

    target = tvm.target.Target(json.loads(target_json))
    module = workload(model, target_json)
    moments: list[float] = []
    results: list[tuple[bool, float | None]] = []
    builder = ms.builder.LocalBuilder(timeout_sec=BUILD_TIMEOUT_S)
    runner = noting_runner(moments)
    callbacks = [noting_callback(results), *ms.measure_callback.MeasureCallback.create("default")]
    with tempfile.TemporaryDirectory(prefix="tunefarm-benchmark-") as work_dir, ms.Profiler() as p:
        begun = time.monotonic()
        database = ms.tune_tir(
            module,
            target,
            work_dir,
            max_trials_global=trials,
            builder=builder,
            runner=runner,
            cost_model="xgb",
            measure_callbacks=callbacks,
            seed=seed,
        )
    moments = [moment - begun for moment in moments]
    best = database.query_tuning_record(module, target, "main")
    return StockRun(
        trials=tuple(timeline(moments, results)),
        workload_json=tvm.ir.save_json(module),
        best_trace_json=None if best is None else trace_to_json(best.trace),
        import_s=begun - started,
        search_s=max(moments, default=0.0),
        whole_s=0.0,
        stage_s={str(name): float(seconds) for name, seconds in p.get().items()},
    )


def timeline(
    moments: Sequence[float], results: Sequence[tuple[bool, float | None]]
) -> Iterator[tuple[float, float | None]]:
    """Moment and latency of each candidate; one that was not built has the moment before it."""
    measured, at = iter(moments), 0.0
    for built, latency_us in results:
        at = next(measured) if built else at
        yield at, latency_us


def main() -> None:
    """Tune one model and write the run as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stock", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--target", required=True)
    parser.add_argument("--trials", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    run = tune(options.model.read_bytes(), options.target, options.trials, options.seed)
    options.out.write_text(json.dumps(asdict(run)))


if __name__ == "__main__":
    main()
