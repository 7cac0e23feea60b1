"""The best of a workload, or of each task of a model, with all that the log knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from protos.errors import NotFound
from protos.records import TaskProgress

from .candidate_records import (
    CandidateRecord,
    by_candidate,
    evidence_of,
    records_of,
    untuned_key,
)
from .evidence import Evidence
from .measurements import device_kinds
from .naming import newest_job
from .schema import job_tasks, jobs
from .values import from_json


@dataclass(frozen=True)
class TopCandidate:
    """A candidate that is right, on one kind of device and cache.

    ``latency_us`` is what it counts with: the median over the turns of its finals (``final``), or
    the least of its samples. ``over_untuned`` is how many times as fast as the untuned program.
    ``imported`` is one of which no right measurement is this farm's.
    """

    candidate_key: str
    untuned: bool
    latency_us: float
    final: bool
    right: int
    measured_at: float
    over_untuned: float | None
    imported: bool


@dataclass(frozen=True)
class TopWorkload:
    """A workload's best on one kind of device and cache, fastest first."""

    workload_key: str
    device_kind: str
    cold_cache: bool
    untuned_us: float | None
    candidates: tuple[TopCandidate, ...]


@dataclass(frozen=True)
class TopTask:
    """A task of a model; ``share`` is of the time of all that were measured, ``imported`` says that
    its best candidate is."""

    name: str
    workload_key: str
    weight: int
    untuned_us: float | None
    best_us: float | None
    speed_up: float | None
    share: float | None
    candidate_key: str | None
    imported: bool = False


@dataclass(frozen=True)
class TopModel:
    """The tasks of a job on one kind of device, the most time first."""

    job_id: str
    model_name: str
    device_kind: str
    cold_cache: bool
    tasks: tuple[TopTask, ...]


def top_workload(
    connection: sa.Connection, workload_key: str, k: int, device_kind: str = ""
) -> list[TopWorkload]:
    """The ``k`` fastest candidates on each kind of device and cache that has a right one."""
    found = []
    for kind in [device_kind] if device_kind else device_kinds(connection):
        records = records_of(connection, workload_key, kind)
        for cold in (False, True):
            same = by_candidate(record for record in records if bool(record.cold_cache) is cold)
            known = evidence_of(workload_key, same)
            untuned = known.get(untuned_key(workload_key))
            untuned_us = untuned.pooled_us if untuned else None
            best = tuple(
                _candidate(workload_key, item, same[item.candidate.trace_json], untuned_us)
                for item in ranked(known)[:k]
            )
            if best:
                found.append(TopWorkload(workload_key, kind, cold, untuned_us, best))
    return found


def ranked(known: Mapping[str, Evidence]) -> list[Evidence]:
    """The right ones, fastest first, those that may be selected before the others (pure).

    Where there were finals, these are the finalists and whoever was faster in its search than any
    of them (docs/decisions/0013-finals.md): single measurements flatter.
    """
    right = [item for item in known.values() if item.latency_us is not None]
    searched_us = [item.latency_us for item in right if item.finals_s and item.latency_us]
    bar_us = min(searched_us, default=float("inf"))

    def place(item: Evidence) -> tuple[bool, float, str]:
        latency_us = item.latency_us or 0.0
        beaten = not item.finals_s and latency_us >= bar_us
        return beaten, item.pooled_us or latency_us, item.candidate.trace_json

    return sorted(right, key=place)


def _candidate(
    workload_key: str,
    item: Evidence,
    records: list[CandidateRecord],
    untuned_us: float | None,
) -> TopCandidate:
    right = [record for record in records if record.latency_us is not None]
    latency_us = item.pooled_us or 0.0
    key = item.candidate.trace_json
    return TopCandidate(
        candidate_key=key,
        untuned=key == untuned_key(workload_key),
        latency_us=latency_us,
        final=bool(item.finals_s),
        right=len(right),
        measured_at=max(record.measured_at for record in right),
        over_untuned=untuned_us / latency_us if untuned_us and latency_us else None,
        imported=all(record.import_id is not None for record in right),
    )


def top_job(connection: sa.Connection, job_id: str, device_kind: str = "") -> list[TopModel]:
    """The best of each task of a job, on each kind of device that has measured one of them.

    Raises NotFound if the job has no tasks.
    """
    j = jobs.c
    query = sa.select(j.model_name, j.cold_cache, j.tasks_json).where(j.job_id == job_id)
    job = connection.execute(query).one()
    tasks = _weighted(connection, job_id, job.tasks_json)
    if not tasks:
        raise NotFound(f"job {job_id} has no tasks yet; see: tunefarm log show {job_id}")
    cold = bool(job.cold_cache)
    found = []
    for kind in [device_kind] if device_kind else device_kinds(connection):
        best = {}
        for key in dict.fromkeys(key for _name, key, _weight in tasks):
            for one in top_workload(connection, key, 1, kind):
                if one.cold_cache == cold:
                    best[key] = one
        if best:
            found.append(TopModel(job_id, job.model_name, kind, cold, _tasks(tasks, best)))
    return found


def _weighted(
    connection: sa.Connection, job_id: str, tasks_json: str
) -> list[tuple[str, str, int]]:
    """Name, workload and weight of each task, as the job has said last: once it is done, of those
    that the tuned model runs. Before it has said anything, as they were imported."""
    said = from_json(tuple[TaskProgress, ...], tasks_json)
    if said:
        return [(task.name, task.workload_key, task.weight) for task in said]
    t = job_tasks.c
    query = sa.select(t.name, t.workload_key, t.weight).where(t.job_id == job_id)
    return [(name, key, weight) for name, key, weight in connection.execute(query)]


def top_model(connection: sa.Connection, model_name: str, device_kind: str = "") -> list[TopModel]:
    """``top_job`` of the newest job of this model."""
    return top_job(connection, newest_job(connection, model_name), device_kind)


def _tasks(
    rows: list[tuple[str, str, int]], best: Mapping[str, TopWorkload]
) -> tuple[TopTask, ...]:
    taken_us = {key: one.candidates[0].latency_us for key, one in best.items()}
    total_us = sum(weight * taken_us.get(key, 0.0) for _name, key, weight in rows)

    def task(name: str, key: str, weight: int) -> TopTask:
        one = best.get(key)
        if one is None:
            return TopTask(name, key, weight, None, None, None, None, None)
        first = one.candidates[0]
        share = weight * first.latency_us / total_us if total_us else None
        figures = (one.untuned_us, first.latency_us, first.over_untuned, share)
        return TopTask(name, key, weight, *figures, first.candidate_key, first.imported)

    found = [task(*row) for row in rows]
    return tuple(sorted(found, key=lambda one: -(one.share or 0.0)))
