"""All that the log keeps about one thing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from protos.records import UNTUNED_TRACE

from .browse import top_workload
from .candidate_records import by_candidate, evidence_of, records_of, untuned_key
from .measurements import device_kinds
from .naming import Named, newest_job
from .schema import (
    candidate_features,
    candidates,
    cost_models,
    device_labels,
    device_limits,
    devices,
    job_tasks,
    jobs,
    measurements,
    packages,
    rankings,
    workloads,
)

_JSON = "_json"
_BEST = 10

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """A row of the log with what belongs to it.

    ``fields`` are its columns; one in JSON has what it says. ``parts`` are lists of rows, by what
    they are, and ``texts`` are long.
    """

    what: str
    key: str
    fields: Row
    parts: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)


def entry(connection: sa.Connection, named: Named) -> Entry:
    """What is kept about a thing that ``naming.find`` has found; of a model, its newest job."""
    if named.what == "model":
        return _job(connection, newest_job(connection, named.key))
    number = int(named.key[1:]) if named.what in ("measurement", "cost model") else 0
    match named.what:
        case "job":
            return _job(connection, named.key)
        case "workload":
            return _workload(connection, named.key)
        case "candidate":
            return _candidate(connection, named.key)
        case "device":
            return _device(connection, named.key)
        case "measurement":
            return _measurement(connection, number)
        case _:
            return _cost_model(connection, number)


def _row(connection: sa.Connection, query: sa.Select[Any]) -> dict[str, Any]:
    return _readable(connection.execute(query).mappings().one())


def _rows(connection: sa.Connection, query: sa.Select[Any]) -> list[Row]:
    return [_readable(row) for row in connection.execute(query).mappings()]


def _readable(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Columns in JSON under their name without that, as what they say."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if name.endswith(_JSON):
            found[name.removesuffix(_JSON)] = json.loads(value) if value else None
        else:
            found[name] = value
    return found


def _job(connection: sa.Connection, job_id: str) -> Entry:
    fields = _row(connection, sa.select(jobs).where(jobs.c.job_id == job_id))
    m, r, t = measurements.c, rankings.c, job_tasks.c
    status = (
        sa.select(m.device_kind, m.status, sa.func.count().label("measurements"))
        .where(m.job_id == job_id)
        .group_by(m.device_kind, m.status)
        .order_by(m.device_kind, m.status)
    )
    models = (
        sa.select(
            r.cost_model_version,
            sa.func.count().label("batches"),
            sa.func.avg(r.pairwise).label("pairwise"),
            sa.func.avg(r.peak_at_1).label("peak_at_1"),
        )
        .where(r.job_id == job_id)
        .group_by(r.cost_model_version)
        .order_by(r.cost_model_version)
    )
    of_job = sa.select(packages.c.key, packages.c.sha256, packages.c.packaged_at)
    # What the job has said of each task, beside the task itself.
    said = {task["workload_key"]: task for task in fields.pop("tasks") or ()}
    tasks = _rows(connection, sa.select(job_tasks).where(t.job_id == job_id).order_by(t.position))
    parts: dict[str, Sequence[Row]] = {
        "tasks": [
            {
                **{k: v for k, v in task.items() if k != "job_id"},
                **said.get(task["workload_key"], {}),
            }
            for task in tasks
        ],
        "measurements by status": _rows(connection, status),
        "rankings by cost model": _rows(connection, models),
        "packages": _rows(connection, of_job.where(packages.c.job_id == job_id)),
    }
    return Entry("job", job_id, fields, parts)


def _workload(connection: sa.Connection, key: str) -> Entry:
    w, m, t = workloads.c, measurements.c, job_tasks.c
    fields = _row(
        connection, sa.select(w.key, w.args_json, w.num_outputs, w.flops).where(w.key == key)
    )
    status = (
        sa.select(m.device_kind, m.status, sa.func.count().label("measurements"))
        .where(m.device_kind.in_(device_kinds(connection)), m.workload_key == key)
        .group_by(m.device_kind, m.status)
        .order_by(m.device_kind, m.status)
    )
    used = (
        sa.select(t.job_id, jobs.c.model_name, t.name, t.weight)
        .join(jobs, jobs.c.job_id == t.job_id)
        .where(t.workload_key == key)
        .order_by(jobs.c.id.desc())
    )
    best = [
        {
            "device_kind": found.device_kind,
            "cold_cache": found.cold_cache,
            "candidate_key": one.candidate_key,
            "untuned": one.untuned,
            "latency_us": one.latency_us,
            "over_untuned": one.over_untuned,
        }
        for found in top_workload(connection, key, _BEST)
        for one in found.candidates
    ]
    parts: dict[str, Sequence[Row]] = {
        "best": best,
        "measurements by status": _rows(connection, status),
    }
    parts["tasks of jobs"] = _rows(connection, used)
    return Entry("workload", key, fields, parts)


def workload_json(connection: sa.Connection, key: str) -> str:
    """TVM's text of a workload that is there."""
    query = sa.select(workloads.c.workload_json).where(workloads.c.key == key)
    return str(connection.execute(query).scalar_one())


