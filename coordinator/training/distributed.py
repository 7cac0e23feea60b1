"""When a cost model is trained on all of the log, and the coordinator's side of it.

``TrainerWorker`` holds the newest few thousand samples in one process. Past ``DISTRIBUTED_ABOVE``
measurements of a kind of device, all of them teach: read, shared out and trained on by Ray
(``on_ray.py``), beside the job.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from coordinator.training.on_ray import Fit, Fitted, Plan, Workers
from coordinator.tuning_log.training_rows import Scope
from coordinator.tuning_log.urls import sqlite_file
from protos.errors import BadRequest, Unavailable

log = logging.getLogger(__name__)

DISTRIBUTED_ABOVE = 200_000
"""Measurements of a kind of device above which a model is trained on all of them."""

GROWTH = 0.1
"""By how much of what the last such training had the log has grown before the next one."""

WORKERS_OF_ONE_NODE = 1
CPUS_OF_ONE_NODE = 0.25
"""Of a worker where all of the farm shares one machine: there the host lock, not Ray, says who
works (``ray_runtime``)."""


class TrainingLost(Unavailable):
    """A training on all of the log came to nothing; the model in use stays."""


@dataclass(frozen=True)
class AllRows:
    """All that a kind of device has measured: where, of which kind, and how much it is."""

    url: str
    scope: Scope
    first: int
    rows: int

    def without(self, candidate_keys: Sequence[str]) -> AllRows:
        """The same but for some candidates."""
        return replace(self, scope=replace(self.scope, without=tuple(candidate_keys)))


def due(rows: int, trained_on: int, above: int = DISTRIBUTED_ABOVE) -> bool:
    """Whether so many measurements are to be trained on, the last time having been of
    ``trained_on``, or of none."""
    return rows > above and rows >= (1 + GROWTH) * trained_on


def workers_for(cpus_of_nodes: Sequence[float], on_one: int = WORKERS_OF_ONE_NODE) -> Workers:
    """``on_one`` on a single machine: more than one would share its memory and find each other over
    an open port. One on each of several machines, with half of the smallest's CPUs."""
    if len(cpus_of_nodes) < 2:
        return Workers(on_one, CPUS_OF_ONE_NODE, 1)
    cpus = max(1, int(min(cpus_of_nodes)) // 2)
    return Workers(len(cpus_of_nodes), cpus, cpus, spread=True)


def check_readable(url: str, nodes: int) -> None:
    """Raises BadRequest if the tasks of other machines could not read the log."""
    file = sqlite_file(url)
    if file is not None and nodes > 1:
        raise BadRequest(
            f"the tuning log {file} is a file of one machine, and the Ray cluster has {nodes}: no "
            "cost model is trained on all of it. Name a log in PostgreSQL with --log "
            "(`tunefarm log export` and `import` take the records there)"
        )


class Distributed:
    """At most one training on Ray at a time."""

    def __init__(self, workers_of_one_node: int = WORKERS_OF_ONE_NODE) -> None:
        self._workers_of_one_node = workers_of_one_node
        self._actor: Any = None
        self._stopped = False

    async def train(self, log_rows: AllRows) -> Fitted | None:
        """Train on all of it; None if it was stopped meanwhile.

        Raises BadRequest if the cluster can't read the log, and TrainingLost.
        """
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = [node for node in ray.nodes() if node["Alive"]]
        check_readable(log_rows.url, len(nodes))
        cpus = [node["Resources"].get("CPU", 0.0) for node in nodes]
        workers = workers_for(cpus, self._workers_of_one_node)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(num_cpus=0, max_restarts=0, scheduling_strategy=here)(Fit)
        # Of this process, not of those that may be killed.
        with tempfile.TemporaryDirectory(prefix="tunefarm-", ignore_cleanup_errors=True) as folder:
            plan = Plan(log_rows.url, log_rows.scope, log_rows.first, workers, folder)
            self._actor, self._stopped = actor.remote(), False
            try:
                fitted: Fitted = await asyncio.wrap_future(self._actor.run.remote(plan).future())
            except ray.exceptions.RayError as error:
                if self._stopped:
                    return None
                cause = getattr(error, "cause", None) or error
                raise TrainingLost(
                    f"the training on {log_rows.rows} measurements came to nothing, the cost model "
                    f"in use stays: {_in_short(cause)}"
                ) from error
            finally:
                self.stop()
        return fitted

    def stop(self) -> None:
        """End the training under way and all of its processes."""
        import ray

        if self._actor is not None:
            self._stopped = True
            ray.kill(self._actor)
            self._actor = None


def _in_short(error: BaseException) -> str:
    """What is worth reading of an error that quotes its whole traceback."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return textwrap.shorten(lines[-1], 160, placeholder=" …")
