"""Take out of the log what is old and not needed: first a survey, then in short transactions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import sqlalchemy as sa

from .candidate_records import CandidateRecord, records_of
from .measurements import device_kinds
from .prune_rows import (
    UNFINISHED,
    candidate_sizes,
    delete_cost_models,
    delete_files,
    delete_measurements,
    delete_orphans,
    indexed,
    lock,
    old_cost_models,
    unfinished,
    unused_files,
)
from .retention import Retention, going
from .schema import (
    candidates,
    job_tasks,
    jobs,
    measurements,
    now,
    rankings,
    workloads,
)

if TYPE_CHECKING:
    from .store import TuningLog

ROWS_PER_TRANSACTION = 5000
"""Measurements. Whoever writes waits for a transaction that deletes, so it must be short."""

_WORKLOADS_PER_TRANSACTION = 100
_SAMPLE = 32


@dataclass
class Amount:
    """Rows, and about how many bytes they take."""

    rows: int = 0
    size_bytes: int = 0

    def add(self, rows: int, size_bytes: int) -> None:
        """So much more."""
        self.rows += rows
        self.size_bytes += size_bytes


@dataclass
class Pruned:
    """What may go, or has gone (``deleted``); measurements and cost models by kind of device.

    ``known`` are all measurements of a kind. What is not from ``before`` that time stays, and all
    of the ``unfinished`` jobs' workloads.
    """

    before: float
    deleted: bool
    unfinished: tuple[str, ...]
    known: dict[str, int]
    measurements: dict[str, Amount] = field(default_factory=dict)
    cost_models: dict[str, Amount] = field(default_factory=dict)
    candidates: Amount = field(default_factory=Amount)
    workloads: Amount = field(default_factory=Amount)
    files: Amount = field(default_factory=Amount)

    @property
    def rows(self) -> int:
        """Measurements of all kinds of devices."""
        return sum(amount.rows for amount in self.measurements.values())


Progress = Callable[[str, int, int], None]
"""What is done, how many, and of how many."""


@dataclass(frozen=True)
class _Plan:
    """What of a workload goes: records by kind of device, and candidates that lose all of theirs.

    ``empty`` if it keeps none.
    """

    workload_key: str
    records: Mapping[str, tuple[CandidateRecord, ...]]
    candidates: tuple[str, ...]
    empty: bool

    @property
    def rows(self) -> int:
        return sum(map(len, self.records.values()))


class Pruner:
    """Prunes one log: ``survey`` says what may go, ``delete`` deletes it."""

    def __init__(
        self,
        log: TuningLog,
        retention: Retention,
        progress: Progress | None = None,
        rows_per_transaction: int = ROWS_PER_TRANSACTION,
    ) -> None:
        self._log = log
        self._retention = retention
        self._rows_per_transaction = rows_per_transaction
        self._progress = progress or (lambda _what, _done, _of: None)
        with log.reading() as connection:
            clock: float = connection.execute(sa.select(now())).scalar_one()
            self._before = clock - retention.older_than_s
            self.done = self._nothing(connection)

    def survey(self) -> Pruned:
        """What may go; changes nothing. Reads every measurement, one workload's at a time."""
        return self._survey()[0]

    def delete(self) -> Pruned:
        """Delete what may go and say what has gone; what is written meanwhile stays.

        Interrupted, it leaves a log that is whole, with ``done`` gone; the next one goes on.
        """
        found, pending = self._survey()
        done = self.done
        done.deleted = True
        if pending:
            with indexed(self._log):
                while pending:
                    self._delete_records(pending)
                    self._progress("measurements deleted", done.rows, found.rows)
        keep = self._retention.cost_models
        for one in delete_cost_models(self._log, keep, self._before):
            done.cost_models.setdefault(one.device_kind, Amount()).add(1, one.size_bytes)
        for size_bytes in delete_files(self._log, self._before):
            done.files.add(1, size_bytes)
            self._progress("files deleted", done.files.rows, found.files.rows)
        return done

    def _nothing(self, connection: sa.Connection) -> Pruned:
        count = sa.select(sa.func.count())
        known = {
            kind: connection.execute(count.where(measurements.c.device_kind == kind)).scalar_one()
            for kind in device_kinds(connection)
        }
        return Pruned(self._before, False, tuple(unfinished(connection)), known)

    def _survey(self) -> tuple[Pruned, list[str]]:
        """What may go, and the workloads that it is of."""
        with self._log.reading() as connection:
            found = self._nothing(connection)
            keys = list(connection.execute(sa.select(workloads.c.key)).scalars())
            used = set(connection.execute(_used_workloads()).scalars())
            for one in old_cost_models(connection, self._retention.cost_models, self._before):
                found.cost_models.setdefault(one.device_kind, Amount()).add(1, one.size_bytes)
            for _sha256, size_bytes in unused_files(connection, self._before):
                found.files.add(1, size_bytes)
        pending = []
        for start in range(0, len(keys), _WORKLOADS_PER_TRANSACTION):
            with self._log.reading() as connection:
                some = keys[start : start + _WORKLOADS_PER_TRANSACTION]
                for plan in self._plans(connection, some):
                    _add_plan(connection, plan, plan.workload_key in used, found)
                    if plan.records:
                        pending.append(plan.workload_key)
            self._progress("workloads read", start + len(some), len(keys))
        return found, pending

    def _plans(self, connection: sa.Connection, keys: Sequence[str]) -> Iterator[_Plan]:
        """For each of these workloads that no unfinished job has among its tasks."""
        in_use = set(
            connection.execute(
                sa.select(job_tasks.c.workload_key)
                .join(jobs, jobs.c.job_id == job_tasks.c.job_id)
                .where(jobs.c.state.in_(UNFINISHED))
            ).scalars()
        )
        kinds, jobs_now = device_kinds(connection), unfinished(connection)
        keep = self._retention.keep
        for key in keys:
            if key in in_use:
                continue
            records, staying = {}, set[str]()
            for kind in kinds:
                known = records_of(connection, key, kind)
                found = going(key, known, keep, self._before, jobs_now)
                staying |= found.staying
                if found.records:
                    records[kind] = found.records
            gone = {record.candidate_key for some in records.values() for record in some}
            yield _Plan(key, records, tuple(sorted(gone - staying)), not staying)

    def _delete_records(self, pending: list[str]) -> None:
        """One transaction: measurements of the last of these workloads, candidates that are left
        without any, and workloads that this leaves without a candidate. Takes the workloads that
        are through from the list."""
        left = self._rows_per_transaction
        emptied: list[str] = []
        gone: list[tuple[str, Sequence[CandidateRecord]]] = []
        orphans = Amount()
        through = 0
        with self._log.writing() as connection:
            lock(connection, candidates)
            while left > 0 and through < len(pending):
                # Again, as others have written meanwhile. None: an unfinished job has it now.
                plan = next(self._plans(connection, [pending[-1 - through]]), None)
                rest = plan.rows if plan else 0
                for kind, records in plan.records.items() if plan else ():
                    some = _whole_candidates(records, left)
                    delete_measurements(connection, some)
                    gone.append((kind, some))
                    left -= len(some)
                    rest -= len(some)
                through += rest == 0
                if plan and plan.records and plan.empty and rest == 0:
                    emptied.append(plan.workload_key)
                orphans.add(*delete_orphans(connection, plan.candidates if plan else ()))
            empty_bytes = _delete_workloads(connection, emptied)
        # Only now has any of it gone.
        del pending[len(pending) - through :]
        for kind, some in gone:
            amount = self.done.measurements.setdefault(kind, Amount())
            amount.add(len(some), sum(record.size_bytes for record in some))
        self.done.candidates.add(orphans.rows, orphans.size_bytes)
        self.done.workloads.add(len(empty_bytes), sum(empty_bytes))


