"""One engine for one database, and the one transaction that everything goes through."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from protos.errors import Conflict, LogUnavailable

from .urls import display_url, sqlite_file

logger = logging.getLogger(__name__)

BUSY_TIMEOUT_S = 30.0
"""How long a SQLite connection waits for another process's transaction."""

CONNECT_TIMEOUT_S = 10
"""How long a PostgreSQL server has to answer a new connection."""

POOL_SIZE = 8
MAX_OVERFLOW = 24

_WRITE = "tunefarm_write"

Insert = sqlite.Insert | postgresql.Insert


class Observer(Protocol):
    """Who is told what the log does; called from any thread."""

    def wrote(self, seconds: float) -> None:
        """A transaction is durable, so long after it was asked for."""

    def failed(self) -> None:
        """A transaction was refused because the log is not available."""

    def recorded(self, device_kind: str, status: str) -> None:
        """A measurement is durable that was not there before."""

    def trained(self, promoted: bool) -> None:
        """A cost model is kept, or that it was refused."""


class Database:
    """A pool of connections, safe to use from any thread.

    ``foreign_keys`` is off only while a migration rebuilds SQLite's tables.
    """

    def __init__(
        self, url: str, foreign_keys: bool = True, observer: Observer | None = None
    ) -> None:
        self.url = url
        self.observer = observer
        self.display = display_url(url)
        self._closed = False
        # SQLite has one writer at a time: threads of this process queue here, in fair order, not
        # in the busy handler's polling.
        self._writer: contextlib.AbstractContextManager[Any]
        if sqlite_file(url) is not None:
            self._writer = threading.Lock()
            self._engine = _sqlite_engine(url, foreign_keys)
        else:
            self._writer = contextlib.nullcontext()
            self._engine = _postgresql_engine(url)

    def close(self) -> None:
        """Close every connection; what comes later raises LogUnavailable."""
        self._closed = True
        self._engine.dispose()

    def read(self) -> contextlib.AbstractContextManager[sa.Connection]:
        """A transaction that only reads."""
        return self._transaction(write=False)

    def write(self) -> contextlib.AbstractContextManager[sa.Connection]:
        """A transaction that is durable when the block has been left, or did nothing at all."""
        return self._observed() if self.observer is not None else self._transaction(write=True)

    @contextlib.contextmanager
    def _observed(self) -> Iterator[sa.Connection]:
        assert self.observer is not None
        began = time.monotonic()
        try:
            with self._transaction(write=True) as connection:
                yield connection
        except LogUnavailable:
            self.observer.failed()
            raise
        self.observer.wrote(time.monotonic() - began)

    @contextlib.contextmanager
    def _transaction(self, write: bool) -> Iterator[sa.Connection]:
        if self._closed:
            raise LogUnavailable(f"the tuning log {self.display} has been closed")
        try:
            with (
                self._writer if write else contextlib.nullcontext(),
                self._engine.connect().execution_options(**{_WRITE: write}) as connection,
                connection.begin(),
            ):
                yield connection
        except sa.exc.IntegrityError as error:
            raise Conflict(f"the tuning log {self.display} refused: {_reason(error)}") from error
        except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
            raise LogUnavailable(
                f"the tuning log {self.display} is not available: {_reason(error)}. Mend that, or "
                "name another log with --log; what was acknowledged is kept"
            ) from error


def insert(connection: sa.Connection, table: sa.Table) -> Insert:
    """An INSERT that can say ON CONFLICT, in the words of this connection's database."""
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table)
    return postgresql.insert(table)


def _reason(error: sa.exc.SQLAlchemyError) -> str:
    """The database's own words on one line: no statement, no parameters."""
    origin = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    return " ".join(str(origin).split()) or type(origin).__name__


def _sqlite_engine(url: str, foreign_keys: bool) -> sa.Engine:
    engine = sa.create_engine(
        url,
        connect_args={"timeout": BUSY_TIMEOUT_S},
        pool_size=POOL_SIZE,
        max_overflow=MAX_OVERFLOW,
        hide_parameters=True,
    )

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: object) -> None:
        # The driver begins transactions late and commits them around DDL; we begin them ourselves.
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")
        _set_wal(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        # A writer takes its lock at once: one that reads first could not be upgraded later.
        write = connection.get_execution_options().get(_WRITE)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _set_wal(connection: sqlite3.Connection) -> None:
    """Turn the write-ahead log on. The switch does not wait for other processes by itself."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                connection.execute("PRAGMA journal_mode = WAL").fetchone()
            return
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _postgresql_engine(url: str) -> sa.Engine:
    parsed = sa.make_url(url)
    timeout = {} if "connect_timeout" in parsed.query else {"connect_timeout": CONNECT_TIMEOUT_S}
    engine = sa.create_engine(
        parsed,
        connect_args=timeout,
        pool_size=POOL_SIZE,
        max_overflow=MAX_OVERFLOW,
        pool_pre_ping=True,
        hide_parameters=True,
    )

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        # Acknowledged means durable, whatever the server's default is.
        connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false)"
            " WHERE current_setting('synchronous_commit') = 'off'"
        )
        connection.commit()

    return engine
