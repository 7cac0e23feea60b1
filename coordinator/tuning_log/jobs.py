"""Jobs, their progress and their tasks."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from coordinator.parts import joint_state, whole
from protos.errors import NotFound
from protos.records import (
    DEFAULT_PROJECT,
    UNKNOWN_USER,
    Job,
    JobSpec,
    JobState,
    ModelResult,
    Priority,
    RankingQuality,
    Shape,
    Task,
    TaskProgress,
    TensorSpec,
    TrialCounts,
)

from .database import insert
from .schema import job_tasks, jobs, now, projects, users, workloads
from .values import MAX_ERROR_BYTES, clean, finite, from_json, or_nan, to_json

_TO_RUN = (JobState.QUEUED.name, JobState.RUNNING.name)


def add(
    connection: sa.Connection,
    spec: JobSpec,
    coordinator: str,
    embedded: bool,
    parts: Sequence[JobSpec] = (),
) -> str:
    """Queue a job, with its parts if it is for several kinds of device; returns its id."""
    row = _row(connection, spec, coordinator, embedded)
    while True:
        # Short for people, so it may be taken: then draw again.
        job_id = f"j-{secrets.token_hex(4)}"
        statement = insert(connection, jobs).values(job_id=job_id, **row)
        statement = statement.on_conflict_do_nothing()
        if connection.execute(statement.returning(jobs.c.id)).first() is not None:
            break
    add_parts(connection, job_id, parts)
    return job_id


def add_parts(connection: sa.Connection, job_id: str, parts: Sequence[JobSpec]) -> None:
    """Queue the parts of a job: ``j-1a2b3c4d.1`` and so on; raises NotFound."""
    if not parts:
        return
    query = sa.select(jobs.c.coordinator, jobs.c.embedded).where(jobs.c.job_id == job_id)
    whole = connection.execute(query).first()
    if whole is None:
        raise _not_found(job_id)
    for number, spec in enumerate(parts, 1):
        row = _row(connection, spec, whole.coordinator, whole.embedded)
        row |= {"job_id": f"{job_id}.{number}", "parent_id": job_id}
        connection.execute(sa.insert(jobs).values(row))


def settle(connection: sa.Connection, job_id: str, spec: JobSpec) -> None:
    """For which devices a job is, now that one is known; raises NotFound."""
    row = {
        "identity": spec.identity,
        "target_json": spec.target_json,
        "devices_json": to_json(spec.devices),
    }
    _update(connection, job_id, row)


def _row(
    connection: sa.Connection, spec: JobSpec, coordinator: str, embedded: bool
) -> dict[str, Any]:
    return {
        "identity": spec.identity,
        "coordinator": clean(coordinator),
        "embedded": embedded,
        "project": _known(connection, projects, spec.project or DEFAULT_PROJECT, "created_at"),
        "submitted_by": _known(
            connection, users, spec.submitted_by or UNKNOWN_USER, "first_seen_at"
        ),
        "submitted_at": now(),
        "heartbeat_at": now(),
        "state": JobState.QUEUED.name,
        "model_name": clean(spec.model_name),
        "model_sha256": spec.model_sha256,
        "target_json": spec.target_json,
        "shapes_json": to_json(spec.shapes),
        "requested_trials": spec.trials,
        "time_limit_s": spec.time_limit_s,
        "cold_cache": spec.cold_cache,
        "target_latency_ms": spec.target_latency_ms,
        "flat_share": spec.flat_share,
        "direct_convolutions": spec.direct_convolutions,
        "priority": spec.priority.name,
        "canary_drift": spec.canary_drift,
        "seed": spec.seed,
        "devices_json": to_json(spec.devices),
        "targets_json": to_json(spec.targets),
        "where_json": to_json(spec.where),
        "exclusive": spec.exclusive,
    }


def _known(connection: sa.Connection, table: sa.Table, name: str, since: str) -> str:
    """The name of a project or user, kept from now on if it is new."""
    name = clean(name)
    statement = insert(connection, table).values({"name": name, since: now()})
    connection.execute(statement.on_conflict_do_nothing())
    return name


def get(connection: sa.Connection, job_id: str) -> Job:
    """One job, with its parts; raises NotFound."""
    row = connection.execute(sa.select(jobs).where(jobs.c.job_id == job_id)).first()
    if row is None:
        raise _not_found(job_id)
    return _with_parts(connection, [_job(row)])[0]


def newest(connection: sa.Connection, limit: int, project: str) -> list[Job]:
    """The newest jobs first, parts within theirs; of all projects if none is named."""
    query = sa.select(jobs).where(IS_WHOLE).order_by(jobs.c.id.desc()).limit(limit)
    if project:
        query = query.where(jobs.c.project == project)
    return _with_parts(connection, [_job(row) for row in connection.execute(query)])


IS_WHOLE = jobs.c.parent_id.is_(None)
"""That a job is what somebody has submitted, and not a part of that."""


def _with_parts(connection: sa.Connection, found: Sequence[Job]) -> list[Job]:
    query = sa.select(jobs).where(jobs.c.parent_id.in_([job.job_id for job in found]))
    parts: dict[str, list[Job]] = {}
    for row in connection.execute(query.order_by(jobs.c.id)):
        parts.setdefault(row.parent_id, []).append(_job(row))
    return [whole(job, parts.get(job.job_id, ())) for job in found]


def unfinished(connection: sa.Connection, embedded: bool | None) -> list[Job]:
    """Queued and running jobs, oldest first; embedded or not if that is None. Of a job with parts,
    the parts."""
    part = jobs.alias("part")
    has_parts = sa.exists().where(part.c.parent_id == jobs.c.job_id)
    query = sa.select(jobs).where(jobs.c.state.in_(_TO_RUN), ~has_parts).order_by(jobs.c.id)
    if embedded is not None:
        query = query.where(jobs.c.embedded == embedded)
    return [_job(row) for row in connection.execute(query)]


def save(connection: sa.Connection, job: Job) -> None:
    """Everything that changes while a job lives, and its heartbeat; raises NotFound.

    Of a part, the state of the whole job as well.
    """
    _update(connection, job.job_id, _progress(job))
    if job.parent_id:
        _update(connection, job.parent_id, {})  # the lock that keeps two parts apart
        query = sa.select(jobs.c.state).where(jobs.c.parent_id == job.parent_id)
        states = [JobState[name] for name in connection.execute(query).scalars()]
        _update(connection, job.parent_id, {"state": joint_state(states).name})


def touch(connection: sa.Connection, job_id: str) -> None:
    """The heartbeat alone; raises NotFound."""
    _update(connection, job_id, {})


def mark_interrupted(connection: sa.Connection, older_than_s: float) -> int:
    """Embedded jobs whose coordinator is silent become INTERRUPTED; returns how many."""
    result = connection.execute(
        sa.update(jobs)
        .where(
            jobs.c.embedded.is_(sa.true()),
            jobs.c.state.in_(_TO_RUN),
            jobs.c.heartbeat_at <= now() - older_than_s,
        )
        .values(state=JobState.INTERRUPTED.name)
    )
    return result.rowcount


def set_priority(connection: sa.Connection, job_id: str, priority: Priority) -> None:
    """What a job gets from now on; raises NotFound."""
    _update(connection, job_id, {"priority": priority.name})


def spent_s(
    connection: sa.Connection, identity: str, except_job: str, kinds: Sequence[str]
) -> float:
    """Seconds that other jobs of this identity took, for the same kinds of device if some are
    named."""
    total = sa.func.coalesce(sa.func.sum(jobs.c.elapsed_s), 0.0)
    query = sa.select(total).where(jobs.c.identity == identity, jobs.c.job_id != except_job)
    if kinds:
        query = query.where(jobs.c.devices_json.in_([to_json(kinds), to_json(())]))
    return float(connection.execute(query).scalar_one())


def set_tasks(connection: sa.Connection, job_id: str, tasks: Sequence[Task]) -> None:
    """Replace a job's tasks, and store those workloads that are new; raises NotFound."""
    # Also the lock that keeps two calls for one job apart.
    _update(connection, job_id, {})
    # In one order everywhere, so that two transactions never wait for each other in a circle.
    for task in sorted(tasks, key=lambda task: task.workload_key):
        statement = insert(connection, workloads).values(
            key=task.workload_key,
            workload_json=task.workload_json,
            args_json=to_json(task.args),
            num_outputs=task.num_outputs,
            flops=task.flops,
        )
        connection.execute(statement.on_conflict_do_nothing())
    connection.execute(sa.delete(job_tasks).where(job_tasks.c.job_id == job_id))
    for position, task in enumerate(tasks):
        connection.execute(
            sa.insert(job_tasks).values(
                job_id=job_id,
                position=position,
                name=task.name,
                workload_key=task.workload_key,
                weight=task.weight,
            )
        )


