"""What latency predictions are made of: operators with their best times, and finished models."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from protos.records import Device, Job, JobState, TensorSpec

from . import jobs as all_jobs
from .devices import known as known_devices
from .schema import job_tasks, jobs, measurements, workloads
from .values import from_json


@dataclass(frozen=True)
class OperatorRow:
    """A workload with a time on one kind of device; ``models`` are the SHA-256 of those with it."""

    workload_key: str
    name: str
    args: tuple[TensorSpec, ...]
    num_outputs: int
    best_us: float
    tried: int
    models: frozenset[str]


def timed_operators(connection: sa.Connection, device_kind: str) -> list[OperatorRow]:
    """Every workload of a job that this kind has measured with warm caches.

    ``tried`` counts its candidates. Of each workload the best record is read, the others only in
    the index.
    """
    m, t, w = measurements.c, job_tasks.c, workloads.c
    models: dict[str, set[str]] = {}
    names: dict[str, str] = {}
    query = sa.select(t.workload_key, t.name, jobs.c.model_sha256).join(
        jobs, jobs.c.job_id == t.job_id
    )
    for key, name, model in connection.execute(query.distinct()):
        models.setdefault(key, set()).add(model)
        names[key] = name
    of_kind = (m.device_kind == device_kind, m.workload_key == w.key)
    best = (
        sa.select(m.latency_us)
        .where(*of_kind, m.latency_us.is_not(None), m.cold_cache.is_(sa.false()))
        .order_by(m.latency_us, m.id)
        .limit(1)
        .scalar_subquery()
    )
    tried = sa.select(sa.func.count(m.candidate_key.distinct())).where(*of_kind).scalar_subquery()
    columns = (w.key, w.args_json, w.num_outputs, best.label("best_us"), tried.label("tried"))
    return [
        OperatorRow(
            row.key,
            names[row.key],
            from_json(tuple[TensorSpec, ...], row.args_json),
            row.num_outputs,
            row.best_us,
            row.tried,
            frozenset(models[row.key]),
        )
        for row in connection.execute(sa.select(*columns).order_by(w.key))
        if row.best_us is not None and row.key in models
    ]


def finished_jobs(connection: sa.Connection, device: Device) -> list[Job]:
    """Jobs with a measured package on this kind of device with warm caches, newest first.

    A job that the log answered has measured nothing itself: then its target decides, if there is
    no other kind of device with it.
    """
    j, m = jobs.c, measurements.c
    same_target = {d.kind for d in known_devices(connection) if d.target_json == device.target_json}
    measured = sa.select(m.id).where(m.job_id == j.job_id)
    here: sa.ColumnElement[bool] = sa.exists(measured.where(m.device_kind == device.kind))
    if same_target <= {device.kind}:
        here = sa.or_(here, ~sa.exists(measured))
    query = (
        sa.select(j.job_id)
        .where(
            j.state == JobState.DONE.name,
            j.target_json == device.target_json,
            j.cold_cache.is_(sa.false()),
            j.result_json.is_not(None),
            here,
        )
        .order_by(j.id.desc())
    )
    return [all_jobs.get(connection, row.job_id) for row in connection.execute(query).all()]


def size(connection: sa.Connection) -> int:
    """The newest measurement's number: by how much a log has grown."""
    found = connection.execute(sa.select(sa.func.max(measurements.c.id))).scalar_one()
    return int(found or 0)
