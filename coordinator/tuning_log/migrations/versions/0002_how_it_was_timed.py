"""The parts of a measurement's time, the canary after it, and whether caches were cold."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    with op.batch_alter_table("measurements") as table:
        for name in ("load_s", "check_s", "time_s", "canary_ratio"):
            table.add_column(sa.Column(name, sa.Double))
        table.add_column(_cold_cache())
    with op.batch_alter_table("jobs") as table:
        table.add_column(_cold_cache())


def _cold_cache() -> sa.Column[bool]:
    return sa.Column("cold_cache", sa.Boolean, nullable=False, server_default=sa.false())
