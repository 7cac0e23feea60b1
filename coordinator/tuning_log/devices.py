"""The devices that a farm has seen, and their labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import sqlalchemy as sa

from protos.records import Device

from .database import insert
from .schema import device_labels, devices, now
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
                labels={},  # they have a table of their own
            )
        ),
        "last_seen_at": now(),
    }
    statement = insert(connection, devices).values(name=name, first_seen_at=now(), **row)
    connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=row))
    _set_labels(connection, name, device.labels)


def _set_labels(connection: sa.Connection, name: str, labels: Mapping[str, str]) -> None:
    connection.execute(sa.delete(device_labels).where(device_labels.c.device == name))
    for key, value in labels.items():
        connection.execute(sa.insert(device_labels).values(device=name, key=key, value=value))


def known(connection: sa.Connection) -> list[Device]:
    """Every device ever seen, by name."""
    labels: dict[str, dict[str, str]] = {}
    for name, key, value in connection.execute(sa.select(device_labels)):
        labels.setdefault(name, {})[key] = value
    rows = connection.execute(sa.select(devices).order_by(devices.c.name))
    return [
        dataclasses.replace(from_json(Device, row.record_json), labels=labels.get(row.name, {}))
        for row in rows
    ]
