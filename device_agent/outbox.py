"""Results that the coordinator has not acknowledged: sent again after every reconnection, and after
a restart of the agent."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError

from protos import convert, farm_pb2
from protos.errors import FarmError, Unavailable
from protos.records import Acknowledgement, Measurement, ModelMeasurement

log = logging.getLogger(__name__)

Result = Measurement | ModelMeasurement

_SCHEMA = """
CREATE TABLE IF NOT EXISTS results (
    number INTEGER PRIMARY KEY,
    lease_id TEXT NOT NULL,
    candidate_key TEXT NOT NULL,
    message BLOB NOT NULL,
    UNIQUE (lease_id, candidate_key) ON CONFLICT REPLACE
)
"""


class Outbox:
    """Kept in the order in which they were made. Threads may share it.

    With a file they survive the death of the process at any moment. A power cut may take the last
    of them, which are then measured again: a disk is not made to wait for each. A file that can't
    be written any more is said once, and they are kept in memory.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Take up what the file at ``path`` (None: no file) has; one that is damaged is put aside.

        Raises Unavailable if it can't be used, or if another agent uses it.
        """
        self._lock = threading.Lock()
        self._results: dict[tuple[str, str], Result] = {}
        self._file: sqlite3.Connection | None = None
        self._writable = True
        if path is not None:
            self._file = _open(path)
            self._results.update(_stored(self._file))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def add(self, result: Result) -> None:
        """Keep a result until it is acknowledged."""
        candidate_key = result.candidate_key if isinstance(result, Measurement) else ""
        message = convert.to_agent_message(result).SerializeToString()
        with self._lock:
            self._results[result.lease_id, candidate_key] = result
            self._write(
                "INSERT INTO results (lease_id, candidate_key, message) VALUES (?, ?, ?)",
                *(result.lease_id, candidate_key, message),
            )

    def acknowledge(self, acknowledgement: Acknowledgement) -> None:
        """Drop what is durable now; unknown names are ignored."""
        name = (acknowledgement.lease_id, acknowledgement.candidate_key)
        with self._lock:
            if self._results.pop(name, None) is not None:
                self._write("DELETE FROM results WHERE lease_id = ? AND candidate_key = ?", *name)

    def drop(self, lease_id: str) -> None:
        """Drop a lease's results: the coordinator has no use for them."""
        with self._lock:
            names = [name for name in self._results if name[0] == lease_id]
            for name in names:
                del self._results[name]
            if names:
                self._write("DELETE FROM results WHERE lease_id = ?", lease_id)

    def pending(self) -> list[Result]:
        """All that is not acknowledged, oldest first."""
        with self._lock:
            return list(self._results.values())

    def __len__(self) -> int:
        with self._lock:
            return len(self._results)

    def _write(self, statement: str, *values: str | bytes) -> None:
        if self._file is None:
            return
        try:
            with self._file:
                self._file.execute(statement, values)
            self._writable = True
        except sqlite3.Error as error:
            if self._writable:
                log.warning("results are kept in memory only: %s", error)
            self._writable = False


def _open(path: Path) -> sqlite3.Connection:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            return _connect(path)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise
            aside = path.with_suffix(".damaged")
            log.error("%s is damaged (%s), and is now %s", path, error, aside)
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            path.replace(aside)
            return _connect(path)
    except (sqlite3.Error, OSError) as error:
        why = f"can't keep results in {path}: {error}"
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
            why += "; another agent of this name runs on this machine: stop it, or give a --name"
        else:
            why += "; mend that, or name another folder with --state"
        raise Unavailable(why) from error


def _connect(path: Path) -> sqlite3.Connection:
    file = sqlite3.connect(path, timeout=1.0, check_same_thread=False)
    with contextlib.ExitStack() as stack:
        stack.callback(file.close)
        path.chmod(0o600)
        file.execute("PRAGMA locking_mode = EXCLUSIVE")  # one agent, one file
        file.execute("PRAGMA journal_mode = WAL")
        file.execute("PRAGMA synchronous = NORMAL")
        with file:
            file.execute(_SCHEMA)
        stack.pop_all()
    return file


def _stored(file: sqlite3.Connection) -> Iterator[tuple[tuple[str, str], Result]]:
    """What the file has. What can't be read was written by another version, and goes."""
    query = "SELECT lease_id, candidate_key, message FROM results ORDER BY number"
    for lease_id, candidate_key, data in file.execute(query).fetchall():
        try:
            record = convert.from_agent_message(farm_pb2.AgentMessage.FromString(data))
        except (FarmError, DecodeError) as error:
            log.error("a result of lease %s can't be read and is dropped: %s", lease_id, error)
            with file:
                file.execute("DELETE FROM results WHERE lease_id = ?", (lease_id,))
            continue
        if isinstance(record, Measurement | ModelMeasurement):
            yield (lease_id, candidate_key), record
