"""Makes the records of ``benchmarks.cost_model``: operators of many kinds, programs at random.

    python -m benchmarks.cost_model_records --log records.db
    python -m benchmarks.cost_model_records --log records.db --per-task 160 --timeout 0.02 \
        --models resnet18 squeezenet vit_tiny
    tunefarm log export benchmarks/records --log records.db
    python -m benchmarks.cost_model_records --defects --log defects.db --models squeezenet
    tunefarm log export benchmarks/defect_records --log defects.db

What a search measures is what its cost model likes; how well a model ranks *any* program of the
space is seen on programs drawn at random, as in TenSet (Zheng et al., NeurIPS 2021): half of them
with a register tile of ours, half from MetaSchedule's own space. They go the way of every
candidate: built by the coordinator's builders, compared and timed by a device agent, recorded in
the tuning log. More samples of each are taken than in a search, whose ties cost it nothing. The
second command lets nothing run for more than 20 ms, as one would on a device that must not hang: it
is where most of the failures come from.

No program of either space crashes, answers nonsense or is wrong. ``--defects`` has such records
made: real measurements, too, but of programs that ``benchmarks.chaos.miscompiler`` has broken, in a
folder of their own, which no cost model learns from. With both there are records of all statuses.

The same command goes on where an interrupted one stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

from benchmarks import model_zoo
from benchmarks.chaos.miscompiler import MiscompilingEveryWay
from benchmarks.embedded_farm import Model, embedded_farm, with_ray
from benchmarks.process import progress
from coordinator.experiments import EVALUATOR, Experiments, Lab
from coordinator.fleet.builders import BuildWorker
from coordinator.frontend.target import resolve_target
from coordinator.search.evolution import Evolution
from coordinator.search.proposer import Proposal
from coordinator.search.traces import trace_to_json
from coordinator.task_run import TaskRun
from coordinator.tuning_log import normalise_url
from device_agent.build import register_intrinsics
from protos.records import Candidate, EvaluatorConfig, Task

PER_TASK = 112
BATCH = 16
TILES_SHARE = 0.5
SEED = 5

EVALUATOR_OF_RECORDS = replace(
    EVALUATOR,
    repeat=6,
    timeout_s=1.0,
    hopeless_ratio=100.0,
    contender_ratio=0.0,
    precision=0.0,
    max_repeat=0,
    max_timing_ms=60,
)
"""Six samples of every candidate, of which the least counts."""

TASKS_PER_MODEL = 12


def kind_of(task: Task) -> str:
    """What sort of operator it is: the first of its names, without numbers."""
    names = re.sub(r"\d+", "", task.name).removeprefix("fused_").split("_")
    shapes = [tuple(arg.shape) for arg in task.args]
    first = "_".join(names[:2]) if names[0] in ("winograd", "max", "avg", "tir") else names[0]
    if first == "conv2d":  # depthwise: as many weights as channels times the window
        weights = shapes[1] if len(shapes) > 1 else ()
        return "depthwise" if 1 in weights[2:] and weights[:2].count(1) == 0 else "conv2d"
    return first


def choose(tasks: Sequence[Task], most: int) -> list[Task]:
    """Up to ``most`` tasks, every kind in turn, the most arithmetic first within a kind."""
    by_kind: dict[str, list[Task]] = {}
    for task in sorted(tasks, key=lambda task: -task.flops * task.weight):
        by_kind.setdefault(kind_of(task), []).append(task)
    chosen: list[Task] = []
    while len(chosen) < min(most, len(tasks)):
        for queue in by_kind.values():
            if queue and len(chosen) < most:
                chosen.append(queue.pop(0))
    return chosen


def draws(task: Task, target_json: str, count: int, seed: int) -> Iterator[list[Proposal]]:
    """Batches of programs drawn at random, about ``count`` in all, each once."""
    import tvm

    register_intrinsics(target_json)
    target = tvm.target.Target(json.loads(target_json))
    module = tvm.ir.load_json(task.workload_json)
    evolution = Evolution(module, target, task.name, seed, TILES_SHARE)
    for _ in range(count // BATCH):
        serial = [task.flops < 5e6 and index % 2 == 0 for index in range(BATCH)]
        programs = evolution.sample(serial)
        if not programs:
            return
        yield [
            Proposal(
                Candidate(task.workload_key, trace_to_json(program.trace)), program.features, None
            )
            for program in programs
        ]


async def collect(
    url: str,
    models: Sequence[model_zoo.ZooModel],
    per_task: int,
    evaluator: EvaluatorConfig,
    build_worker: type[BuildWorker] = BuildWorker,
) -> None:
    """Measure until every chosen task of every model has its candidates."""
    target = resolve_target("auto", None)
    async with embedded_farm(url, target, build_worker) as farm:
        for chosen in models:
            path = model_zoo.files(chosen, model_zoo.cache_folder()).onnx
            model = Model(chosen.name, path.read_bytes(), chosen.shapes)
            imported = await farm.imported(model)
            tasks = tuple(choose(imported.all_tasks, TASKS_PER_MODEL))
            lab = await farm.lab(model, tasks, per_task * len(tasks), evaluator)
            for task in tasks:
                progress(f"{model.name}: {task.name} ({kind_of(task)})")
                await _collect_task(lab, task, target, per_task)
            farm.done(lab)


async def _collect_task(lab: Lab, task: Task, target: str, per_task: int) -> None:
    known = {e.candidate.key for e in lab.tuning_log.evidence(task.workload_key, lab.device.kind)}
    left = per_task - len(known)
    if left < BATCH:
        return
    experiments, run = Experiments(lab), TaskRun(task)
    await experiments.baseline(run)
    batches = draws(task, target, left, SEED + len(known))
    ahead = asyncio.create_task(asyncio.to_thread(next, batches, []))
    while batch := await ahead:
        ahead = asyncio.create_task(asyncio.to_thread(next, batches, []))
        new = [proposal for proposal in batch if proposal.candidate.key not in known]
        if new:
            await experiments.run(run, new)


def main() -> None:
    """Collect."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--log", required=True, help="the tuning log that gets the records")
    parser.add_argument("--per-task", type=int, default=PER_TASK, metavar="N")
    parser.add_argument(
        "--timeout", type=float, default=1.0, metavar="S", help="of one run (default: 1)"
    )
    parser.add_argument("--models", nargs="*", default=[m.name for m in model_zoo.ZOO])
    parser.add_argument("--defects", action="store_true", help="of programs that are broken")
    options = parser.parse_args()
    with with_ray():
        url, models = normalise_url(options.log), model_zoo.choose(options.models)
        evaluator = replace(EVALUATOR_OF_RECORDS, timeout_s=options.timeout)
        worker = MiscompilingEveryWay if options.defects else BuildWorker
        asyncio.run(collect(url, models, options.per_task, evaluator, worker))


if __name__ == "__main__":
    sys.exit(main())
