"""A job's target latency, the gain that it asks for, and why its tuning ended."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    with op.batch_alter_table("jobs") as table:
        table.add_column(sa.Column("target_latency_ms", sa.Double))
        table.add_column(sa.Column("flat_share", sa.Double))
        table.add_column(sa.Column("tuning_ended", sa.Text, nullable=False, server_default=""))
