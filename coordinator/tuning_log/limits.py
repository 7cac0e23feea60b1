"""What each kind of device can do at most, as it was measured."""

from __future__ import annotations

import sqlalchemy as sa

from protos.records import DeviceLimits

from .database import insert
from .schema import device_limits, now
from .values import clean


def keep(connection: sa.Connection, device_kind: str, limits: DeviceLimits) -> None:
    """What was measured last stands for the kind."""
    row = {
        "device": clean(limits.device),
        "peak_gflops": limits.peak_gflops,
        "memory_gb_s": limits.memory_gb_s,
        "cache_gb_s": limits.cache_gb_s,
        "cache_bytes": limits.cache_bytes,
        "measured_at": now(),
    }
    statement = insert(connection, device_limits).values(device_kind=device_kind, **row)
    connection.execute(statement.on_conflict_do_update(index_elements=["device_kind"], set_=row))


def known(connection: sa.Connection, device_kind: str) -> DeviceLimits | None:
    """What is known of a kind; None if it was never measured."""
    query = sa.select(device_limits).where(device_limits.c.device_kind == device_kind)
    row = connection.execute(query).first()
    if row is None:
        return None
    return DeviceLimits(
        row.device, row.peak_gflops, row.memory_gb_s, row.cache_gb_s, row.cache_bytes
    )
