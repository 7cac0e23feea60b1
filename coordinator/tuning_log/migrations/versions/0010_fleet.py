"""Whom the farm knows (certificates, tokens), what users may have, and which devices are held."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    _identities()
    op.create_table(
        "device_holds",
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("held_by", sa.Text, nullable=False),
        sa.Column("held_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("device", name="pk_device_holds"),
    )
    with op.batch_alter_table("users") as table:
        table.add_column(sa.Column("max_running", sa.Integer))
        table.add_column(sa.Column("highest_priority", sa.Text))
    with op.batch_alter_table("jobs") as table:
        table.add_column(sa.Column("priority", sa.Text, nullable=False, server_default="NORMAL"))


def _identities() -> None:
    op.create_table(
        "certificates",
        sa.Column("serial", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("issued_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("revoked_at", sa.Double),
        sa.PrimaryKeyConstraint("serial", name="pk_certificates"),
    )
    op.create_index("ix_certificates_name", "certificates", ["name"])
    op.create_table(
        "tokens",
        sa.Column("secret_sha256", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("used_at", sa.Double),
        sa.PrimaryKeyConstraint("secret_sha256", name="pk_tokens"),
    )
    op.create_index("ix_tokens_name", "tokens", ["name"])
