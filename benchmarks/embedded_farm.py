"""A whole farm in this process and an agent beside it, for jobs that end before packaging."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from coordinator import ray_runtime
from coordinator.budget import Budget
from coordinator.cli.tune import local_agent
from coordinator.experiments import EVALUATOR, Lab
from coordinator.fleet.builders import Builders, BuildWorker
from coordinator.frontend.importer import ImportedModel, import_model
from coordinator.learning import Learning
from coordinator.search.proposer import SearchConfig
from coordinator.search.worker import SearchPool
from coordinator.server import Coordinator, CoordinatorConfig
from coordinator.stages import StageClock
from coordinator.training.trainer import Trainer
from coordinator.tuner import Tuner
from coordinator.tuning_log import TuningLog
from device_agent.build import tool_versions
from protos.records import EvaluatorConfig, JobSpec, JobState, Shape, Task, sha256_hex


@dataclass(frozen=True)
class Model:
    """A model to be tuned: its name, its ONNX file and the shapes of its inputs."""

    name: str
    data: bytes
    shapes: Mapping[str, Shape]


@dataclass(frozen=True)
class EmbeddedFarm:
    """A coordinator with one agent of this target."""

    coordinator: Coordinator
    target: str

    @property
    def log(self) -> TuningLog:
        """The farm's tuning log."""
        return self.coordinator.log

    @property
    def builders(self) -> Builders:
        """The farm's build workers."""
        return self.coordinator.builders

    async def imported(self, model: Model) -> ImportedModel:
        """The model with direct convolutions only."""
        found: Any = await self.builders.run(
            import_model, model.data, model.shapes, self.target, {}
        )
        return found

    async def lab(
        self, model: Model, tasks: tuple[Task, ...], trials: int, evaluator: EvaluatorConfig
    ) -> Lab:
        """A job in the log, and what its experiments need."""
        spec = JobSpec(
            model.name, sha256_hex(model.data), self.target, trials, dict(model.shapes), seed=0
        )
        job = self.log.add_job(spec, "benchmarks", embedded=True)
        self.log.save_job(replace(job, state=JobState.RUNNING))
        self.log.set_tasks(job.job_id, tasks)
        device = await self.coordinator.fleet.device_for(self.target)
        return Lab(
            *(job.job_id, 0, device, self.log, self.coordinator.fleet, self.builders),
            *(StageClock(), evaluator, await self.builders.run(tool_versions)),
        )

    def done(self, lab: Lab) -> None:
        """The job is over."""
        job = self.log.job(lab.job_id)
        self.log.save_job(replace(job, state=JobState.DONE))

    async def tune(self, model: Model, trials: int) -> Lab:
        """Tune a model's operators as a job does, up to the finals, which are left out."""
        imported = await self.imported(model)
        lab = await self.lab(model, tuple(imported.all_tasks), trials, EVALUATOR)
        search = SearchPool(1, self.target, lab.seed, SearchConfig())
        trainer = Trainer(num_threads=1)
        try:
            search.start()
            trainer.start()
            tuner = Tuner(
                lab, imported.all_tasks, search, Learning(lab, search, trainer), lambda: None
            )
            await tuner.remember()
            await tuner.baseline()
            budget = Budget(trials, None)
            await tuner.time_again(budget)
            await tuner.tune(budget)
        finally:
            search.stop()
            trainer.stop()
        self.done(lab)
        return lab


@asynccontextmanager
async def embedded_farm(
    url: str, target: str, build_worker: type[BuildWorker] = BuildWorker
) -> AsyncIterator[EmbeddedFarm]:
    """Start it, and stop it at the end. Ray must run already (``ray_runtime.running``)."""
    cpus = len(os.sched_getaffinity(0))
    config = CoordinatorConfig(url, embedded=True, num_builders=cpus, build_worker=build_worker)
    async with Coordinator(config) as coordinator:
        with local_agent(coordinator.port, target, {}):
            yield EmbeddedFarm(coordinator, target)


def with_ray() -> Any:
    """Ray, for as long as the block runs."""
    return ray_runtime.running(len(os.sched_getaffinity(0)))
