"""Jobs for several kinds of device, and for devices with certain labels."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    with op.batch_alter_table("jobs") as table:
        for name in ("devices_json", "targets_json", "where_json"):
            table.add_column(sa.Column(name, sa.Text, nullable=False, server_default="[]"))
        table.add_column(
            sa.Column("exclusive", sa.Boolean, nullable=False, server_default=sa.false())
        )
        table.add_column(sa.Column("parent_id", sa.Text))
    op.create_index("ix_jobs_parent_id", "jobs", ["parent_id"])
