"""`tunefarm log`: care for the tuning log."""

from __future__ import annotations

import argparse
from typing import Any

from coordinator.cli import options as shared


def add_parser(commands: Any) -> None:
    """Add the group."""
    parser = commands.add_parser(
        "log", help="care for the tuning log", description="Commands on the tuning log itself."
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    upgrade = verbs.add_parser(
        "upgrade",
        help="bring an older log to this version's schema",
        description="Upgrades the log's schema in place. Make a copy of the log before.",
    )
    shared.add_log(upgrade)
    upgrade.set_defaults(run=_upgrade)


def _upgrade(options: argparse.Namespace) -> int:
    from coordinator.tuning_log import TuningLog, default_url, display_url, normalise_url

    url = normalise_url(options.log) if options.log else default_url()
    TuningLog.upgrade(url)
    print(f"{display_url(url)} is at this version's schema")
    return 0
