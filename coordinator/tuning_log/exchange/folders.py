"""The folder of an export: there with all of its files, or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from protos.errors import BadRequest


@contextlib.contextmanager
def new_export(folder: Path, names: Sequence[str], force: bool) -> Iterator[Path]:
    """A folder to write files of these names into, which become ``folder`` when the block ends.

    Raises BadRequest if there is an export already, unless ``force`` says to replace it.
    """
    folder = folder.expanduser().absolute()
    _check(folder, names, force)
    # Within the folder if there is one: it may be a file system of its own.
    place = folder if folder.is_dir() else folder.parent
    work = place / f".{folder.name}.{os.getpid()}.part"
    try:
        work.mkdir()
        try:
            yield work
            if folder.is_dir():
                for name in names:
                    (work / name).replace(folder / name)
            else:
                work.rename(folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise BadRequest(f"{folder} can't be written: {error.strerror or error}") from error


def _check(folder: Path, names: Sequence[str], force: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise BadRequest(f"{folder} is a file; give the folder that the export is to be")
    if not folder.parent.is_dir():
        raise BadRequest(f"{folder.parent} is no folder; make it first")
    there = [name for name in names if (folder / name).exists()]
    if there and not force:
        raise BadRequest(
            f"{folder} holds an export already ({', '.join(there)}); give another folder, or "
            "--force to replace it"
        )
