"""What the processes and the tuning log must say after everything was sent."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fuzz.ledger import Ledger
from benchmarks.fuzz.processes import Footprint, Watched

MAX_LEAKED_MB = 32.0
"""Of resident memory that a process may hold more after the last message than after the first
three fifths: names of devices that were let in, what the job of the fakes has measured, and what
allocators keep. A kilobyte that each message left behind would be more."""

MAX_MORE = 16
"""File descriptors, and threads, that a process may hold more."""

_ROWS = "SELECT lease_id, candidate_key, count(*) FROM measurements GROUP BY 1, 2"

_TRIALS = """
SELECT count(*), count(DISTINCT m.candidate_key) FROM measurements m
JOIN candidates c ON c.key = m.candidate_key
WHERE m.job_id = ? AND c.trace_json != '' AND m.status != 'SUSPECT'
AND coalesce(m.evaluator_json NOT LIKE '%"hopeless_ratio":0.0,%', true)
"""
"""Of the search; finals are not hopeless ever."""


def leaked_mb(before: Footprint, after: Footprint) -> float:
    """Megabytes more than before."""
    return (after.rss_bytes - before.rss_bytes) / 1e6


def judge_processes(
    ledger: Ledger, watched: Mapping[Watched, Footprint], after: Mapping[Watched, Footprint]
) -> float:
    """Note what is wrong with the processes; the largest leak in megabytes."""
    largest = 0.0
    for process, before in watched.items():
        now = after[process]
        leaked = leaked_mb(before, now)
        largest = max(largest, leaked)
        if leaked > MAX_LEAKED_MB:
            ledger.violation(f"{process.name} holds {leaked:.1f} MB more than before")
        if now.descriptors > before.descriptors + MAX_MORE:
            ledger.violation(f"{process.name}: {before.descriptors} → {now.descriptors} files")
        if now.threads > before.threads + MAX_MORE:
            ledger.violation(f"{process.name}: {before.threads} → {now.threads} threads")
    return largest


@dataclass
class RealJob:
    """The undisturbed job, its agent, and how many trials it says it has made."""

    agent: Watched
    job_id: str
    trials: int = 0


def judge_log(ledger: Ledger, log: Path, real: RealJob | None) -> tuple[int, int]:
    """How many acknowledged measurements are not in the log, and how many are there twice."""
    with closing(sqlite3.connect(f"file:{log}?mode=ro", uri=True)) as connection:
        rows: Counter[tuple[str, str]] = Counter()
        for lease_id, candidate_key, count in connection.execute(_ROWS):
            rows[lease_id or "", candidate_key] += count
        made = candidates = 0
        if real is not None:
            made, candidates = connection.execute(_TRIALS, (real.job_id,)).fetchone()
    missing = [name for name in ledger.acknowledged & ledger.given if name not in rows]
    for lease_id, candidate_key in missing:
        ledger.violation(f"lease {lease_id}, candidate {candidate_key}: acknowledged and lost")
    lost = len(missing)
    doubled = sum(count - 1 for (lease_id, _), count in rows.items() if lease_id)
    doubled += made - candidates
    if real is not None:
        lost += max(real.trials - candidates, 0)
    return lost, doubled
