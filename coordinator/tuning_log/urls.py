"""Where a tuning log is: what people write, what the database library reads, what is shown."""

from __future__ import annotations

import os
from pathlib import Path

import sqlalchemy as sa

from protos.errors import BadRequest

ENVIRONMENT_VARIABLE = "TUNEFARM_LOG"
_SECRET_PARAMETERS = ("password", "sslpassword")
_ACCEPTED = "give a file's path, sqlite:///PATH or postgresql://USER@HOST/DATABASE"


def default_url() -> str:
    """The log of a user who names none: ``$TUNEFARM_LOG``, or a file in the user's data folder.

    Raises BadRequest if the variable holds no usable URL.
    """
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        return normalise_url(named)
    data_home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return normalise_url(str(Path(data_home) / "tunefarm" / "log.db"))


def normalise_url(text: str) -> str:
    """The full URL for what a user wrote: a path, ``sqlite:///…`` or ``postgresql://…``.

    Files become absolute, so that the URL means the same in every process. Raises BadRequest for
    anything else; its message never repeats the text, which may hold a password.
    """
    if not text.strip() or "\0" in text:
        raise BadRequest(f"the tuning log's URL is empty or malformed; {_ACCEPTED}")
    if "://" not in text:
        return _sqlite_url(text)
    url = _parse(text)
    backend = url.drivername.split("+")[0]
    if url.drivername in ("sqlite", "sqlite+pysqlite"):
        if url.query:
            raise BadRequest(f"a tuning log in a file takes no parameters (?…); {_ACCEPTED}")
        if not url.database or url.database == ":memory:":
            raise BadRequest(f"a tuning log must outlive its process; {_ACCEPTED}")
        return _sqlite_url(url.database)
    if url.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        url = url.set(drivername="postgresql+psycopg")
        return url.render_as_string(hide_password=False)
    raise BadRequest(f"no tuning log can be kept in {backend!r}; {_ACCEPTED}")


def display_url(url: str) -> str:
    """The URL as it may be printed and logged: passwords are stars."""
    parsed = _parse(url)
    secret = {name: "***" for name in _SECRET_PARAMETERS if name in parsed.query}
    return parsed.update_query_dict(secret).render_as_string(hide_password=True)


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite log; None if the log is on a server."""
    parsed = _parse(url)
    if parsed.get_backend_name() != "sqlite" or parsed.database is None:
        return None
    return Path(parsed.database)


def _sqlite_url(path_text: str) -> str:
    path = Path(path_text).expanduser().absolute()
    if path.is_dir():
        raise BadRequest(f"{path} is a folder; give the path of a file in it, such as log.db")
    return sa.URL.create("sqlite", database=str(path)).render_as_string()


def _parse(text: str) -> sa.URL:
    try:
        return sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError) as error:
        raise BadRequest(f"the tuning log's URL can't be read; {_ACCEPTED}") from error
