"""What a full tuning log is worth: a model tuned on it beside the same on an empty one.

    python -m benchmarks.transfer [--model mobilenet_v2] [--trials N] [--others LOG]

The full log holds the other models of ``benchmarks.models``, tuned on the same kind of device, but
not this one; ``--others`` names a log that has them, and without it they are tuned first
(``--other-trials`` each). The log of another kind of device holds all models, this one, too, tuned
on the same machine with one thread, or for ``--other-target``, of another instruction set for
example (``--elsewhere`` names one). Then the model's operators are
tuned with the same budget on an empty log, on the full one, and on that of the other kind:
``--repeats`` times in turn, since a search is a matter of luck. The best known is the best that any
of the runs found, operator by operator; figures are of medians. With the defaults that takes an
hour, and less with ``--only`` one of the two logs.

- ``trials_ratio``: trials on the empty log until the operators together are within 5 % of the best
  known (all of its trials, if it never is: the ratio is larger then), over those on the full log;
  ``seconds_ratio`` likewise. ``reached_empty`` is the share of runs on the empty log that were.
- ``trials_ratio_kind``: the same over those on the log of the other kind.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import shutil
import statistics
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
    best = dict(history.best_before_us)
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


def compare(runs: Mapping[str, Sequence[Run]]) -> dict[str, float]:
    """Print when each run came within 5 % of the best known; the figures."""
    every = [run for some in runs.values() for run in some]
    best_us = sum(
        weight * min(run.best_us[key] for run in every if key in run.best_us)
        for key, weight in every[0].weights.items()
    )
    lines = []
    for name, some in runs.items():
        for run in some:
            point, last = run.reached(WITHIN * best_us), run.curve()[-1]
            lines.append(
                [
                    *(name, last.trials, last.latency_us / best_us),
                    *((point.trials, point.seconds) if point else (None, None)),
                ]
            )
    print(f"best known: {best_us / 1e3:.3f} ms in operators")
    print(table(("log", "trials", "end/best", "trials to 5 %", "seconds to 5 %"), lines))
    came = [run.reached(WITHIN * best_us) is not None for run in runs["empty"]]
    figures = {"best_known_ms": best_us / 1e3, "reached_empty": sum(came) / len(came)}
    for name, suffix in (("full", ""), ("other kind", "_kind")):
        for unit in ("trials", "seconds"):
            empty = median_cost(runs["empty"], WITHIN * best_us, unit)
            other = median_cost(runs.get(name, ()), WITHIN * best_us, unit)
            if math.isinf(empty):
                empty = statistics.median(getattr(run.curve()[-1], unit) for run in runs["empty"])
            if not math.isinf(other):
                figures[f"{unit}_ratio{suffix}"] = empty / max(other, 1e-9)
    return figures


def median_cost(runs: Sequence[Run], latency_us: float, unit: str) -> float:
    """``trials`` or ``seconds`` until the operators together were as fast as this, the median of
    the runs; infinite if half of them never were."""
    points = [run.reached(latency_us) for run in runs]
    costs = [math.inf if point is None else float(getattr(point, unit)) for point in points]
    return statistics.median_high(costs) if costs else math.inf


def measure(options: argparse.Namespace, folder: Path) -> dict[str, list[Run]]:
    """All runs, each on a log of its own."""
    target, other_target = resolve_target("auto", None), resolve_target("auto", 1)
    if options.other_target is not None:
        other_target = resolve_target(options.other_target)
    model = zoo_model(options.model)
    others = [zoo_model(m.name) for m in model_zoo.ZOO if m.name != options.model]
    with_full, with_kind = options.only != "kind", options.only != "full"
    wanted = {"empty": True, "full": with_full, "other kind": with_kind}
    before = {name: folder / f"{name}.db" for name, chosen in wanted.items() if chosen}
    runs: dict[str, list[Run]] = {name: [] for name in before}
    with with_ray():
        if with_full:
            tuned = options.others or folder / "others.db"
            if options.others is None:
                asyncio.run(tune(str(tuned), target, others, options.other_trials))
            without(str(tuned), str(before["full"]), model)
        if with_kind and options.elsewhere is None:
            every, url = [*others, model], str(before["other kind"])
            asyncio.run(tune(url, other_target, every, options.other_trials))
        elif with_kind:
            shutil.copy(options.elsewhere, before["other kind"])
        for number in range(options.repeats):
            for name, start in before.items():
                url = folder / f"{name}-{number}.db"
                if start.exists():
                    shutil.copy(start, url)
                (job_id,) = asyncio.run(tune(str(url), target, [model], options.trials))
                runs[name].append(read(str(url), job_id))
    return runs


def main() -> None:
    """Print the table and, as the last line, one JSON object."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="mobilenet_v2", help="default: mobilenet_v2")
    parser.add_argument("--trials", type=int, default=2000, help="of each run (default: 2000)")
    parser.add_argument("--only", choices=("full", "kind"), help="beside the empty log")
    parser.add_argument("--others", type=Path, help="a log that holds the other models")
    parser.add_argument("--elsewhere", type=Path, help="one that has all, of another kind")
    parser.add_argument(
        "--other-target", metavar="TARGET", help="of that kind (default: this, with one thread)"
    )
    parser.add_argument(
        "--other-trials", type=int, default=1000, help="of each model of a log (default: 1000)"
    )
    parser.add_argument("--repeats", type=int, default=3, help="of each run (default: 3)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tunefarm-transfer-") as folder:
        figures = compare(measure(options, Path(folder)))
    print(last_line("transfer", figures, resolve_target("auto", None)))


if __name__ == "__main__":
    sys.exit(main())
