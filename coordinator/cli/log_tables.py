"""How the verbs of `tunefarm log` open the log and print what they found."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from coordinator.cli.printable import printable
from protos.errors import NotFound

if TYPE_CHECKING:
    from coordinator.tuning_log import TuningLog

UNBOUNDED = 100_000
"""Columns where nobody looks at a terminal: a key must stay in one piece."""


@contextlib.contextmanager
def opened(options: argparse.Namespace, must_exist: bool = True) -> Iterator[TuningLog]:
    """The log of `--log`; raises NotFound if it ``must_exist`` and does not, else makes it."""
    from coordinator.tuning_log import (
        TuningLog,
        default_url,
        display_url,
        normalise_url,
        sqlite_file,
    )

    url = normalise_url(options.log) if options.log else default_url()
    file = sqlite_file(url)
    if must_exist and file is not None and not file.exists():
        raise NotFound(f"there is no tuning log {display_url(url)}; name another one with --log")
    log = TuningLog.open(url)
    try:
        yield log
    finally:
        log.close()


def table(*columns: str) -> Table:
    """A table like all of ours."""
    made = Table(box=None, header_style="bold", pad_edge=False, show_header=any(columns))
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def add_row(made: Table, *cells: object) -> None:
    """One line. What is in the log is shown as it is, never as markup."""
    made.add_row(*(plain(cell) for cell in cells))


def plain(value: object) -> Text:
    """``printable`` for a table."""
    return Text(printable(value))


def show(made: Table) -> None:
    """Print a table, in one piece where nobody looks at a terminal."""
    if sys.stdout.isatty():
        Console().print(made)
        return
    console = Console(width=UNBOUNDED)
    with console.capture() as printed:
        console.print(made)
    print("\n".join(line.rstrip() for line in printed.get().splitlines()))


def say(line: str) -> None:
    """Print text."""
    print(printable(line))


def print_json(found: Any) -> int:
    """One JSON object or list on one line; what is not finite is null already."""
    print(json.dumps(found, default=_record))
    return 0


def _record(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    raise TypeError(f"{type(value).__name__} has no place in JSON")


def moment(seconds: float | None) -> str:
    """When that was, in local time."""
    if seconds is None:
        return ""
    return datetime.datetime.fromtimestamp(seconds).isoformat(" ", "seconds")


def size(size_bytes: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} GB"


def us(latency_us: float | None) -> str:
    """Microseconds for people."""
    return "–" if latency_us is None else f"{latency_us:,.2f}"


def ratio(times: float | None) -> str:
    """How many times as fast."""
    return "–" if times is None else f"{times:.2f}×"


def cache(cold: bool) -> str:
    """As `--cache` calls it."""
    return "cold" if cold else "warm"


def counted(counts: Sequence[tuple[str, int]]) -> str:
    """`3 done, 1 failed`."""
    return ", ".join(f"{count:,} {name.lower()}" for name, count in counts) or "none"
