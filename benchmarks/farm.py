"""The farm on one model: ``tunefarm tune`` as a user runs it, and what its tuning log says after.

The command starts the embedded coordinator, Ray and a device agent, tunes, verifies, packages and
stops everything; here with a new SQLite log, so that nothing is known before.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.operators import Operator
from benchmarks.process import run_quietly
from protos.records import UNTUNED_TRACE, MeasurementStatus

_TRIALS = """
SELECT m.measured_at, m.status, m.latency_us, m.lease_id, m.busy_s, m.load_s, m.check_s, m.time_s,
       m.repeats_s_json, m.evaluator_json, c.trace_json, c.key AS candidate_key
FROM measurements m JOIN candidates c ON c.key = m.candidate_key
WHERE m.workload_key = ? ORDER BY m.id
"""

_WORKLOAD = """
SELECT w.key, w.workload_json FROM workloads w JOIN job_tasks t ON t.workload_key = w.key
ORDER BY w.flops * t.weight DESC LIMIT 1
"""


@dataclass(frozen=True)
class FarmTrial:
    """One candidate's first measurement that was not suspect; ``at_s`` is from the first proposal.

    ``timed`` is False where no device was involved: it did not build, or it built to bytes that
    were measured before. ``busy_s`` is the device's whole time for it, of which ``load_s``,
    ``check_s`` and ``time_s`` are parts; ``kernel_s`` is what the repeats took at least.
    """

    at_s: float
    latency_us: float | None
    trace_json: str = field(repr=False)
    timed: bool = True
    busy_s: float = 0.0
    load_s: float = 0.0
    check_s: float = 0.0
    time_s: float = 0.0
    kernel_s: float = 0.0


@dataclass(frozen=True)
class FarmRun:
    """What became of one job. Times are seconds.

    ``start_s`` is from the start of the command to the job's submission (imports, Ray, the agent);
    ``prepare_s`` from there to the first proposal (importing the model, timing the untuned
    operator); ``search_s`` to the last trial's measurement; ``whole_s`` is the command's life, with
    verifying and packaging. ``stage_s`` is the job's own account.
    """

    trials: tuple[FarmTrial, ...]
    workload_json: str = field(repr=False)
    start_s: float
    prepare_s: float
    search_s: float
    whole_s: float
    stage_s: Mapping[str, float]

    @property
    def ok(self) -> int:
        """Trials that were built, right, and timed themselves."""
        return sum(trial.timed and trial.latency_us is not None for trial in self.trials)

    @property
    def failed(self) -> int:
        """Trials that did not build, or whose kernel failed."""
        return sum(trial.latency_us is None for trial in self.trials)

    @property
    def twins(self) -> int:
        """Trials that built to bytes measured before, and were not timed again."""
        return len(self.trials) - self.ok - self.failed

    @property
    def best(self) -> FarmTrial | None:
        """The fastest trial."""
        right = [trial for trial in self.trials if trial.latency_us is not None]
        return min(right, key=lambda trial: trial.latency_us or 0.0, default=None)

    def reached_s(self, latency_us: float) -> float | None:
        """When a trial was first at least this fast; None if none was."""
        fast = (t.at_s for t in self.trials if t.latency_us and t.latency_us <= latency_us)
        return min(fast, default=None)


def run_farm(
    operator: Operator, target: str, trials: int, seed: int, options: Sequence[str] = ()
) -> FarmRun:
    """Tune with the farm, with further ``options``; raises ProcessFailed with the end of its output
    if the command fails."""
    with tempfile.TemporaryDirectory(prefix="tunefarm-benchmark-") as directory:
        model, log = Path(directory) / f"{operator.name}.onnx", Path(directory) / "log.db"
        model.write_bytes(operator.model)
        began, started = time.time(), time.monotonic()
        output = run_quietly(
            [
                *(sys.executable, "-m", "coordinator.cli.main", "tune", str(model)),
                *("--trials", str(trials), "--seed", str(seed), "--target", target, "--json"),
                *("--convolutions", "direct"),  # stock tunes that workload and no other
                *("--log", str(log), "--out", directory),
                *options,
            ],
            os.environ,
        )
        whole_s = time.monotonic() - started
        report = json.loads(output.splitlines()[-1])
        return read_run(log, began, whole_s, report["stage_s"])


def read_run(log: Path, began: float, whole_s: float, stage_s: Mapping[str, float]) -> FarmRun:
    """The run that this tuning log holds; ``began`` in seconds since 1970, by the same clock."""
    connection = sqlite3.connect(f"file:{log}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    try:
        (submitted_at,) = connection.execute("SELECT submitted_at FROM jobs").fetchone()
        workload_key, workload_json = connection.execute(_WORKLOAD).fetchone()
        rows = connection.execute(_TRIALS, (workload_key,)).fetchall()
    finally:
        connection.close()
    first: dict[str, sqlite3.Row] = {}
    for row in rows:  # later ones are repetitions; a suspect one has a repetition that counts
        if row["status"] == MeasurementStatus.SUSPECT.name:
            continue
        first.setdefault(row["candidate_key"], row)
    tried = [row for row in first.values() if row["trace_json"] != UNTUNED_TRACE]
    untuned = [row["measured_at"] for row in first.values() if row["trace_json"] == UNTUNED_TRACE]
    moments = [row["measured_at"] for row in tried]
    searching = min([*untuned, *moments], default=submitted_at)
    return FarmRun(
        trials=tuple(_trial(row, searching) for row in tried),
        workload_json=workload_json,
        start_s=submitted_at - began,
        prepare_s=searching - submitted_at,
        search_s=max(moments, default=searching) - searching,
        whole_s=whole_s,
        stage_s=dict(stage_s),
    )


def _trial(row: sqlite3.Row, searching: float) -> FarmTrial:
    timed = row["busy_s"] is not None and not (row["lease_id"] or "").startswith("same-")
    return FarmTrial(
        at_s=row["measured_at"] - searching,
        latency_us=row["latency_us"],
        trace_json=row["trace_json"],
        timed=timed,
        busy_s=row["busy_s"] if timed else 0.0,
        load_s=(row["load_s"] or 0.0) if timed else 0.0,
        check_s=(row["check_s"] or 0.0) if timed else 0.0,
        time_s=(row["time_s"] or 0.0) if timed else 0.0,
        kernel_s=kernel_s(json.loads(row["repeats_s_json"]), row["evaluator_json"])
        if timed
        else 0.0,
    )


def kernel_s(repeats_s: Sequence[float], evaluator_json: str | None) -> float:
    """Seconds in which the repeats ran, by the evaluator's policy: a lower bound.

    A repeat is ``number`` runs, and more where that is less than ``min_repeat_ms``. A single repeat
    is one run of a candidate that was given up.
    """
    policy: dict[str, Any] = json.loads(evaluator_json) if evaluator_json else {}
    if len(repeats_s) < 2:
        return sum(repeats_s)
    least_s = float(policy.get("min_repeat_ms", 0)) * 1e-3
    number = int(policy.get("number", 1))
    return sum(max(least_s, number * seconds) for seconds in repeats_s)