def _delete_workloads(connection: sa.Connection, emptied: Sequence[str]) -> list[int]:
    """Delete those of them that no candidate, job or ranking has; the size of each. Others may be
    an import's, which adds workloads first."""
    if not emptied:
        return []
    lock(connection, workloads)
    w = workloads.c
    of_candidate = sa.exists().where(candidates.c.workload_key == w.key)
    query = sa.select(w.key, sa.func.length(w.workload_json)).where(
        w.key.in_(emptied), w.key.not_in(_used_workloads()), ~of_candidate
    )
    gone = connection.execute(query).all()
    keys = [key for key, _size_bytes in gone]
    connection.execute(sa.delete(workloads).where(w.key.in_(keys)))
    return [size_bytes for _key, size_bytes in gone]


def _used_workloads() -> sa.CompoundSelect[str]:
    return sa.union(sa.select(job_tasks.c.workload_key), sa.select(rankings.c.workload_key))


def _add_plan(connection: sa.Connection, plan: _Plan, used: bool, found: Pruned) -> None:
    for kind, records in plan.records.items():
        size_bytes = sum(record.size_bytes for record in records)
        found.measurements.setdefault(kind, Amount()).add(len(records), size_bytes)
    if plan.candidates:
        # What some of them take stands for all.
        some = plan.candidates[:_SAMPLE]
        size_bytes = sum(size for _key, size in connection.execute(candidate_sizes(some)))
        found.candidates.add(len(plan.candidates), size_bytes * len(plan.candidates) // len(some))
    if plan.records and plan.empty and not used:
        length = sa.select(sa.func.length(workloads.c.workload_json))
        key = workloads.c.key == plan.workload_key
        found.workloads.add(1, connection.execute(length.where(key)).scalar_one())


def _whole_candidates(
    records: Sequence[CandidateRecord], at_least: int
) -> Sequence[CandidateRecord]:
    """The first so many, and the last candidate's others, too: they go together."""
    end = min(max(at_least, 0), len(records))
    while 0 < end < len(records) and records[end].candidate_key == records[end - 1].candidate_key:
        end += 1
    return records[:end]
