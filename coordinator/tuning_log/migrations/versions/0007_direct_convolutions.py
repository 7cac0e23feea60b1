"""Whether a job tries other algorithms for convolutions."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    with op.batch_alter_table("jobs") as table:
        table.add_column(
            sa.Column("direct_convolutions", sa.Boolean, nullable=False, server_default=sa.false())
        )
