"""A training on all of the log, as it runs on Ray: nobody holds more than a shard of it.

Tasks of Ray Data read ranges of the log; workers of Ray Train's LightGBM trainer keep what they are
handed, packed, and train together (``cost_model.sharded``).
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import resource
import signal
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from coordinator.tuning_log import TuningLog
from coordinator.tuning_log import training_rows as rows_of_log
from coordinator.tuning_log.training_rows import Scope
from cost_model.features import unpack
from cost_model.model import MIN_FAILURES, MIN_SAMPLES
from cost_model.sharded import Network, Shard, train_shard
from cost_model.task_scale import TaskScale
from protos import host_lock
from protos.errors import JobFailed

log = logging.getLogger(__name__)

RANGE_IDS = 20_000
"""Ids of measurements that one task reads."""

BATCH_IDS = 1_000
"""Ids that it asks the log for at once: some hundred kilobytes."""

BLOCK_BYTES = 16 << 20
"""The most that Ray Data passes on at once."""

READ_CPUS = 0.25
"""Of a reading task: it mostly waits for the log. There is one for each worker at a time."""

SAMPLE_ROWS, SAMPLE_PLACES = 20_000, 200
"""Rows in which the bins of the features are found, from so many places of the log."""

NICE = 10
"""Of a worker: a job's search and builds go first."""

START_TRIES = 2
"""How often a worker that can't be started is waited for, a minute each time."""

_QUIET = {
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


@dataclass(frozen=True)
class Workers:
    """How many train, the CPUs that Ray sets aside for each, and its threads."""

    count: int
    cpus: float
    num_threads: int
    spread: bool = False


@dataclass(frozen=True)
class Plan:
    """A training: of what, by whom. ``first`` is the first measurement's id, ``folder`` an empty
    one of the coordinator's machine."""

    url: str
    scope: Scope
    first: int
    workers: Workers
    folder: str


@dataclass(frozen=True)
class Fitted:
    """What came of it: a cost model's text, the candidates it was trained on, how long that took,
    and the most memory that the first worker used."""

    text: str
    samples: int
    train_s: float
    worker_bytes: int


class Fit:
    """Lives in an actor, whose end is the end of all that it starts."""

    def run(self, plan: Plan) -> Fitted:
        """See ``fit``."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the coordinator decides what ends
        return fit(plan)


def fit(plan: Plan) -> Fitted:
    """Train. Raises JobFailed if there is too little to learn from, LogUnavailable, and Ray's
    errors if a worker dies."""
    started = time.monotonic()
    with contextlib.closing(TuningLog.open(plan.url)) as tuning_log:
        scales = _scales(tuning_log, plan.scope)
        sample = _sample(tuning_log, plan)
    right = sum(scale.right for scale in scales.values())
    failed = sum(scale.failed for scale in scales.values())
    if right < MIN_SAMPLES:
        raise JobFailed(f"{right} right candidates; at least {MIN_SAMPLES} are needed")
    trainer = _trainer(plan, scales, sample, failed >= MIN_FAILURES)
    with ThreadPoolExecutor(1) as aside:  # in the main thread it would take Ctrl-C over
        text, samples, worker_bytes = aside.submit(trainer.fit).result().return_value
    return Fitted(text, samples, time.monotonic() - started, worker_bytes)


def _scales(tuning_log: TuningLog, scope: Scope) -> dict[str, TaskScale]:
    """By workload key: some kilobytes each. One workload's latencies are in memory at a time."""
    with tuning_log.reading() as connection:
        keys = rows_of_log.workloads(connection, scope)
    found = {}
    for key in keys:
        with tuning_log.reading() as connection:
            latencies = rows_of_log.latencies(connection, scope, key)
        if latencies:
            with host_lock.working():
                found[key] = TaskScale.of(latencies)
    return found


def _sample(tuning_log: TuningLog, plan: Plan) -> list[bytes]:
    """Packed rows from all over the log."""
    scope, found = plan.scope, {}
    each = SAMPLE_ROWS // SAMPLE_PLACES
    places = np.linspace(plan.first - 1, scope.last, SAMPLE_PLACES, endpoint=False).astype(int)
    for after in places.tolist():
        rows = tuning_log.samples_after(
            scope.device_kind, scope.cold_cache, scope.version, after, each
        )
        found.update({row.candidate_key: row.features for row in rows if _sound(row.features)})
    return list(found.values())


def _sound(features: bytes) -> bool:
    try:
        unpack(features)
    except ValueError:
        return False
    return True


def _trainer(
    plan: Plan, scales: Mapping[str, TaskScale], sample: list[bytes], failures: bool
) -> Any:
    os.environ.update(_QUIET)
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.lightgbm import LightGBMTrainer

    workers = plan.workers
    return LightGBMTrainer(
        _work,
        train_loop_config={
            "sample": [ray.put(sample)],
            "failures": failures,
            "num_threads": workers.num_threads,
        },
        scaling_config=ScalingConfig(
            num_workers=workers.count,
            resources_per_worker={"CPU": workers.cpus},
            placement_strategy="SPREAD" if workers.spread else "PACK",
        ),
        run_config=RunConfig(
            storage_path=plan.folder,
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=START_TRIES),
        ),
        datasets={"rows": _rows(plan, scales)},
    )


