"""Does the farm keep its devices busy? Four replay devices of one kind, kernels of 100 ms.

``python -m benchmarks.replay [--quick]``

``replay_utilisation`` is the least of the devices' shares of time spent measuring: the sum of its
measurements' ``busy_s`` over the span from the end of its first lease to the end of its last one.
What comes before every device has ended its first lease is warm-up and left out; so is what comes
after a device's last one, because a job that ends gives the devices different numbers of trials;
``replay_utilisation_with_end`` counts until the last lease of all. Time that a device spends on its
canary (10 ms each on a replay device) is not measuring.

Real: the coordinator's event loop with the tuner's loop (``coordinator.tuner``: batches proposed
ahead, the task scheduler), the experiments with their questions to the log, the dispatcher, leases,
gRPC over loopback, a new SQLite log in which every result is durable before it is acknowledged, and
four ``tunefarm agent --replay 100ms``, each a process. Artifacts travel: no two are the same bytes.

Not real: nothing is searched, built, trained or run, because four such devices want 40 candidates a
second and two cores build about 20. A candidate is a number; its artifact is the untuned program of
the operator, built once, with that number appended (no device loads it). So this says what the
farm's own machinery costs its devices, and nothing of whether search and builders keep up.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks.operators import matmul
from benchmarks.process import progress
from benchmarks.proposing import imported_task
from benchmarks.result import last_line, table
from coordinator.budget import Budget
from coordinator.experiments import EVALUATOR, Lab
from coordinator.fleet.builders import Builders
from coordinator.fleet.fleet import Fleet
from coordinator.fleet.gateway import Gateway
from coordinator.frontend.target import resolve_target
from coordinator.learning import Learning
from coordinator.search.proposer import Outcome, Proposal, SearchConfig
from coordinator.search.worker import SearchPool
from coordinator.stages import StageClock
from coordinator.task_run import TaskRun
from coordinator.training.trainer import Trainer
from coordinator.tuner import Tuner
from coordinator.tuning_log import TuningLog
from cost_model.features import CANDIDATE_WIDTH, Features
from device_agent.build import BuildOutcome, build_kernel
from protos import farm_pb2_grpc
from protos.records import (
    UNTUNED_TRACE,
    Artifact,
    Candidate,
    JobSpec,
    Measurement,
    MeasurementStatus,
    Task,
    sha256_hex,
)
from protos.rpc import SERVER_OPTIONS

DEVICES = 4
MEASUREMENT = "100ms"
TRIALS, QUICK_TRIALS = 1024, 256
STARTED_WITHIN_S = 60.0

_ROWS = """
SELECT m.device, MAX(m.measured_at), SUM(m.busy_s), COUNT(*) FROM measurements m
JOIN candidates c ON c.key = m.candidate_key
WHERE m.device IS NOT NULL AND c.trace_json != ? GROUP BY m.device, m.lease_id ORDER BY 1, 2
"""


@dataclass(frozen=True)
class Leased:
    """One lease: when its last result was there, and how long the device measured for it.

    A device may hold results back until it knows that they can be trusted, so the single
    measurement's moment says little.
    """

    ended_at: float
    busy_s: float
    trials: int


Moments = Mapping[str, Sequence[Leased]]
"""Every device's leases, in order."""


def utilisations(moments: Moments, ending: float | None = None) -> dict[str, float]:
    """Share of the time that each device measured, after all had begun; 0 for one that did little.

    The first lease that a device ends after that moment only begins its span, which goes to the end
    of its last one or to ``ending``.
    """
    warm = max(leases[0].ended_at for leases in moments.values())
    found = {}
    for device, leases in moments.items():
        counted = [lease for lease in leases if lease.ended_at >= warm]
        span_s = (ending or counted[-1].ended_at) - counted[0].ended_at if counted else 0.0
        busy_s = sum(lease.busy_s for lease in counted[1:])
        found[device] = busy_s / span_s if span_s > 0 else 0.0
    return found


def read_moments(log: Path) -> Moments:
    """What the tuning log has of every device, the untuned program left out."""
    connection = sqlite3.connect(f"file:{log}?mode=ro", uri=True)
    try:
        rows = connection.execute(_ROWS, (UNTUNED_TRACE,)).fetchall()
    finally:
        connection.close()
    return {
        device: [Leased(*row[1:]) for row in group]
        for device, group in itertools.groupby(rows, key=lambda row: row[0])
    }


class NumberedSearch(SearchPool):
    """Proposes numbers."""

    def __init__(self, target: str) -> None:
        super().__init__(0, target, 0, SearchConfig())
        self._numbers = itertools.count()

    async def open(
        self, task: Task, remembered: Sequence[Outcome], max_failure: float = 1.0
    ) -> dict[str, Features]:
        """Nothing is remembered."""
        return {}

    async def propose(self, workload_key: str, count: int | None = None) -> list[Proposal]:
        """The next numbers."""
        numbers = itertools.islice(self._numbers, count or self.batch_size)
        return [
            Proposal(
                Candidate(workload_key, f"[{number}]"), np.zeros(CANDIDATE_WIDTH, np.float32), None
            )
            for number in numbers
        ]

    async def observe(self, workload_key: str, outcomes: Sequence[Outcome]) -> None:
        """It learns nothing."""


