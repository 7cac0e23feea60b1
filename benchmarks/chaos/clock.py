"""Clocks that can be moved, one for each agent (``clock.c``).

The clock of a machine is one for all of its processes, and no namespace has a real-time clock of
its own; so a small library, loaded before the C library, adds an offset for one process.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")


class NoCompiler(Exception):
    """There is nothing to build the library with."""


def build(folder: Path) -> Path:
    """The library, built in this folder; raises NoCompiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise NoCompiler("no C compiler to build a movable clock with: install gcc")
    library = folder / "clock.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoCompiler(f"`{' '.join(command)}`: {done.stderr}")
    return library


class Clock:
    """The clock of the processes that are started with ``environment``."""

    def __init__(self, library: Path, path: Path) -> None:
        self._path = path
        path.write_bytes(bytes(8))
        self.environment: Mapping[str, str] = {
            "LD_PRELOAD": str(library),
            "CHAOS_CLOCK": str(path),
        }

    def move(self, seconds: int) -> None:
        """From now on it is this far from the truth."""
        with self._mapped() as page:
            page[:8] = struct.pack("@q", seconds)

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[mmap.mmap]:
        file = os.open(self._path, os.O_RDWR)
        try:
            with mmap.mmap(file, 8) as page:
                yield page
        finally:
            os.close(file)
