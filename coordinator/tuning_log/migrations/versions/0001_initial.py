"""The first tables."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _create_blobs()
    _create_jobs()
    _create_tasks()
    _create_measurements()
    _create_devices()
    _create_cost_models()
    _create_packages()


def _create_blobs() -> None:
    op.create_table(
        "blobs",
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("stored_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("sha256", name="pk_blobs"),
    )
    op.create_table(
        "blob_chunks",
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.ForeignKeyConstraint(["sha256"], ["blobs.sha256"], name="fk_blob_chunks_sha256"),
        sa.PrimaryKeyConstraint("sha256", "position", name="pk_blob_chunks"),
    )


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", SERIAL, nullable=False),
        sa.Column("job_id", sa.Text, nullable=False),
        sa.Column("identity", sa.Text, nullable=False),
        sa.Column("coordinator", sa.Text, nullable=False),
        sa.Column("embedded", sa.Boolean, nullable=False),
        sa.Column("submitted_at", sa.Double, nullable=False),
        sa.Column("heartbeat_at", sa.Double, nullable=False),
        sa.Column("model_name", sa.Text, nullable=False),
        sa.Column("model_sha256", sa.Text, nullable=False),
        sa.Column("target_json", sa.Text, nullable=False),
        sa.Column("shapes_json", sa.Text, nullable=False),
        sa.Column("requested_trials", sa.BigInteger, nullable=False),
        sa.Column("time_limit_s", sa.Double),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("stage", sa.Text, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("elapsed_s", sa.Double, nullable=False),
        sa.Column("remaining_s", sa.Double),
        sa.Column("trials_total", sa.BigInteger, nullable=False),
        sa.Column("trials_ok", sa.BigInteger, nullable=False),
        sa.Column("trials_failed", sa.BigInteger, nullable=False),
        sa.Column("trials_from_log", sa.BigInteger, nullable=False),
        sa.Column("tasks_json", sa.Text, nullable=False),
        sa.Column("ranking_pairwise", sa.Double),
        sa.Column("ranking_peak_at_1", sa.Double),
        sa.Column("ranking_peak_at_5", sa.Double),
        sa.Column("ranking_batches", sa.BigInteger),
        sa.Column("untuned_ms", sa.Double),
        sa.Column("tuned_ms", sa.Double),
        sa.Column("onnxruntime_ms", sa.Double),
        sa.Column("max_abs_error", sa.Double),
        sa.Column("max_rel_error", sa.Double),
        sa.Column("package_filename", sa.Text),
        sa.Column("package_sha256", sa.Text),
        sa.Column("package_size_bytes", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.UniqueConstraint("job_id", name="uq_jobs_job_id"),
    )
    op.create_index("ix_jobs_identity", "jobs", ["identity"])
    op.create_index("ix_jobs_state", "jobs", ["state"])


def _create_tasks() -> None:
    op.create_table(
        "workloads",
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("workload_json", sa.Text, nullable=False),
        sa.Column("args_json", sa.Text, nullable=False),
        sa.Column("num_outputs", sa.Integer, nullable=False),
        sa.Column("flops", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_workloads"),
    )
    op.create_table(
        "job_tasks",
        sa.Column("job_id", sa.Text, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("workload_key", sa.Text, nullable=False),
        sa.Column("weight", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], name="fk_job_tasks_job_id"),
        sa.ForeignKeyConstraint(
            ["workload_key"], ["workloads.key"], name="fk_job_tasks_workload_key"
        ),
        sa.PrimaryKeyConstraint("job_id", "position", name="pk_job_tasks"),
    )
    op.create_table(
        "candidates",
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("workload_key", sa.Text, nullable=False),
        sa.Column("trace_json", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(
            ["workload_key"], ["workloads.key"], name="fk_candidates_workload_key"
        ),
        sa.PrimaryKeyConstraint("key", name="pk_candidates"),
    )


def _create_measurements() -> None:
    op.create_table(
        "measurements",
        sa.Column("id", SERIAL, nullable=False),
        sa.Column("measured_at", sa.Double, nullable=False),
        sa.Column("job_id", sa.Text, nullable=False),
        sa.Column("lease_id", sa.Text),
        sa.Column("workload_key", sa.Text, nullable=False),
        sa.Column("candidate_key", sa.Text, nullable=False),
        sa.Column("artifact_sha256", sa.Text),
        sa.Column("device_kind", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("latency_us", sa.Double),
        sa.Column("repeats_s_json", sa.Text, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("max_abs_error", sa.Double),
        sa.Column("predicted_score", sa.Double),
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
        sa.ForeignKeyConstraint(
            ["candidate_key"], ["candidates.key"], name="fk_measurements_candidate_key"
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], name="fk_measurements_job_id"),
        sa.PrimaryKeyConstraint("id", name="pk_measurements"),
    )
    _index_measurements()


def _create_devices() -> None:
    op.create_table(
        "devices",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("target_json", sa.Text, nullable=False),
        sa.Column("cpu_model", sa.Text, nullable=False),
        sa.Column("emulated", sa.Boolean, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("record_json", sa.Text, nullable=False),
        sa.Column("first_seen_at", sa.Double, nullable=False),
        sa.Column("last_seen_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_devices"),
    )


def _create_cost_models() -> None:
    op.create_table(
        "cost_models",
        sa.Column("version", SERIAL, nullable=False),
        sa.Column("device_kind", sa.Text, nullable=False),
        sa.Column("model_text", sa.Text, nullable=False),
        sa.Column("trained_on", sa.BigInteger, nullable=False),
        sa.Column("scores_json", sa.Text, nullable=False),
        sa.Column("trained_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("version", name="pk_cost_models"),
    )
    op.create_index("ix_cost_models_kind", "cost_models", ["device_kind", "version"])
    op.create_table(
        "rankings",
        sa.Column("id", SERIAL, nullable=False),
        sa.Column("job_id", sa.Text, nullable=False),
        sa.Column("workload_key", sa.Text, nullable=False),
        sa.Column("cost_model_version", SERIAL),
        sa.Column("pairwise", sa.Double),
        sa.Column("peak_at_1", sa.Double),
        sa.Column("peak_at_5", sa.Double),
        sa.Column("candidates", sa.Integer, nullable=False),
        sa.Column("ranked_at", sa.Double, nullable=False),
        sa.ForeignKeyConstraint(
            ["cost_model_version"], ["cost_models.version"], name="fk_rankings_cost_model_version"
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], name="fk_rankings_job_id"),
        sa.PrimaryKeyConstraint("id", name="pk_rankings"),
    )
    op.create_index("ix_rankings_job_id", "rankings", ["job_id"])


def _create_packages() -> None:
    op.create_table(
        "packages",
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("job_id", sa.Text, nullable=False),
        sa.Column("result_json", sa.Text, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("packaged_at", sa.Double, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], name="fk_packages_job_id"),
        sa.ForeignKeyConstraint(["sha256"], ["blobs.sha256"], name="fk_packages_sha256"),
        sa.PrimaryKeyConstraint("key", name="pk_packages"),
    )


def _index_measurements() -> None:
    op.create_index(
        "ix_measurements_artifact",
        "measurements",
        ["device_kind", "artifact_sha256", "id"],
        **_where("artifact_sha256 IS NOT NULL"),
    )
    op.create_index(
        "ix_measurements_best",
        "measurements",
        ["device_kind", "workload_key", "latency_us", "id"],
        **_where("latency_us IS NOT NULL"),
    )
    op.create_index(
        "ix_measurements_candidate",
        "measurements",
        ["device_kind", "workload_key", "candidate_key", "status"],
    )
    op.create_index("ix_measurements_device", "measurements", ["device"])
    op.create_index("ix_measurements_job", "measurements", ["job_id", "id"])
    op.create_index(
        "uq_measurements_lease", "measurements", ["lease_id", "candidate_key"], unique=True
    )
    op.create_index(
        "uq_measurements_unleased",
        "measurements",
        ["job_id", "device_kind", "candidate_key"],
        unique=True,
        **_where("lease_id IS NULL"),
    )


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}
