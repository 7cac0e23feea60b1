"""The labels of each device."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "device_labels",
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("device", "key", name="pk_device_labels"),
        sa.ForeignKeyConstraint(["device"], ["devices.name"], name="fk_device_labels_device"),
    )
