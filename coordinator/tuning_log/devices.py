"""The devices that a farm has seen, and their labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import sqlalchemy as sa

from protos.records import Device, DeviceState

from .database import insert
from .schema import device_holds, device_labels, devices, jobs, measurements, now
from .values import clean, clean_tools, from_json, to_json

LOOKED_AT = 1000
"""Measurements of a kind of device among which one of a job is looked for."""


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
                board=clean(device.board),
                labels={},  # they have a table of their own
                builds_with={},  # of interest while it is connected
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


@dataclasses.dataclass(frozen=True)
class Hold:
    """What people decided of a device: DRAINED or QUARANTINED, why, and who."""

    state: DeviceState
    reason: str
    held_by: str


def hold(connection: sa.Connection, name: str, held: Hold) -> None:
    """From now on a device gets no work, whoever restarts; the newest word replaces the last."""
    row = {
        "state": held.state.name,
        "reason": clean(held.reason),
        "held_by": clean(held.held_by),
        "held_at": now(),
    }
    statement = insert(connection, device_holds).values(device=clean(name), **row)
    connection.execute(statement.on_conflict_do_update(index_elements=["device"], set_=row))


def release(connection: sa.Connection, name: str) -> None:
    """A device may work again."""
    connection.execute(sa.delete(device_holds).where(device_holds.c.device == clean(name)))


def holds(connection: sa.Connection) -> dict[str, Hold]:
    """What was decided, by the device's name."""
    return {
        row.device: Hold(DeviceState[row.state], row.reason, row.held_by)
        for row in connection.execute(sa.select(device_holds))
    }


def forget(connection: sa.Connection, name: str) -> None:
    """List a device no more. What it measured stays."""
    name = clean(name)
    connection.execute(sa.delete(device_labels).where(device_labels.c.device == name))
    connection.execute(sa.delete(devices).where(devices.c.name == name))
    release(connection, name)


def target_of(connection: sa.Connection, kind: str) -> str:
    """The target of a kind of device, by a device of it or by a job that measured on one (among
    some of its measurements, as all of a million may be of an import); empty if there was none."""
    of_device = sa.select(devices.c.target_json).where(devices.c.kind == kind).limit(1)
    m = measurements.c
    some = sa.select(m.job_id).where(m.device_kind == kind).limit(LOOKED_AT).subquery()
    of_job = sa.select(jobs.c.target_json).join(some, some.c.job_id == jobs.c.job_id).limit(1)
    return str(connection.scalar(of_device) or connection.scalar(of_job) or "")


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
