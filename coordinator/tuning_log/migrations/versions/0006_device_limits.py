"""What each kind of device can do at most."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "device_limits",
        sa.Column("device_kind", sa.Text, nullable=False),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("peak_gflops", sa.Double, nullable=False),
        sa.Column("memory_gb_s", sa.Double, nullable=False),
        sa.Column("cache_gb_s", sa.Double, nullable=False),
        sa.Column("cache_bytes", sa.BigInteger, nullable=False),
        sa.Column("measured_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("device_kind", name="pk_device_limits"),
    )
