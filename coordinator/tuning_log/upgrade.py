"""Which revision a database is at, and the way to the newest."""

from __future__ import annotations

import enum
import threading
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from protos.errors import BadRequest, LogUnavailable, StaleSchema

from .database import Database
from .urls import sqlite_file

MIGRATIONS = Path(__file__).parent / "migrations"

_ADVISORY_LOCK = 0x74756E656661726D
"""Any number that no other program on the server takes: "tunefarm" in ASCII."""

# Alembic keeps the migration that runs in a global of the process.
_one_at_a_time = threading.Lock()


class SchemaState(enum.Enum):
    """How a database's schema stands to this version's."""

    EMPTY = enum.auto()
    CURRENT = enum.auto()
    OLDER = enum.auto()
    NEWER = enum.auto()
    FOREIGN = enum.auto()


def schema_state(connection: sa.Connection) -> SchemaState:
    """What this database holds."""
    tables = set(sa.inspect(connection).get_table_names())
    if not tables:
        return SchemaState.EMPTY
    if not {"alembic_version", "measurements"} <= tables:
        return SchemaState.FOREIGN
    script = ScriptDirectory.from_config(_config())
    revisions = set(MigrationContext.configure(connection).get_current_heads())
    if revisions == set(script.get_heads()):
        return SchemaState.CURRENT
    known = {revision.revision for revision in script.walk_revisions()}
    return SchemaState.OLDER if revisions <= known else SchemaState.NEWER


def require_current(database: Database) -> None:
    """Make an empty database a tuning log, and refuse any other that is not of this version.

    Raises StaleSchema, BadRequest (another program's tables) or LogUnavailable.
    """
    _make_folder(database.url)
    with database.read() as connection:
        state = schema_state(connection)
    if state is SchemaState.EMPTY:
        upgrade(database.url)
    elif state is SchemaState.OLDER:
        raise StaleSchema(
            f"the tuning log {database.display} was made by an older tunefarm; no job may run on"
            f" it meanwhile: tunefarm log upgrade --log {database.display}"
        )
    else:
        _refuse_unknown(state, database)


def upgrade(url: str) -> None:
    """Bring a database to the newest revision, all or nothing. Several processes may try at once.

    Raises StaleSchema if it is newer than this version, else as ``require_current``.
    """
    _make_folder(url)
    database = Database(url, foreign_keys=False)
    try:
        with _one_at_a_time, database.write() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
            state = schema_state(connection)
            _refuse_unknown(state, database)
            if state is SchemaState.CURRENT:
                return
            command.upgrade(_config(connection), "head")
            if connection.dialect.name == "sqlite":
                broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
                if broken is not None:
                    raise LogUnavailable(
                        f"{database.display} has a broken reference in its table {broken[0]};"
                        " it was left as it was"
                    )
    finally:
        database.close()


def _refuse_unknown(state: SchemaState, database: Database) -> None:
    if state is SchemaState.NEWER:
        raise StaleSchema(
            f"the tuning log {database.display} was made by a newer tunefarm; install that"
            " version here, or name another log with --log"
        )
    if state is SchemaState.FOREIGN:
        raise BadRequest(
            f"the database {database.display} holds tables of another program; give tunefarm an"
            " empty one of its own"
        )


def _config(connection: sa.Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _make_folder(url: str) -> None:
    path = sqlite_file(url)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LogUnavailable(f"no folder for the tuning log {path}: {error}") from error