class PrebuiltArtifacts(Builders):
    """Gives every candidate bytes of its own."""

    def __init__(self, untuned: BuildOutcome) -> None:
        super().__init__(0)
        self._untuned = untuned

    async def build(self, task: Task, candidate: Candidate, target_json: str) -> BuildOutcome:
        """The untuned program's bytes with the candidate's name appended."""
        assert self._untuned.artifact is not None
        data = self._untuned.artifact.data
        if candidate.trace_json != UNTUNED_TRACE:
            data += candidate.trace_json.encode()
        status = MeasurementStatus.OK
        return BuildOutcome(Artifact.of(data), status, "", 0.0, self._untuned.args)

    async def run(self, function: Any, *args: Any) -> Any:
        """What else needs the compiler, in a thread of this process."""
        return await asyncio.to_thread(function, *args)


class NoLearning(Learning):
    """Learns nothing and trains nothing."""

    async def adopt(self) -> None:
        """Nothing is known."""

    async def learn(
        self, run: TaskRun, proposals: Sequence[Proposal], measurements: Sequence[Measurement]
    ) -> None:
        """Nothing is learnt."""


@asynccontextmanager
async def listening(fleet: Fleet) -> AsyncIterator[int]:
    """The fleet's gateway on a free loopback port."""
    server = grpc.aio.server(options=list(SERVER_OPTIONS))
    add: Any = farm_pb2_grpc.add_AgentGatewayServicer_to_server
    add(Gateway(fleet), server)
    port: int = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    reaper = asyncio.create_task(fleet.reap())
    try:
        yield port
    finally:
        reaper.cancel()
        await asyncio.gather(reaper, return_exceptions=True)
        await server.stop(grace=0.2)


@asynccontextmanager
async def replay_devices(
    port: int, target: str, count: int, measurement: str
) -> AsyncIterator[None]:
    """This many agents as a user starts them."""
    command = [sys.executable, "-m", "coordinator.cli.main", "agent", "--target", target]
    command += ["--coordinator", f"127.0.0.1:{port}", "--replay", measurement]
    agents = [
        subprocess.Popen([*command, "--name", f"replay-{i}"], stdin=subprocess.DEVNULL)
        for i in range(count)
    ]
    try:
        yield
    finally:
        for agent in agents:
            agent.terminate()
        for agent in agents:
            agent.wait()


async def tune(
    task: Task,
    untuned: BuildOutcome,
    target: str,
    log: Path,
    trials: int,
    devices: int = DEVICES,
    measurement: str = MEASUREMENT,
) -> None:
    """Have one task tuned on replay devices; the log then has what became of it."""
    tuning_log = TuningLog.open(str(log))
    fleet = Fleet(tuning_log)
    try:
        async with listening(fleet) as port, replay_devices(port, target, devices, measurement):
            async with asyncio.timeout(STARTED_WITHIN_S):
                while len(fleet.registry.devices_for(target)) < devices:
                    await fleet.registry.wait_for_change()
            spec = JobSpec("replayed", sha256_hex(b""), target, trials)
            job = tuning_log.add_job(spec, "benchmark", embedded=True)
            tuning_log.set_tasks(job.job_id, [task])
            device = await fleet.device_for(target)
            builders, search = PrebuiltArtifacts(untuned), NumberedSearch(target)
            lab = Lab(job.job_id, 0, device, tuning_log, fleet, builders, StageClock(), EVALUATOR)
            learning = NoLearning(lab, search, Trainer(num_threads=1))
            tuner = Tuner(lab, [task], search, learning, lambda: None)
            await tuner.baseline()
            await tuner.tune(Budget(trials))
    finally:
        tuning_log.close()


def measure(trials: int) -> Moments:
    """The benchmark itself."""
    target = resolve_target("auto", None)
    task = imported_task(matmul(), target)
    untuned = build_kernel(task.workload_json, UNTUNED_TRACE, target)
    with tempfile.TemporaryDirectory(prefix="tunefarm-benchmark-") as directory:
        log = Path(directory) / "log.db"
        asyncio.run(tune(task, untuned, target, log, trials))
        return read_moments(log)


def figures(moments: Moments) -> dict[str, float]:
    """What ``python -m benchmarks.throughput`` shows of it, too."""
    leases = [lease for device in moments.values() for lease in device]
    first, last = (f(lease.ended_at for lease in leases) for f in (min, max))
    later = sum(lease.trials for lease in leases if lease.ended_at > first)
    return {
        "replay_utilisation": min(utilisations(moments).values()),
        "replay_utilisation_with_end": min(utilisations(moments, last).values()),
        "replay_trials_per_s": later / (last - first),
    }


def main() -> None:
    """Print the table and, as the last line, one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replay", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_TRIALS} trials")
    parser.add_argument("--trials", type=int, help=f"in all (default: {TRIALS})")
    options = parser.parse_args()
    trials = options.trials or (QUICK_TRIALS if options.quick else TRIALS)
    progress(f"{trials} trials on {DEVICES} replay devices")
    moments = measure(trials)
    shares = utilisations(moments)
    rows = [
        (
            *(name, len(moments[name]), sum(lease.trials for lease in moments[name])),
            f"{100 * share:.1f} %",
        )
        for name, share in shares.items()
    ]
    print(table(("device", "leases", "trials", "measuring"), rows))
    print(last_line("replay", figures(moments)))


if __name__ == "__main__":
    main()
