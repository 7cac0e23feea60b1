"""A real PostgreSQL for the tests: one server a session, one fresh database a test.

Use it in a module with ``pytest_plugins = ("tests.postgres",)`` and the fixture ``postgres_url``,
or ``url`` and ``log`` for a test that is to run with both databases.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import postgres_server
from benchmarks.postgres_server import NoPostgres, Server
from coordinator.tuning_log import TuningLog
from tests.conftest import keep_alive

SETTINGS = {"fsync": "on", "max_connections": "200"}


@pytest.fixture(scope="session")
def postgres_server_of_session() -> Iterator[Server]:
    # Not in pytest's folder: that one is closed to other users, and too long for a socket's path.
    try:
        with postgres_server.running(settings=SETTINGS) as server:
            keep_alive(server.pid)
            yield server
    except NoPostgres as error:
        pytest.skip(str(error))


@pytest.fixture
def postgres_url(postgres_server_of_session: Server) -> Iterator[str]:
    """The URL of an empty database that is dropped after the test."""
    name = f"t{uuid.uuid4().hex}"
    postgres_server_of_session.execute(f"CREATE DATABASE {name}")
    yield postgres_server_of_session.url(name)
    postgres_server_of_session.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a tuning log may be made, in either database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/new/log.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def log(url: str) -> Iterator[TuningLog]:
    """An empty tuning log, in either database."""
    opened = TuningLog.open(url)
    yield opened
    opened.close()
