"""What devices were given to measure, and which programs were on a device when it vanished."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from protos.records import Candidate, canonical_json

from .append import append
from .database import insert
from .schema import candidates, leases, losses, now
from .values import clean_tools, finite


@dataclass(frozen=True)
class LeasedTrial:
    """One candidate of a lease, the bytes that it was built to, and the score it was predicted."""

    candidate: Candidate
    artifact_sha256: str
    predicted_score: float | None = None


@dataclass(frozen=True)
class LeaseRecord:
    """A lease as the log knows it: enough to keep its results without the job that made it.

    ``trials`` are by the keys of their candidates; ``built_with`` are the versions of the tools
    that built the artifacts.
    """

    lease_id: str
    job_id: str
    device: str
    device_kind: str
    workload_key: str
    trials: Mapping[str, LeasedTrial]
    built_with: Mapping[str, str] = field(default_factory=dict)


def add(connection: sa.Connection, lease: LeaseRecord) -> None:
    """Keep a lease and its candidates; again is no harm."""
    trials = sorted(lease.trials.items())  # in one order everywhere, as record_many has it
    workload = {"workload_key": lease.workload_key}
    rows = [{"key": k, **workload, "trace_json": t.candidate.trace_json} for k, t in trials]
    append(connection, candidates, rows, ("key",))
    leased = [[key, t.artifact_sha256, _score(t.predicted_score)] for key, t in trials]
    row = {
        "lease_id": lease.lease_id,
        "job_id": lease.job_id,
        "device": lease.device,
        "device_kind": lease.device_kind,
        "workload_key": lease.workload_key,
        "built_with_json": canonical_json(clean_tools(lease.built_with)),
        "trials_json": canonical_json(leased),
        "leased_at": now(),
    }
    connection.execute(insert(connection, leases).values(**row).on_conflict_do_nothing())


def _score(score: float | None) -> float | None:
    score = finite(score)
    return None if score is None else float(score)  # of NumPy's, too


def get(connection: sa.Connection, lease_id: str) -> LeaseRecord | None:
    """A lease that is kept; without those of its candidates that were pruned meanwhile."""
    row = connection.execute(sa.select(leases).where(leases.c.lease_id == lease_id)).first()
    if row is None:
        return None
    trials = json.loads(row.trials_json)
    keys = [key for key, _sha256, _score in trials]
    found = sa.select(candidates).where(candidates.c.key.in_(keys))
    traces = {row.key: row.trace_json for row in connection.execute(found)}
    return LeaseRecord(
        *(row.lease_id, row.job_id, row.device, row.device_kind, row.workload_key),
        {
            key: LeasedTrial(Candidate(row.workload_key, traces[key]), sha256, score)
            for key, sha256, score in trials
            if key in traces
        },
        json.loads(row.built_with_json),
    )


def devices_with(connection: sa.Connection, job_id: str) -> set[str]:
    """Which devices hold leases of a job."""
    return set(connection.scalars(sa.select(leases.c.device).where(leases.c.job_id == job_id)))


def delete(connection: sa.Connection, ended: Collection[tuple[str, str]]) -> None:
    """Drop leases, each named with its device, that no result can come of any more."""
    held = sa.and_(leases.c.lease_id == sa.bindparam("id"), leases.c.device == sa.bindparam("by"))
    pairs = [{"id": lease_id, "by": device} for lease_id, device in sorted(ended)]
    connection.execute(sa.delete(leases).where(held), pairs)


def delete_older(connection: sa.Connection, age_s: float) -> int:
    """Drop leases that were made longer ago; returns how many."""
    old = leases.c.leased_at < now() - age_s
    return connection.execute(sa.delete(leases).where(old)).rowcount


def add_losses(
    connection: sa.Connection,
    device: str,
    device_kind: str,
    lease_id: str,
    artifacts: Sequence[str],
) -> None:
    """Note that a device vanished with this lease, whose programs these were."""
    for sha256 in sorted(set(artifacts)):
        row = {
            "artifact_sha256": sha256,
            "device_kind": device_kind,
            "lease_id": lease_id,
            "device": device,
            "lost_at": now(),
        }
        connection.execute(insert(connection, losses).values(**row).on_conflict_do_nothing())


def absolve(connection: sa.Connection, lease_ids: Collection[str]) -> None:
    """The device was there all the time, or stopped on purpose: these leases' programs did it no
    harm."""
    connection.execute(sa.delete(losses).where(losses.c.lease_id.in_(sorted(lease_ids))))


def times_lost(
    connection: sa.Connection, device_kind: str, artifacts: Collection[str]
) -> dict[str, int]:
    """How often a device of this kind vanished with each of these programs; without those that
    never saw one go."""
    query = (
        sa.select(losses.c.artifact_sha256, sa.func.count().label("times"))
        .where(losses.c.device_kind == device_kind, losses.c.artifact_sha256.in_(sorted(artifacts)))
        .group_by(losses.c.artifact_sha256)
    )
    return {row.artifact_sha256: row.times for row in connection.execute(query)}
