"""The tuning log at a million measurements, on PostgreSQL and on SQLite, beside JSONDatabase.

``python -m benchmarks.tuning_log [--quick] [--measurements N] [--workloads N] [--writers N]``

Eight processes (``benchmarks.log_writers``) write measurements into a log that is new and on a disk
that keeps what was acknowledged: a PostgreSQL server of the benchmark's own, then a file. A result
counts once however often it is delivered; ``inserts_per_s`` is of new ones, from the moment when
all writers were ready to the last acknowledgement, and goes on while two of the writers are killed
and replaced, and each asks for best candidates. Making up the records is part of the time.

Then it asks for the best ten candidates of workloads chosen at random, with their traces, one
question after the other (``best_k_ms``: median; and the 99th percentile), and compares all records
with those that were acknowledged (``lost``, ``doubled``). ``rss_growth_mb`` is the most that the
memory of any writer grew between a tenth of its work and its end.

MetaSchedule's JSONDatabase gets the same records in its files, first a part of them. It is given
ten minutes and half of the free memory to load; ``json_records`` is the size of the largest part
that it loaded, and the other ``json_`` figures belong to that.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from benchmarks import json_database, postgres_server
from benchmarks.json_database import Loaded
from benchmarks.log_records import DEVICE_KIND, Plan, batch_of, writer_and_batch
from benchmarks.log_workloads import Shape, proposed_traces, shapes, task
from benchmarks.log_writers import Writer, write
from benchmarks.process import progress
from benchmarks.result import last_line, table
from coordinator.frontend.target import resolve_target
from coordinator.tuning_log import TuningLog
from coordinator.tuning_log.best import best_k
from coordinator.tuning_log.schema import measurements
from protos.records import JobSpec, Task

MEASUREMENTS, QUICK_MEASUREMENTS = 1_000_000, 4_000
WORKLOADS, QUICK_WORKLOADS = 5_000, 20
WRITERS, JOBS = 8, 10
QUESTIONS, JSON_QUESTIONS, K = 2_000, 100, 10
JSON_PARTS, QUICK_JSON_PARTS = (100, 10, 1), (10,)


@dataclass(frozen=True)
class Written:
    """What became of one log; ``tenths_per_s`` are the rates of each tenth of the inserts."""

    name: str
    inserts_per_s: float
    tenths_per_s: tuple[float, ...]
    again: int
    killed: int
    refused: int
    rss_mb: tuple[float, float, float]
    best_ms: float
    best_p99_ms: float
    lost: int
    doubled: int


def measure(name: str, url: str, plan: Plan, tasks: Sequence[Task]) -> Written:
    """Write everything into a new log, ask, and count."""
    log = TuningLog.open(url)
    plan = _with_jobs(log, plan, tasks)
    progress(f"{name}: {plan.measurements} measurements by {plan.writers} writers")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan.json"
        plan.save(file)
        began, writers = write(url, plan, file)
    progress(f"{name}: questions")
    took_ms = _asked(log, plan)
    progress(f"{name}: counting")
    lost, doubled = counted(log, plan)
    log.close()
    said = sorted(said for writer in writers for said in writer.said)
    return Written(
        name,
        sum(one.rows for one in said) / (said[-1].at - began),
        tenths(began, [(one.at, one.rows) for one in said]),
        again=sum(one.again for one in said),
        killed=sum(writer.killed for writer in writers),
        refused=sum(max(one.refused for one in writer.said) for writer in writers),
        rss_mb=memory(writers),
        best_ms=statistics.median(took_ms),
        best_p99_ms=sorted(took_ms)[len(took_ms) * 99 // 100],
        lost=lost,
        doubled=doubled,
    )


def _with_jobs(log: TuningLog, plan: Plan, tasks: Sequence[Task]) -> Plan:
    jobs = []
    for number in range(len(plan.job_ids)):
        spec = JobSpec(f"model-{number}", "0" * 64, "{}", plan.measurements)
        job = log.add_job(spec, "benchmark", embedded=True)
        log.set_tasks(job.job_id, tasks[number :: len(plan.job_ids)])
        jobs.append(job.job_id)
    keys = tuple(task.workload_key for task in tasks)
    return Plan(plan.measurements, plan.writers, tuple(jobs), keys, plan.traces)


def _asked(log: TuningLog, plan: Plan) -> list[float]:
    """Milliseconds of each question."""
    took_ms = []
    for workload_key in random.Random(0).choices(plan.workload_keys, k=QUESTIONS):
        began = time.perf_counter()
        with log.reading() as connection:
            best = best_k(connection, workload_key, DEVICE_KIND, K, cold_cache=False)
        took_ms.append((time.perf_counter() - began) * 1e3)
        if len({record.candidate for record in best}) != K:
            raise RuntimeError(f"{len(best)} candidates of {workload_key}, not {K}")
    return took_ms


def counted(log: TuningLog, plan: Plan) -> tuple[int, int]:
    """How many results the log lacks, and how many it has twice; all of them were acknowledged."""
    m = measurements.c
    query = sa.select(m.lease_id, m.candidate_key).order_by(m.lease_id)
    sizes = {writer: plan.sizes(writer) for writer in range(plan.writers)}
    lost, doubled = plan.measurements, 0
    with log.reading() as connection:
        rows = connection.execute(query.execution_options(yield_per=10_000))
        for lease, of_lease in itertools.groupby(rows, key=lambda row: row.lease_id):
            writer, batch = writer_and_batch(lease)
            results = batch_of(plan, writer, batch, sizes[writer][batch])
            keys = [row.candidate_key for row in of_lease]
            lost -= len({result[2].key for result in results} & set(keys))
            doubled += len(keys) - len(set(keys))
    return lost, doubled


def tenths(began: float, said: Sequence[tuple[float, int]]) -> tuple[float, ...]:
    """Rows per second of each tenth of the rows; ``said`` are moments and rows, in order (pure)."""
    total = sum(rows for _at, rows in said)
    rates: list[float] = []
    done = rows_before = 0
    before = began
    for at, rows in said:
        done += rows
        if done * 10 >= total * (len(rates) + 1) and at > before:
            rates.append((done - rows_before) / (at - before))
            rows_before, before = done, at
    return tuple(rates)


def memory(writers: Sequence[Writer]) -> tuple[float, float, float]:
    """Megabytes at 10, 50 and 100 % of the work, of the writer that grew most (pure)."""
    found = []
    for writer in writers:
        last = len(writer.said) - 1
        moments = [writer.said[last * percent // 100].rss_bytes / 1e6 for percent in (10, 50, 100)]
        if not writer.killed:
            found.append(tuple(moments))
    tenth, half, whole = max(found, key=lambda moments: moments[2] - moments[0])
    return tenth, half, whole


def load_json(plan: Plan, parts: Sequence[int], target: str) -> list[Loaded]:
    """JSONDatabase with parts of the records, until one can't be loaded."""
    found: list[Loaded] = []
    for part in parts:
        if found and found[-1].given_up:
            break
        smaller = json_database.part_of(plan, plan.measurements // part)
        progress(f"JSONDatabase: {smaller.measurements} records")
        with tempfile.TemporaryDirectory() as folder:
            size_bytes = json_database.write(Path(folder), smaller, json.loads(target))
            found.append(json_database.measure(Path(folder), smaller, size_bytes, JSON_QUESTIONS))
    return found


def figures(written: Sequence[Written], loaded: Sequence[Loaded]) -> dict[str, float]:
    """What is compared with the goals."""
    found: dict[str, float] = {}
    for one in written:
        found[f"inserts_per_s_{one.name}"] = one.inserts_per_s
        found[f"inserts_per_s_{one.name}_slowest_tenth"] = min(one.tenths_per_s)
        found[f"best_k_ms_{one.name}"] = one.best_ms
        found[f"best_k_p99_ms_{one.name}"] = one.best_p99_ms
    found["lost"] = sum(one.lost for one in written)
    found["doubled"] = sum(one.doubled for one in written)
    found["rss_growth_mb"] = max(one.rss_mb[2] - one.rss_mb[0] for one in written)
    for pair in loaded:
        if pair.best_k_ms is None:
            found["json_given_up_at"] = pair.records
            continue
        found["json_records"] = pair.records
        found["json_load_s"] = pair.seconds
        found["json_best_k_ms"] = pair.best_k_ms
        found["json_rss_mb"] = pair.rss_bytes / 1e6
    return found


def written_table(written: Sequence[Written]) -> str:
    """How the logs did."""
    headings = (
        *("log", "inserts/s", "slowest tenth", "last tenth", "delivered again", "killed"),
        *("refused", "lost", "doubled", "best 10 ms", "p99 ms"),
        *("RSS MB at 10 %", "50 %", "100 %"),
    )
    rows = [
        (
            *(one.name, one.inserts_per_s, min(one.tenths_per_s), one.tenths_per_s[-1]),
            *(one.again, one.killed, one.refused, one.lost, one.doubled),
            *(one.best_ms, one.best_p99_ms, *one.rss_mb),
        )
        for one in written
    ]
    return table(headings, rows)


def loaded_table(loaded: Sequence[Loaded]) -> str:
    """How JSONDatabase did."""
    headings = ("JSONDatabase, records", "file MB", "seconds", "RSS MB", "best 10 ms", "given up")
    rows = [
        (
            *(pair.records, pair.file_bytes / 1e6, pair.seconds, pair.rss_bytes / 1e6),
            *(pair.best_k_ms, pair.given_up),
        )
        for pair in loaded
    ]
    return table(headings, rows)


def prepared(options: argparse.Namespace, target: str) -> tuple[Plan, list[Task]]:
    """What is written, but for the jobs, and the workloads."""
    progress(f"{options.workloads} workloads")
    every: list[Shape] = shapes(options.workloads)
    tasks = [task(shape) for shape in every]
    keys = tuple(task.workload_key for task in tasks)
    jobs = ("",) * min(JOBS, len(tasks))
    traces = proposed_traces(target, every)
    return Plan(options.measurements, options.writers, jobs, keys, traces), tasks


def main() -> None:
    """Print the tables and, as the last line, one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuning_log", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    few = f"{QUICK_MEASUREMENTS} measurements, {QUICK_WORKLOADS} workloads"
    parser.add_argument("--quick", action="store_true", help=few)
    parser.add_argument("--measurements", type=int, help=f"default: {MEASUREMENTS}")
    parser.add_argument("--workloads", type=int, help=f"default: {WORKLOADS}")
    parser.add_argument("--writers", type=int, default=WRITERS, help="default: %(default)s")
    options = parser.parse_args()
    options.measurements = options.measurements or (
        QUICK_MEASUREMENTS if options.quick else MEASUREMENTS
    )
    options.workloads = options.workloads or (QUICK_WORKLOADS if options.quick else WORKLOADS)
    target = resolve_target("auto", None)
    plan, tasks = prepared(options, target)
    with postgres_server.running() as server:
        written = [measure("postgres", server.url(), plan, tasks)]
    with tempfile.TemporaryDirectory() as folder:
        written.append(measure("sqlite", str(Path(folder) / "log.db"), plan, tasks))
    loaded = load_json(plan, QUICK_JSON_PARTS if options.quick else JSON_PARTS, target)
    print(server.description)
    print("SQLite: journal_mode=WAL, synchronous=FULL\n")
    print(f"{written_table(written)}\n\n{loaded_table(loaded)}\n")
    print(last_line("tuning_log", figures(written, loaded), target))


if __name__ == "__main__":
    main()