def tasks_of(connection: sa.Connection, job_id: str) -> list[Task]:
    """A job's tasks in the order in which they were set."""
    query = (
        sa.select(job_tasks, workloads)
        .join(workloads, workloads.c.key == job_tasks.c.workload_key)
        .where(job_tasks.c.job_id == job_id)
        .order_by(job_tasks.c.position)
    )
    return [
        Task(
            name=row.name,
            workload_key=row.workload_key,
            workload_json=row.workload_json,
            weight=row.weight,
            args=from_json(tuple[TensorSpec, ...], row.args_json),
            num_outputs=row.num_outputs,
            flops=row.flops,
        )
        for row in connection.execute(query)
    ]


def _update(connection: sa.Connection, job_id: str, values: Mapping[str, Any]) -> None:
    statement = sa.update(jobs).where(jobs.c.job_id == job_id)
    if connection.execute(statement.values(heartbeat_at=now(), **values)).rowcount == 0:
        raise _not_found(job_id)


def _not_found(job_id: str) -> NotFound:
    return NotFound(f"no job {job_id!r} in this tuning log; tunefarm jobs list shows those it has")


def _progress(job: Job) -> dict[str, Any]:
    ranking, result = job.ranking, job.result
    return {
        "state": job.state.name,
        "stage": clean(job.stage),
        "tuning_ended": clean(job.tuning_ended),
        "error": clean(job.error, MAX_ERROR_BYTES),
        "elapsed_s": job.elapsed_s,
        "remaining_s": finite(job.remaining_s),
        "trials_total": job.trials.total,
        "trials_ok": job.trials.ok,
        "trials_failed": job.trials.failed,
        "trials_from_log": job.trials.from_log,
        "tasks_json": to_json(job.tasks),
        "ranking_pairwise": finite(ranking.pairwise) if ranking else None,
        "ranking_peak_at_1": finite(ranking.peak_at_1) if ranking else None,
        "ranking_peak_at_5": finite(ranking.peak_at_5) if ranking else None,
        "ranking_batches": ranking.batches if ranking else None,
        "package_sha256": result.package_sha256 if result else None,
        "result_json": to_json(result) if result else None,
    }