def _rows(plan: Plan, scales: Mapping[str, TaskScale]) -> Any:
    """The data set of Ray Data; ranges come in random order, so that shards are alike."""
    import ray
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = BLOCK_BYTES
    starts = list(range(plan.first - 1, plan.scope.last, RANGE_IDS))
    random.Random(0).shuffle(starts)
    ranges = [{"after": start} for start in starts]
    return ray.data.from_items(ranges, override_num_blocks=len(ranges)).map_batches(
        _read,
        batch_size=None,
        compute=ray.data.TaskPoolStrategy(size=plan.workers.count),
        num_cpus=READ_CPUS,
        fn_kwargs={"url": plan.url, "scope": plan.scope, "scales": [ray.put(dict(scales))]},
    )


def _read(
    ranges: Mapping[str, Any], url: str, scope: Scope, scales: list[Any]
) -> Iterator[dict[str, Any]]:
    """Runs in a Ray task: the samples of some ranges of ids, a batch at a time."""
    import ray

    known: dict[str, TaskScale] = ray.get(scales[0])
    with contextlib.closing(TuningLog.open(url)) as tuning_log:
        for start in ranges["after"].tolist():
            for after in range(start, min(start + RANGE_IDS, scope.last), BATCH_IDS):
                with host_lock.working():
                    with tuning_log.reading() as connection:
                        up_to = min(after + BATCH_IDS, start + RANGE_IDS)
                        rows = rows_of_log.between(connection, scope, after, up_to)
                    sound = [row for row in rows if _sound(row.features)]
                if len(sound) < len(rows):
                    log.warning("%d rows of damaged features are left out", len(rows) - len(sound))
                # A workload may have got its first features since the scales were computed.
                kept = [row for row in sound if row.workload_key in known]
                if kept:
                    yield {
                        "packed": np.array([row.features for row in kept], dtype=object),
                        "label": np.array(
                            [known[row.workload_key].label(row.latency_us) for row in kept]
                        ),
                        "failed": np.array([row.latency_us is None for row in kept]),
                    }


def _work(config: Mapping[str, Any]) -> tuple[str, int, int]:
    """Runs in each worker; of what they return, Ray Train keeps the first one's."""
    import ray
    from ray import train
    from ray.train.lightgbm import get_network_params

    os.nice(NICE)
    packed: list[bytes] = []
    labels, failed = [], []
    for batch in train.get_dataset_shard("rows").iter_batches(batch_size=None):
        packed += batch["packed"].tolist()
        labels.append(batch["label"])
        failed.append(batch["failed"])
    if not packed:
        raise JobFailed("nothing is left for this worker; there are too few samples to share")
    shard = Shard(packed, np.concatenate(labels), np.concatenate(failed))
    network = Network(
        get_network_params(),
        ray.get(config["sample"][0]),
        config["failures"],
        config["num_threads"],
    )
    text = train_shard(shard, network, _together, host_lock.working)
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    samples = len(packed) * train.get_context().get_world_size()
    return text, samples, peak_bytes


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """All workers at once, while nobody times on their hosts.

    One worker of each host holds its lock for all of them: if each held its own, one that has it
    would wait for one that a timing keeps out, and the timing for the first.
    """
    from ray import train
    from ray.train.collective import barrier

    leads = train.get_context().get_local_rank() == 0
    with host_lock.working() if leads else contextlib.nullcontext():
        barrier()
        yield
