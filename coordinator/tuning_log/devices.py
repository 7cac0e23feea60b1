"""The devices that a farm has seen."""

from __future__ import annotations

import dataclasses

import sqlalchemy as sa

from protos.records import Device

from .database import insert
from .schema import devices, now
from .values import clean, clean_tools, from_json, to_json


def upsert(connection: sa.Connection, device: Device) -> None:
    """What is known of a device; the newest word replaces the last."""
    name = clean(device.name)
    tools = clean_tools(device.tool_versions)
    row = {
        "kind": device.kind,
        "target_json": clean(device.target_json, 4096),
        "cpu_model": clean(device.cpu_model),
        "emulated": device.emulated,
        "host": clean(device.host),
        "record_json": to_json(
            dataclasses.replace(
                device,
                name=name,
                tool_versions=tools,
                engine_versions=clean_tools(device.engine_versions),
            )
        ),
        "last_seen_at": now(),
    }
    statement = insert(connection, devices).values(name=name, first_seen_at=now(), **row)
    connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=row))


def known(connection: sa.Connection) -> list[Device]:
    """Every device ever seen, by name."""
    rows = connection.execute(sa.select(devices).order_by(devices.c.name))
    return [from_json(Device, row.record_json) for row in rows]