def _candidate(connection: sa.Connection, key: str) -> Entry:
    row = connection.execute(sa.select(candidates).where(candidates.c.key == key)).one()
    m = measurements.c
    kinds = device_kinds(connection)
    # The index has the candidate in the third place.
    mine = sa.and_(
        m.device_kind.in_(kinds), m.workload_key == row.workload_key, m.candidate_key == key
    )
    found = _rows(connection, sa.select(measurements).where(mine).order_by(m.id))
    untuned = key == untuned_key(row.workload_key)
    features = sa.select(candidate_features.c.version)
    of_candidate = candidate_features.c.candidate_key == key
    fields = {
        "key": key,
        "workload_key": row.workload_key,
        "untuned": untuned,
        "features_version": connection.execute(features.where(of_candidate)).scalar(),
    }
    standing = [
        one for kind in kinds for one in _standings(connection, row.workload_key, key, kind)
    ]
    return Entry(
        "candidate",
        key,
        fields,
        {"standing": standing, "measurements": found},
        {"trace": trace_text(row.trace_json)},
    )


def _standings(
    connection: sa.Connection, workload_key: str, key: str, device_kind: str
) -> list[Row]:
    """What all records of a candidate on a kind of device say together."""
    records = [
        record
        for record in records_of(connection, workload_key, device_kind)
        if record.candidate_key == key
    ]
    found: list[Row] = []
    for cold in (False, True):
        same = by_candidate(record for record in records if bool(record.cold_cache) is cold)
        for item in evidence_of(workload_key, same).values():
            found.append(
                {
                    "device_kind": device_kind,
                    "cold_cache": cold,
                    "latency_us": item.pooled_us,
                    "least_us": item.latency_us,
                    "rounds_of_finals": len(item.finals_s),
                }
            )
    return found


def _measurement(connection: sa.Connection, number: int) -> Entry:
    fields = _row(connection, sa.select(measurements).where(measurements.c.id == number))
    return Entry("measurement", f"m{number}", fields)


def _device(connection: sa.Connection, name: str) -> Entry:
    d, m, k = devices.c, measurements.c, device_labels.c
    fields = _row(connection, sa.select(devices).where(d.name == name))
    status = sa.select(m.status, sa.func.count().label("measurements")).where(m.device == name)
    limits = sa.select(device_limits).where(device_limits.c.device_kind == fields["kind"])
    parts = {
        "labels": _rows(connection, sa.select(k.key, k.value).where(k.device == name)),
        "limits of its kind": _rows(connection, limits),
        "measurements by status": _rows(connection, status.group_by(m.status).order_by(m.status)),
    }
    return Entry("device", name, fields, parts)


def _cost_model(connection: sa.Connection, version: int) -> Entry:
    c, r = cost_models.c, rankings.c
    fields = _row(connection, sa.select(cost_models).where(c.version == version))
    ranked = (
        sa.select(
            r.job_id,
            sa.func.count().label("batches"),
            sa.func.avg(r.pairwise).label("pairwise"),
            sa.func.avg(r.peak_at_1).label("peak_at_1"),
            sa.func.avg(r.peak_at_5).label("peak_at_5"),
        )
        .where(r.cost_model_version == version)
        .group_by(r.job_id)
        .order_by(sa.func.min(r.id))
    )
    text = fields.pop("model_text")
    parts = {"rankings by job": _rows(connection, ranked)}
    return Entry("cost model", f"v{version}", fields, parts, {"model": text})


def trace_text(trace_json: str) -> str:
    """A trace as people read it: an instruction a line, with what was decided there.

    What is no trace of TVM's stays as it is.
    """
    if trace_json == UNTUNED_TRACE:
        return "(the untuned program: nothing is scheduled)"
    try:
        instructions, decisions = json.loads(trace_json)
        decided = dict(decisions)
        return "\n".join(
            _instruction(name, inputs, attrs, outputs, decided.get(index))
            for index, (name, inputs, attrs, outputs) in enumerate(instructions)
        )
    except (ValueError, TypeError):
        return trace_json


def _instruction(
    name: str, inputs: Sequence[Any], attrs: Sequence[Any], outputs: Sequence[str], decision: Any
) -> str:
    words = [*(str(one) for one in inputs), *(json.dumps(one) for one in attrs)]
    made = f"{', '.join(outputs)} = " if outputs else ""
    ending = "" if decision is None else f"  # {json.dumps(decision)}"
    return f"{made}{name}({', '.join(words)}){ending}"
