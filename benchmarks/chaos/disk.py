"""A small disk for an agent, which can be full."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SIZE = "size=256m,nr_inodes=4096,mode=1777"


class NoDisk(Exception):
    """It can't be made; the message says what was refused."""


@dataclass(frozen=True)
class Disk:
    """A file system of its own in ``path``."""

    path: Path

    def fill(self) -> None:
        """Leave neither a byte nor room for a file's name."""
        with contextlib.suppress(OSError), (self.path / "full").open("wb", buffering=0) as full:
            while True:
                full.write(bytes(1 << 20))
        with contextlib.suppress(OSError):
            for number in itertools.count():
                (self.path / f"full-{number}").touch()

    def empty(self) -> None:
        """Remove what filled it."""
        for path in self.path.glob("full*"):
            path.unlink()


@contextlib.contextmanager
def disk(path: Path) -> Iterator[Disk]:
    """A new one, gone with what is on it at the end; raises NoDisk."""
    path.mkdir()
    try:
        _call("mount", "-t", "tmpfs", "-o", SIZE, f"chaos-{path.name}", str(path))
    except NoDisk:
        path.rmdir()
        raise
    try:
        yield Disk(path)
    finally:
        _call("umount", "--lazy", str(path))
        path.rmdir()


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoDisk(f"`{' '.join(command)}`: {done.stderr.strip()}")
