"""What the farm has promised, held against what its log says in the end."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.chaos.miscompiler import Defect, defect_of
from coordinator.limit_kernels import CACHE, MEMORY, PEAK
from protos.records import UNTUNED_TRACE, Candidate, MeasurementStatus

Acknowledged = tuple[str, str]
"""Lease and candidate."""

_SAID = re.compile(r"acknowledged: lease (\S+) candidate ([0-9a-f]{64})$", re.MULTILINE)

_CHECKS = re.compile(r"job health check lease (\S+) candidate ")
"""A health check's measurement is none of a candidate, and not in the log."""

_ROWS = """
SELECT m.lease_id, m.candidate_key, m.status, m.device, m.repeats_s_json, c.trace_json
FROM measurements m JOIN candidates c ON c.key = m.candidate_key
"""

_NOT_KEPT = {Candidate(f"limit-{name}", UNTUNED_TRACE).key for name in (PEAK, MEMORY, CACHE)}
"""What the device can do at most is no experiment on an operator, and not in the log of those."""

CLEAR_REPEATS = 3
"""Two measurements don't have the same samples to the last bit, if they have so many."""


@dataclass(frozen=True)
class Row:
    """A measurement as the log has it."""

    lease_id: str
    candidate_key: str
    status: str
    device: str
    repeats_s_json: str
    trace_json: str


@dataclass(frozen=True)
class Ledger:
    """What was lost, doubled or wrong, each for people; and what there was of everything."""

    lost: tuple[str, ...]
    doubled: tuple[str, ...]
    wrong_wins: tuple[str, ...]
    acknowledged: int
    measurements: int
    defects: dict[str, int]


def acknowledged(logs: Iterable[Path]) -> list[Acknowledged]:
    """What agents said that was acknowledged to them (``tunefarm -vv agent``)."""
    found: list[Acknowledged] = []
    for log in logs:
        said = log.read_text(errors="replace")
        checks = set(_CHECKS.findall(said))
        found += [
            (lease, candidate)
            for lease, candidate in _SAID.findall(said)
            if lease not in checks and candidate not in _NOT_KEPT
        ]
    return found


def rows(url: str) -> list[Row]:
    """Every measurement in a PostgreSQL log."""
    import psycopg

    with psycopg.connect(url) as connection:
        found: Sequence[Sequence[Any]] = connection.execute(_ROWS).fetchall()
    return [Row(*(value or "" for value in row)) for row in found]


def settle(promised: Sequence[Acknowledged], measured: Sequence[Row]) -> Ledger:
    """Hold them against each other.

    Doubled is what is in the log twice under its lease, or, whatever its leases say, with the very
    same samples of the same device. A wrong win is a program with a defect that counts as right.
    """
    kept = Counter((row.lease_id, row.candidate_key) for row in measured)
    samples = Counter(
        (row.device, row.candidate_key, row.repeats_s_json)
        for row in measured
        if row.device and not row.lease_id.startswith("same-") and _is_clear(row.repeats_s_json)
    )
    broken = [row for row in measured if defect_of(row.trace_json) is not Defect.NONE]
    found = Counter(f"{defect_of(row.trace_json).value}: {row.status}" for row in broken)
    return Ledger(
        lost=tuple(
            f"lease {lease} candidate {candidate}"
            for lease, candidate in sorted(set(promised) - set(kept))
        ),
        doubled=tuple(
            str(what) for counter in (kept, samples) for what, times in counter.items() if times > 1
        ),
        wrong_wins=tuple(
            f"lease {row.lease_id} candidate {row.candidate_key}"
            for row in broken
            if row.status == MeasurementStatus.OK.name
        ),
        acknowledged=len(set(promised)),
        measurements=len(measured),
        defects=dict(sorted(found.items())),
    )


def _is_clear(repeats_s_json: str) -> bool:
    return repeats_s_json.count(",") + 1 >= CLEAR_REPEATS
