"""What came of an export or an import, for people and for programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

MAX_DAMAGES_SHOWN = 20

Progress = Callable[[int, int], None]
"""Told how much is done, and of how much."""


def no_progress(_done: int, _total: int) -> None:
    """For those who don't watch."""


class Damaged(Exception):
    """A row or a line that is not kept; ``str()`` says why."""


@dataclass(frozen=True)
class Damage:
    """Where something was not as it should be; rows and lines are counted from 1, and 0 is the
    whole file."""

    file: str
    row: int
    reason: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.row}" if self.row else self.file
        return f"{where}: {self.reason}"


@dataclass
class ImportReport:
    """What an import did so far.

    ``imported`` and ``known`` are measurements, ``workloads`` and ``candidates`` those that were
    new. ``left_out`` are records of failures that don't say of what; ``damages`` has only the
    first of them.
    """

    imported: int = 0
    known: int = 0
    damaged: int = 0
    left_out: int = 0
    workloads: int = 0
    candidates: int = 0
    readable: int = 0
    import_id: int | None = None
    damages: list[Damage] = field(default_factory=list)

    def damage(self, file: str, row: int, reason: object) -> None:
        """Count a row that is not kept, and remember the first of them."""
        self.damaged += 1
        if len(self.damages) < MAX_DAMAGES_SHOWN:
            words = " ".join(str(reason).split())
            self.damages.append(Damage(file, row, words[:300]))

    def summary(self) -> str:
        """One line."""
        text = f"imported {self.imported}, known already {self.known}, damaged {self.damaged}"
        if self.left_out:
            text += f", failed there and left out {self.left_out}"
        return text


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote: records by their table, bytes by file."""

    folder: Path
    records: dict[str, int]
    files: dict[str, int]

    def summary(self) -> str:
        """One line."""
        counts = ", ".join(f"{number} {name}" for name, number in self.records.items())
        megabytes = sum(self.files.values()) / 1e6
        return f"wrote {counts} to {self.folder} ({megabytes:.1f} MB)"
