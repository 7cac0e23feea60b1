"""`tunefarm log`: care for the tuning log."""

from __future__ import annotations

import argparse
from typing import Any

from coordinator.cli import options as shared
from coordinator.cli.log_browse import add_browse
from coordinator.cli.log_exchange import add_export, add_import
from coordinator.cli.log_prune import add_prune
from coordinator.cli.log_show import add_show


def add_parser(commands: Any) -> None:
    """Add the group."""
    parser = commands.add_parser(
        "log",
        help="look into the tuning log, or care for it",
        description="Commands on the tuning log itself; no coordinator has to run.",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    upgrade = verbs.add_parser(
        "upgrade",
        help="bring an older log to this version's schema",
        description="Upgrades the log's schema in place. Make a copy of the log before.",
    )
    shared.add_log(upgrade)
    upgrade.set_defaults(run=_upgrade)
    add_browse(verbs)
    add_show(verbs)
    add_export(verbs)
    add_import(verbs)
    add_prune(verbs)


def _upgrade(options: argparse.Namespace) -> int:
    from coordinator.tuning_log import TuningLog, default_url, display_url, normalise_url

    url = normalise_url(options.log) if options.log else default_url()
    TuningLog.upgrade(url)
    print(f"{display_url(url)} is at this version's schema")
    return 0
