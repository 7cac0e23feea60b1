"""What happened to devices that failed, and what was done about it, oldest last."""

from __future__ import annotations

import sqlalchemy as sa

from protos.records import DeviceEvent

from .schema import device_events, now
from .values import MAX_ERROR_BYTES, clean


def add(connection: sa.Connection, device: str, step: str, text: str) -> None:
    """Note a step."""
    row = {"device": clean(device), "step": step, "text": clean(text, MAX_ERROR_BYTES)}
    connection.execute(sa.insert(device_events).values(**row, happened_at=now()))


def newest(connection: sa.Connection, device: str, limit: int) -> list[DeviceEvent]:
    """The newest of one device, or of all if ``device`` is empty, newest first."""
    query = sa.select(device_events).order_by(device_events.c.id.desc()).limit(limit)
    if device:
        query = query.where(device_events.c.device == device)
    return [
        DeviceEvent(row.device, row.step, row.text, row.happened_at)
        for row in connection.execute(query)
    ]
