"""The tables of the tuning log at the newest revision.

A change here needs a revision in ``migrations/versions`` (a test compares the two). Times are
seconds since 1970 by the database's clock; keys are SHA-256 in hexadecimal; columns ``*_json`` hold
canonical JSON. NULL in a number means that there was none, or none that is finite.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite counts rows by itself only in a column of type INTEGER.
_Serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


class now(FunctionElement[float]):  # noqa: N801 (it reads as the SQL function that it is)
    """The database's clock, seconds since 1970."""

    type = sa.Double()
    inherit_cache = True


@compiles(now, "sqlite")
def _now_sqlite(_element: now, _compiler: SQLCompiler, **_options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_postgresql(_element: now, _compiler: SQLCompiler, **_options: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION)"


blobs = sa.Table(
    "blobs",
    metadata,
    sa.Column("sha256", sa.Text, primary_key=True),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("stored_at", sa.Double, nullable=False),
)

# Neither database takes a value as large as the largest model.
blob_chunks = sa.Table(
    "blob_chunks",
    metadata,
    sa.Column("sha256", sa.Text, sa.ForeignKey("blobs.sha256"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
)

projects = sa.Table(
    "projects",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("created_at", sa.Double, nullable=False),
)

users = sa.Table(
    "users",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("first_seen_at", sa.Double, nullable=False),
    # what an administrator allows; NULL: as much as there is
    sa.Column("max_running", sa.Integer),
    sa.Column("highest_priority", sa.Text),
)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", _Serial, primary_key=True),
    sa.Column("job_id", sa.Text, nullable=False, unique=True),
    sa.Column("identity", sa.Text, nullable=False, index=True),
    sa.Column("coordinator", sa.Text, nullable=False),
    sa.Column("embedded", sa.Boolean, nullable=False),
    sa.Column(
        "project",
        sa.Text,
        sa.ForeignKey("projects.name"),
        nullable=False,
        server_default="default",
        index=True,
    ),
    sa.Column(
        "submitted_by",
        sa.Text,
        sa.ForeignKey("users.name"),
        nullable=False,
        server_default="unknown",
    ),
    sa.Column("submitted_at", sa.Double, nullable=False),
    sa.Column("heartbeat_at", sa.Double, nullable=False),
    # what was asked for
    sa.Column("model_name", sa.Text, nullable=False),
    sa.Column("model_sha256", sa.Text, nullable=False),
    sa.Column("target_json", sa.Text, nullable=False),
    sa.Column("shapes_json", sa.Text, nullable=False),
    sa.Column("requested_trials", sa.BigInteger, nullable=False),
    sa.Column("time_limit_s", sa.Double),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("cold_cache", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("target_latency_ms", sa.Double),
    sa.Column("flat_share", sa.Double),
    sa.Column("direct_convolutions", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("priority", sa.Text, nullable=False, server_default="NORMAL"),
    sa.Column("canary_drift", sa.Double),
    sa.Column("devices_json", sa.Text, nullable=False, server_default="[]"),
    sa.Column("targets_json", sa.Text, nullable=False, server_default="[]"),
    sa.Column("where_json", sa.Text, nullable=False, server_default="[]"),
    sa.Column("exclusive", sa.Boolean, nullable=False, server_default=sa.false()),
    # the job that this is a part of, for one of several kinds of device
    sa.Column("parent_id", sa.Text, index=True),
    # how far it is
    sa.Column("state", sa.Text, nullable=False, index=True),
    sa.Column("stage", sa.Text, nullable=False, default=""),
    sa.Column("tuning_ended", sa.Text, nullable=False, server_default=""),
    sa.Column("error", sa.Text, nullable=False, default=""),
    sa.Column("elapsed_s", sa.Double, nullable=False, default=0.0),
    sa.Column("remaining_s", sa.Double),
    sa.Column("trials_total", sa.BigInteger, nullable=False, default=0),
    sa.Column("trials_ok", sa.BigInteger, nullable=False, default=0),
    sa.Column("trials_failed", sa.BigInteger, nullable=False, default=0),
    sa.Column("trials_from_log", sa.BigInteger, nullable=False, default=0),
    sa.Column("tasks_json", sa.Text, nullable=False, default="[]"),
    sa.Column("ranking_pairwise", sa.Double),
    sa.Column("ranking_peak_at_1", sa.Double),
    sa.Column("ranking_peak_at_5", sa.Double),
    sa.Column("ranking_batches", sa.BigInteger),
    # what came out
    sa.Column("package_sha256", sa.Text),
    sa.Column("result_json", sa.Text),
)

workloads = sa.Table(
    "workloads",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("workload_json", sa.Text, nullable=False),
    sa.Column("args_json", sa.Text, nullable=False),
    sa.Column("num_outputs", sa.Integer, nullable=False),
    sa.Column("flops", sa.Double, nullable=False),
)

job_tasks = sa.Table(
    "job_tasks",
    metadata,
    sa.Column("job_id", sa.Text, sa.ForeignKey("jobs.job_id"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("workload_key", sa.Text, sa.ForeignKey("workloads.key"), nullable=False),
    sa.Column("weight", sa.BigInteger, nullable=False),
)

candidates = sa.Table(
    "candidates",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("workload_key", sa.Text, sa.ForeignKey("workloads.key"), nullable=False),
    sa.Column("trace_json", sa.Text, nullable=False),
)

# What the cost model sees of a candidate; another version of the features makes it anew.
candidate_features = sa.Table(
    "candidate_features",
    metadata,
    sa.Column("candidate_key", sa.Text, sa.ForeignKey("candidates.key"), primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
)

imports = sa.Table(
    "imports",
    metadata,
    sa.Column("import_id", _Serial, primary_key=True),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("format", sa.Text, nullable=False),
    sa.Column("imported_by", sa.Text, sa.ForeignKey("users.name"), nullable=False),
    sa.Column("imported_at", sa.Double, nullable=False),
    sa.Column("records", sa.BigInteger, nullable=False),
)

# Of the two, job and import, a measurement has the one that it came with.
measurements = sa.Table(
    "measurements",
    metadata,
    sa.Column("id", _Serial, primary_key=True),
    sa.Column("measured_at", sa.Double, nullable=False),
    sa.Column("job_id", sa.Text, sa.ForeignKey("jobs.job_id")),
    sa.Column("import_id", _Serial, sa.ForeignKey("imports.import_id")),
    sa.Column("lease_id", sa.Text),
    sa.Column("workload_key", sa.Text, nullable=False),
    sa.Column("candidate_key", sa.Text, sa.ForeignKey("candidates.key"), nullable=False),
    sa.Column("artifact_sha256", sa.Text),
    sa.Column("device_kind", sa.Text, nullable=False),
    # the outcome
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("latency_us", sa.Double),
    sa.Column("repeats_s_json", sa.Text, nullable=False),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("max_abs_error", sa.Double),
    sa.Column("predicted_score", sa.Double),
    # its circumstances: all NULL if no device was involved
    sa.Column("device", sa.Text),
    sa.Column("emulated", sa.Boolean),
    sa.Column("num_threads", sa.Integer),
    sa.Column("cpus_json", sa.Text),
    sa.Column("evaluator_json", sa.Text),
    sa.Column("tool_versions_json", sa.Text),
    sa.Column("tool_versions_key", sa.Text),
    sa.Column("before_temperature_c", sa.Double),
    sa.Column("before_frequency_mhz", sa.Double),
    sa.Column("before_governor", sa.Text),
    sa.Column("before_load_1m", sa.Double),
    sa.Column("before_throttled", sa.Text),
    sa.Column("after_temperature_c", sa.Double),
    sa.Column("after_frequency_mhz", sa.Double),
    sa.Column("after_governor", sa.Text),
    sa.Column("after_load_1m", sa.Double),
    sa.Column("after_throttled", sa.Text),
    sa.Column("lock_wait_s", sa.Double),
    sa.Column("busy_s", sa.Double),
    sa.Column("load_s", sa.Double),
    sa.Column("check_s", sa.Double),
    sa.Column("time_s", sa.Double),
    sa.Column("canary_ratio", sa.Double),
    sa.Column("cold_cache", sa.Boolean, nullable=False, server_default=sa.false()),
)


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


_m = measurements.c
# A result that comes twice. What failed before it had a lease is known by its job instead.
sa.Index("uq_measurements_lease", _m.lease_id, _m.candidate_key, unique=True)
sa.Index(
    "uq_measurements_unleased",
    *(_m.job_id, _m.device_kind, _m.candidate_key),
    unique=True,
    **_where("lease_id IS NULL"),
)
# The k best of a workload without reading the others.
sa.Index(
    "ix_measurements_best",
    *(_m.device_kind, _m.workload_key, _m.latency_us, _m.id),
    **_where("latency_us IS NOT NULL"),
)
# One candidate's records from the index alone.
sa.Index("ix_measurements_candidate", _m.device_kind, _m.workload_key, _m.candidate_key, _m.status)
sa.Index(
    "ix_measurements_artifact",
    *(_m.device_kind, _m.artifact_sha256, _m.id),
    **_where("artifact_sha256 IS NOT NULL"),
)
sa.Index("ix_measurements_job", _m.job_id, _m.id)
sa.Index("ix_measurements_device", _m.device)
sa.Index("ix_measurements_import", _m.import_id)

devices = sa.Table(
    "devices",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("target_json", sa.Text, nullable=False),
    sa.Column("cpu_model", sa.Text, nullable=False),
    sa.Column("emulated", sa.Boolean, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("record_json", sa.Text, nullable=False),
    sa.Column("first_seen_at", sa.Double, nullable=False),
    sa.Column("last_seen_at", sa.Double, nullable=False),
)

device_labels = sa.Table(
    "device_labels",
    metadata,
    sa.Column("device", sa.Text, sa.ForeignKey("devices.name"), primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

# What people decided of a device; it outlives coordinator and agent.
device_holds = sa.Table(
    "device_holds",
    metadata,
    sa.Column("device", sa.Text, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("held_by", sa.Text, nullable=False),
    sa.Column("held_at", sa.Double, nullable=False),
)

# What a device was given to measure, so that its results find their job whoever restarts meanwhile.
leases = sa.Table(
    "leases",
    metadata,
    sa.Column("lease_id", sa.Text, primary_key=True),
    sa.Column("job_id", sa.Text, sa.ForeignKey("jobs.job_id"), nullable=False),
    sa.Column("device", sa.Text, nullable=False),
    sa.Column("device_kind", sa.Text, nullable=False),
    sa.Column("workload_key", sa.Text, nullable=False),
    sa.Column("built_with_json", sa.Text, nullable=False),
    sa.Column("trials_json", sa.Text, nullable=False),
    sa.Column("leased_at", sa.Double, nullable=False, index=True),
)

# Programs that were on a device when it vanished.
losses = sa.Table(
    "losses",
    metadata,
    sa.Column("artifact_sha256", sa.Text, primary_key=True),
    sa.Column("device_kind", sa.Text, primary_key=True),
    sa.Column("lease_id", sa.Text, primary_key=True, index=True),
    sa.Column("device", sa.Text, nullable=False),
    sa.Column("lost_at", sa.Double, nullable=False),
)

# What happened to a device that failed, and what was done about it.
device_events = sa.Table(
    "device_events",
    metadata,
    sa.Column("id", _Serial, primary_key=True),
    sa.Column("device", sa.Text, nullable=False),
    sa.Column("step", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("happened_at", sa.Double, nullable=False),
    sa.Index("ix_device_events_device_id", "device", "id"),
)

device_limits = sa.Table(
    "device_limits",
    metadata,
    sa.Column("device_kind", sa.Text, primary_key=True),
    sa.Column("device", sa.Text, nullable=False),
    sa.Column("peak_gflops", sa.Double, nullable=False),
    sa.Column("memory_gb_s", sa.Double, nullable=False),
    sa.Column("cache_gb_s", sa.Double, nullable=False),
    sa.Column("cache_bytes", sa.BigInteger, nullable=False),
    sa.Column("measured_at", sa.Double, nullable=False),
)

cost_models = sa.Table(
    "cost_models",
    metadata,
    sa.Column("version", _Serial, primary_key=True),
    sa.Column("device_kind", sa.Text, nullable=False),
    sa.Column("model_text", sa.Text, nullable=False),
    sa.Column("trained_on", sa.BigInteger, nullable=False),
    sa.Column("promoted", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("scores_json", sa.Text, nullable=False),
    sa.Column("trained_at", sa.Double, nullable=False),
    sa.Index("ix_cost_models_kind", "device_kind", "version"),
)

rankings = sa.Table(
    "rankings",
    metadata,
    sa.Column("id", _Serial, primary_key=True),
    sa.Column("job_id", sa.Text, sa.ForeignKey("jobs.job_id"), nullable=False, index=True),
    sa.Column("workload_key", sa.Text, nullable=False),
    sa.Column("cost_model_version", _Serial, sa.ForeignKey("cost_models.version")),
    sa.Column("pairwise", sa.Double),
    sa.Column("peak_at_1", sa.Double),
    sa.Column("peak_at_5", sa.Double),
    sa.Column("candidates", sa.Integer, nullable=False),
    sa.Column("ranked_at", sa.Double, nullable=False),
)

packages = sa.Table(
    "packages",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("job_id", sa.Text, sa.ForeignKey("jobs.job_id"), nullable=False),
    sa.Column("result_json", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, sa.ForeignKey("blobs.sha256"), nullable=False),
    sa.Column("packaged_at", sa.Double, nullable=False),
)

# Whom the farm knows. The private keys are where they are used; a token's secret is nowhere.
certificates = sa.Table(
    "certificates",
    metadata,
    sa.Column("serial", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, index=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("issued_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
    sa.Column("revoked_at", sa.Double),
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("secret_sha256", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, index=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
    sa.Column("used_at", sa.Double),
)
