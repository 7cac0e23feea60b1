"""What a full tuning log is worth: a model tuned on it beside the same on an empty one.

    python -m benchmarks.transfer [--model mobilenet_v2] [--trials N] [--others LOG]

The full log holds the other models of ``benchmarks.models``, tuned on the same kind of device, but
not this one; ``--others`` names a log that has them, and without it they are tuned first
(``--other-trials`` each). Then the model's operators are tuned twice with the same budget, and a
third time on a log that holds the model itself, but of another kind of device: the same machine
with one thread. The best known is the best that any of the runs found, operator by operator.

- ``trials_ratio``: trials on the empty log until the operators together are within 5 % of the best
  known (all of its trials, if it never is: the ratio is larger then), over those on the full log;
  ``seconds_ratio`` likewise. ``reached_empty`` is 1 if the empty log's run was within 5 %.
- ``trials_ratio_kind``: the same over those on the log of the other kind.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import model_zoo
from benchmarks.embedded_farm import Model, embedded_farm, with_ray
from benchmarks.process import progress
from benchmarks.result import last_line, table
from coordinator.frontend.target import resolve_target
from coordinator.results.curve import CurvePoint, tuning_curve
from coordinator.tuning_log import TuningLog
from protos.records import History, TaskProgress

WITHIN = 1.05


@dataclass(frozen=True)
class Run:
    """What a job found: its history, how often the model runs each task, and the best time of each,
    microseconds."""

    history: History
    weights: Mapping[str, int]
    best_us: Mapping[str, float]

    def curve(self) -> tuple[CurvePoint, ...]:
        """The sum over the operators after each trial."""
        tasks = [TaskProgress(key, key, weight) for key, weight in self.weights.items()]
        return tuning_curve(tasks, self.history)

    def reached(self, latency_us: float) -> CurvePoint | None:
        """When the operators together were first as fast as this."""
        return next((p for p in self.curve() if p.latency_us <= latency_us), None)


def zoo_model(name: str) -> Model:
    """A model of the zoo, made if need be."""
    (model,) = model_zoo.choose([name])
    path = model_zoo.files(model, model_zoo.cache_folder()).onnx
    return Model(name, path.read_bytes(), model.shapes)


async def tune(url: str, target: str, models: Sequence[Model], trials: int) -> list[str]:
    """Tune models one after the other on one log; returns the jobs' ids."""
    found = []
    async with embedded_farm(url, target) as farm:
        for model in models:
            progress(f"{model.name}: {trials} trials on {Path(url).name}")
            found.append((await farm.tune(model, trials)).job_id)
    return found


def read(url: str, job_id: str) -> Run:
    """What a job found."""
    log = TuningLog.open(url)
    try:
        history = log.history(job_id)
        weights = {task.workload_key: task.weight for task in log.tasks(job_id)}
    finally:
        log.close()
    best: dict[str, float] = {}
    for record in history.records:
        if record.latency_us is not None:
            known = best.get(record.workload_key, record.latency_us)
            best[record.workload_key] = min(known, record.latency_us)
    return Run(history, weights, best)


def without(source: str, url: str, model: Model) -> None:
    """Copy a log, and forget what was measured for this model, whoever else has its operators."""
    shutil.copy(source, url)
    log = TuningLog.open(url)
    try:
        jobs = [job.job_id for job in log.jobs(1000) if job.spec.model_name == model.name]
        keys = sorted({task.workload_key for job_id in jobs for task in log.tasks(job_id)})
        with log.writing() as connection:
            for key in keys:
                connection.exec_driver_sql(
                    "DELETE FROM measurements WHERE workload_key = ?", (key,)
                )
    finally:
        log.close()


def compare(runs: Mapping[str, Run]) -> dict[str, float]:
    """Print when each run came within 5 % of the best known; the figures."""
    keys = runs["empty"].weights
    best_us = sum(
        weight * min(run.best_us[key] for run in runs.values() if key in run.best_us)
        for key, weight in keys.items()
    )
    reached = {name: run.reached(WITHIN * best_us) for name, run in runs.items()}
    lines = []
    for name, run in runs.items():
        point, last = reached[name], run.curve()[-1]
        lines.append(
            [
                *(name, last.trials, last.latency_us / best_us),
                *((point.trials, point.seconds) if point else (None, None)),
            ]
        )
    print(f"best known: {best_us / 1e3:.3f} ms in operators")
    print(table(("log", "trials", "end/best", "trials to 5 %", "seconds to 5 %"), lines))
    figures = {"best_known_ms": best_us / 1e3, "reached_empty": float(bool(reached["empty"]))}
    start = reached["empty"] or runs["empty"].curve()[-1]
    for name, suffix in (("full", ""), ("other kind", "_kind")):
        point = reached.get(name)
        if point is not None:
            figures[f"trials_ratio{suffix}"] = start.trials / max(point.trials, 1)
            figures[f"seconds_ratio{suffix}"] = start.seconds / max(point.seconds, 1e-9)
    return figures


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Run]:
    """All runs, each on a log of its own."""
    target, one_thread = resolve_target("auto", None), resolve_target("auto", 1)
    model = zoo_model(options.model)
    others = [zoo_model(m.name) for m in model_zoo.ZOO if m.name != options.model]
    urls = {name: str(folder / f"{name}.db") for name in ("others", "full", "empty", "kind")}
    with with_ray():
        if options.others is None:
            asyncio.run(tune(urls["others"], target, others, options.other_trials))
        without(str(options.others or urls["others"]), urls["full"], model)
        runs = {}
        for name, log in (("full", "full"), ("empty", "empty")):
            (job_id,) = asyncio.run(tune(urls[log], target, [model], options.trials))
            runs[name] = read(urls[log], job_id)
        asyncio.run(tune(urls["kind"], one_thread, [model], options.trials))
        (job_id,) = asyncio.run(tune(urls["kind"], target, [model], options.trials))
        runs["other kind"] = read(urls["kind"], job_id)
    return runs


def main() -> None:
    """Print the table and, as the last line, one JSON object."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="mobilenet_v2", help="default: mobilenet_v2")
    parser.add_argument("--trials", type=int, default=2000, help="of each run (default: 2000)")
    parser.add_argument("--others", type=Path, help="a log that holds the other models")
    parser.add_argument(
        "--other-trials", type=int, default=1000, help="of each other model (default: 1000)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tunefarm-transfer-") as folder:
        figures = compare(measure(options, Path(folder)))
    print(last_line("transfer", figures, resolve_target("auto", None)))


if __name__ == "__main__":
    sys.exit(main())
