"""A latency is the least of the repeats, no longer their median."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

ROWS = 5_000
"""Read and written at a time."""


def upgrade() -> None:
    measurements = sa.table(
        "measurements",
        sa.column("id", sa.Integer),
        sa.column("latency_us", sa.Double),
        sa.column("repeats_s_json", sa.Text),
    )
    m = measurements.c
    change = measurements.update().where(m.id == sa.bindparam("row"))
    change = change.values(latency_us=sa.bindparam("least_us"))
    connection, last = op.get_bind(), 0
    while rows := connection.execute(
        sa.select(m.id, m.repeats_s_json)
        .where(m.latency_us.is_not(None), m.id > last)
        .order_by(m.id)
        .limit(ROWS)
    ).all():
        least = [
            {"row": row.id, "least_us": min(json.loads(row.repeats_s_json)) * 1e6} for row in rows
        ]
        connection.execute(change, least)
        last = rows[-1].id
