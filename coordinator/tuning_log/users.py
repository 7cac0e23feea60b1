"""The users of a farm, and what each may have of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from protos.records import Priority

from .database import insert
from .jobs import IS_WHOLE
from .schema import jobs, now, users
from .values import clean


@dataclass(frozen=True)
class Quota:
    """How many jobs of a user run at a time, and how high their priority may be; None: any."""

    max_running: int | None = None
    highest_priority: Priority | None = None


@dataclass(frozen=True)
class User:
    """A user, what they may have, and how many jobs they have submitted."""

    name: str
    quota: Quota
    jobs: int


def set_quota(connection: sa.Connection, name: str, quota: Quota) -> None:
    """What a user may have from now on; known from now on if new."""
    priority = quota.highest_priority
    row = {
        "max_running": quota.max_running,
        "highest_priority": priority.name if priority is not None else None,
    }
    statement = insert(connection, users).values(name=clean(name), first_seen_at=now(), **row)
    connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=row))


def quotas(connection: sa.Connection) -> dict[str, Quota]:
    """By user; those who may have anything are left out."""
    u = users.c
    limited = u.max_running.is_not(None) | u.highest_priority.is_not(None)
    query = sa.select(u.name, u.max_running, u.highest_priority).where(limited)
    return {row.name: _quota(row) for row in connection.execute(query)}


def known(connection: sa.Connection) -> list[User]:
    """Every user, by name."""
    u = users.c
    theirs = sa.and_(jobs.c.submitted_by == u.name, IS_WHOLE)
    count = sa.select(sa.func.count()).where(theirs).scalar_subquery()
    query = sa.select(u.name, u.max_running, u.highest_priority, count.label("jobs"))
    return [
        User(row.name, _quota(row), row.jobs) for row in connection.execute(query.order_by(u.name))
    ]


def _quota(row: Any) -> Quota:
    priority = row.highest_priority
    return Quota(row.max_running, Priority[priority] if priority is not None else None)
