"""`tunefarm log prune`: take out of the log what is old and not needed."""

from __future__ import annotations

import argparse
import re
import sys
import time
from typing import TYPE_CHECKING, Any

from coordinator.cli import options as shared
from coordinator.cli.log_tables import (
    add_row,
    moment,
    opened,
    print_json,
    say,
    show,
    size,
    table,
)

if TYPE_CHECKING:
    from coordinator.tuning_log.prune import Pruned

DAY_S = 86400.0
OLD_S = 90 * DAY_S
OLDEST_S = 1000 * 365 * DAY_S
BEST = 10

_PROGRESS_S = 2.0
"""Seconds between two words on how far it is."""

_EPILOG = """\
examples:
  tunefarm log prune                              # what would go
  tunefarm log prune --older-than 30d --delete

Stays, whatever its age: of each workload the untuned program, the finalists and the best N on each
kind of device, and all that an unfinished job works on. Make a copy of the log before.
"""


def add_prune(verbs: Any) -> None:
    """Add `prune`."""
    parser = verbs.add_parser(
        "prune",
        help="say what is old and not needed, or delete it",
        description="Says what of the log is old and not needed. Deletes nothing without --delete.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--older-than",
        type=age,
        default=OLD_S,
        metavar="AGE",
        help="only what is older: 90d, 12h (default: 90d)",
    )
    parser.add_argument(
        "--keep",
        type=shared.positive,
        default=BEST,
        metavar="N",
        help="best candidates of each workload that stay (default: 10)",
    )
    parser.add_argument("--delete", action="store_true", help="delete it")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    shared.add_log(parser)
    parser.set_defaults(run=_prune)


def age(text: str) -> float:
    """Seconds of `90d`, or of what `duration` reads, at most 1000 years."""
    days = re.fullmatch(r"(\d+(?:\.\d+)?)d", text)
    if days is not None and float(days[1]) > 0:
        seconds = float(days[1]) * DAY_S
    else:
        try:
            seconds = shared.duration(text)
        except argparse.ArgumentTypeError:
            raise argparse.ArgumentTypeError(f"{text!r} is no age; write 90d or 12h") from None
    if seconds > OLDEST_S:
        raise argparse.ArgumentTypeError(f"{text!r} is more than 1000 years")
    return seconds


class _Progress:
    """Words on standard error, now and then."""

    def __init__(self) -> None:
        self._told_at = time.monotonic()

    def __call__(self, what: str, done: int, of: int) -> None:
        if time.monotonic() - self._told_at >= _PROGRESS_S:
            self._told_at = time.monotonic()
            print(f"tunefarm: {done:,} of {of:,} {what}", file=sys.stderr)


def _prune(options: argparse.Namespace) -> int:
    from coordinator.tuning_log import display_url
    from coordinator.tuning_log.prune import Pruner
    from coordinator.tuning_log.retention import Retention

    with opened(options) as log:
        url = display_url(log.url)
        pruner = Pruner(log, Retention(options.older_than, options.keep), _Progress())
        try:
            found = pruner.delete() if options.delete else pruner.survey()
        except KeyboardInterrupt:
            if options.delete:
                print(
                    f"tunefarm: {pruner.done.rows:,} measurements are deleted, and the log is "
                    "whole; the same command goes on",
                    file=sys.stderr,
                )
            raise
    if options.json:
        return print_json({"log": url, **vars(found)})
    _print_pruned(found, url)
    return 0


def _print_pruned(found: Pruned, url: str) -> None:
    goes = "deleted" if found.deleted else "would go"
    say(f"the tuning log {url}: what is from before {moment(found.before)} and not needed")
    rows = table("kind", "measurements", goes, "about", "cost models", "about")
    for kind in sorted({*found.known, *found.cost_models}):
        measured, models = found.measurements.get(kind), found.cost_models.get(kind)
        add_row(
            rows,
            kind,
            f"{found.known.get(kind, 0):,}",
            f"{measured.rows:,}" if measured else "0",
            size(measured.size_bytes) if measured else "",
            f"{models.rows:,}" if models else "0",
            size(models.size_bytes) if models else "",
        )
    show(rows)
    for name, amount in (
        ("candidates without a measurement", found.candidates),
        ("workloads without a candidate or a job", found.workloads),
        ("files without a job or a package", found.files),
    ):
        if amount.rows:
            say(f"{name}: {amount.rows:,}, about {size(amount.size_bytes)}")
    if found.unfinished:
        say(
            f"left alone, as they are not over: {', '.join(found.unfinished)} "
            "(tunefarm jobs cancel JOB ends one)"
        )
    if not found.deleted:
        say("nothing was deleted; --delete does it. Make a copy of the log before")
