"""MetaSchedule's JSONDatabase with the same records: how long it loads, and how fast it answers.

``python -m benchmarks.json_database FOLDER WORKLOADS QUERIES`` is the process that is measured. The
two files are written as stock writes them, a line a record, without loading anything.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.log_records import Plan, everything
from benchmarks.log_workloads import module, shapes, specs

FAILED_S = 1e10
"""What stock's records have for the time of a program that failed."""

TIME_LIMIT_S = 600.0
K = 10


@dataclass(frozen=True)
class Loaded:
    """What became of one pair of files; ``given_up`` says why, if it was not loaded."""

    records: int
    file_bytes: int
    seconds: float
    rss_bytes: int
    best_k_ms: float | None = None
    given_up: str = ""


def part_of(plan: Plan, measurements: int) -> Plan:
    """A smaller plan with as many measurements of each workload."""
    workloads = max(1, len(plan.workload_keys) * measurements // plan.measurements)
    keys = plan.workload_keys[:workloads]
    return replace(plan, measurements=measurements, workload_keys=keys)


def write(folder: Path, plan: Plan, target: Mapping[str, Any]) -> int:
    """The pair of files; returns their size in bytes."""
    from tvm.s_tir.meta_schedule.database import Workload

    dims = shapes(len(plan.workload_keys))
    files = [folder / f"database_{name}.json" for name in ("workload", "tuning_record")]
    with files[0].open("w") as lines:
        for shape in dims:
            lines.write(json.dumps(Workload(module(shape)).as_json()) + "\n")
    target_text = json.dumps(target)
    args = [
        json.dumps([["TENSOR", spec.dtype, list(spec.shape)] for spec in specs(shape)])
        for shape in dims
    ]
    with files[1].open("w") as lines:
        for workload, (_job_id, _kind, candidate, measurement, _score) in everything(plan):
            run_s = list(measurement.repeats_s) if measurement.ok else [FAILED_S]
            record = f"{candidate.trace_json}, {json.dumps(run_s)}, {target_text}"
            lines.write(f"[{workload}, [{record}, {args[workload]}]]\n")
    return sum(file.stat().st_size for file in files)


def measure(folder: Path, plan: Plan, file_bytes: int, queries: int) -> Loaded:
    """Load the pair in a process of its own, within the limits of time and memory."""
    import psutil

    memory_limit = psutil.virtual_memory().available // 2
    command = [sys.executable, "-m", "benchmarks.json_database", str(folder)]
    command += [str(len(plan.workload_keys)), str(queries)]
    began, rss, why = time.monotonic(), 0, ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not why:
            time.sleep(0.1)
            rss = max(rss, _rss_bytes(process.pid))
            if time.monotonic() - began > TIME_LIMIT_S:
                why = f"not done after {TIME_LIMIT_S:.0f} s"
            elif rss > memory_limit:
                why = f"{rss / 1e9:.1f} GB of memory and not done"
        if why:
            process.kill()
        assert process.stdout is not None
        said = process.stdout.read()
    spent_s = time.monotonic() - began
    if not why and process.returncode:
        why = f"it ended with {process.returncode}"
    if why:
        return Loaded(plan.measurements, file_bytes, spent_s, rss, given_up=why)
    load_s, best_k_ms = map(float, said.split()[-2:])
    return Loaded(plan.measurements, file_bytes, load_s, rss, best_k_ms)


def _rss_bytes(pid: int) -> int:
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def main() -> None:
    """Print the seconds to load and the median milliseconds of a question."""
    from tvm.s_tir.meta_schedule.database import JSONDatabase

    folder, workloads, queries = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    began = time.perf_counter()
    database = JSONDatabase(work_dir=folder)
    load_s = time.perf_counter() - began
    chance, took_ms = random.Random(0), []
    for shape in chance.choices(shapes(workloads), k=queries):
        workload = database.commit_workload(module(shape))
        began = time.perf_counter()
        found = database.get_top_k(workload, K)
        took_ms.append((time.perf_counter() - began) * 1e3)
        if len(found) != K:
            raise SystemExit(f"{len(found)} records of {shape}, not {K}")
    print(load_s, statistics.median(took_ms))


if __name__ == "__main__":
    main()
