"""Files that only their owner may read: keys, and certificates with their keys."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from .errors import BadRequest


def write_private(path: Path, data: bytes) -> None:
    """Put ``data`` in place of what is there, if anything, at once and with the mode 0600; folders
    that are made on the way have the mode 0700. Raises BadRequest if that can't be."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink()
            raise
    except OSError as error:
        raise BadRequest(f"{path} can't be written: {error.strerror}") from error


def read_private(path: Path) -> bytes:
    """The bytes of a file that nobody else may read; raises BadRequest if others may."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise BadRequest(f"{path} may be read by others; run: chmod 600 {path}")
            return file.read()
    except OSError as error:
        raise BadRequest(f"{path} can't be read: {error.strerror}") from error