def _job(row: sa.Row[Any]) -> Job:
    return Job(
        job_id=row.job_id,
        spec=_spec(row),
        state=JobState[row.state],
        stage=row.stage,
        error=row.error,
        trials=TrialCounts(row.trials_total, row.trials_ok, row.trials_failed, row.trials_from_log),
        tasks=from_json(tuple[TaskProgress, ...], row.tasks_json),
        ranking=_ranking(row),
        elapsed_s=row.elapsed_s,
        remaining_s=row.remaining_s,
        result=from_json(ModelResult, row.result_json) if row.result_json else None,
        submitted_at=row.submitted_at,
        tuning_ended=row.tuning_ended,
        parent_id=row.parent_id or "",
    )


def _spec(row: sa.Row[Any]) -> JobSpec:
    return JobSpec(
        model_name=row.model_name,
        model_sha256=row.model_sha256,
        target_json=row.target_json,
        trials=row.requested_trials,
        shapes=from_json(Mapping[str, Shape], row.shapes_json),  # type: ignore[type-abstract]
        time_limit_s=row.time_limit_s,
        cold_cache=row.cold_cache,
        seed=row.seed,
        target_latency_ms=row.target_latency_ms,
        flat_share=row.flat_share,
        direct_convolutions=row.direct_convolutions,
        project=row.project,
        submitted_by=row.submitted_by,
        priority=Priority[row.priority],
        canary_drift=row.canary_drift,
        devices=from_json(tuple[str, ...], row.devices_json),
        where=from_json(tuple[str, ...], row.where_json),
        exclusive=row.exclusive,
        targets=from_json(tuple[str, ...], row.targets_json),
    )


def _ranking(row: sa.Row[Any]) -> RankingQuality | None:
    if row.ranking_batches is None:
        return None
    return RankingQuality(
        pairwise=or_nan(row.ranking_pairwise),
        peak_at_1=or_nan(row.ranking_peak_at_1),
        peak_at_5=or_nan(row.ranking_peak_at_5),
        batches=row.ranking_batches,
    )
