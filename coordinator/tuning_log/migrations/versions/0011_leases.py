"""Leases, whose results find their job after a restart; lost devices and what was done; noise."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

_Serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    with op.batch_alter_table("jobs") as table:
        table.add_column(sa.Column("canary_drift", sa.Double))
    op.create_table(
        "leases",
        sa.Column("lease_id", sa.Text, nullable=False),
        sa.Column("job_id", sa.Text, nullable=False),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("device_kind", sa.Text, nullable=False),
        sa.Column("workload_key", sa.Text, nullable=False),
        sa.Column("built_with_json", sa.Text, nullable=False),
        sa.Column("trials_json", sa.Text, nullable=False),
        sa.Column("leased_at", sa.Double, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], name="fk_leases_job_id_jobs"),
        sa.PrimaryKeyConstraint("lease_id", name="pk_leases"),
    )
    op.create_index("ix_leases_leased_at", "leases", ["leased_at"])
    op.create_table(
        "losses",
        sa.Column("artifact_sha256", sa.Text, nullable=False),
        sa.Column("device_kind", sa.Text, nullable=False),
        sa.Column("lease_id", sa.Text, nullable=False),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("lost_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("artifact_sha256", "device_kind", "lease_id", name="pk_losses"),
    )
    op.create_index("ix_losses_lease_id", "losses", ["lease_id"])
    op.create_table(
        "device_events",
        sa.Column("id", _Serial, nullable=False),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("step", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("happened_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_device_events"),
    )
    op.create_index("ix_device_events_device_id", "device_events", ["device", "id"])
