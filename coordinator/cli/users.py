"""`tunefarm users`: who uses the farm, and how much of it each may have."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from coordinator.cli import options as shared
from coordinator.cli.jobs import PRIORITIES
from coordinator.cli.log_tables import opened
from protos.errors import BadRequest
from protos.records import Priority

_EPILOG = """\
examples:
  tunefarm users list
  tunefarm users set alice --max-running 2 --highest-priority normal
  tunefarm users set alice --max-running any
Run it on the coordinator's machine, with its log. A running coordinator heeds it at once.
"""

ANY = "any"


def add_parser(commands: Any) -> None:
    """Add the group."""
    parser = commands.add_parser(
        "users",
        help="who uses the farm, and how much of it each may have",
        description="The users of a farm and their quotas.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    listing = verbs.add_parser("list", help="every user", description="Every user.")
    listing.set_defaults(run=_list)
    setting = verbs.add_parser(
        "set",
        help="what a user may have from now on",
        description="What a user may have from now on; what is not named stays.",
    )
    setting.add_argument("name", metavar="NAME", help="as `tunefarm jobs list` shows it")
    setting.add_argument(
        "--max-running",
        type=_count,
        metavar="N",
        help=f"so many of their jobs run at a time, others wait; {ANY!r}: as many as there is room",
    )
    setting.add_argument(
        "--highest-priority",
        choices=(*PRIORITIES, ANY),
        help="jobs above it are refused",
    )
    setting.set_defaults(run=_set)
    for verb in (listing, setting):
        shared.add_log(verb)


def _count(text: str) -> int | str:
    return ANY if text == ANY else shared.positive(text)


def _list(options: argparse.Namespace) -> int:
    from coordinator.cli.tables import users_table
    from coordinator.tuning_log.users import known

    with opened(options) as log, log.reading() as connection:
        users_table(known(connection))
    return 0


def _set(options: argparse.Namespace) -> int:
    from coordinator.tuning_log.users import Quota, quotas, set_quota

    if options.max_running is None and options.highest_priority is None:
        raise BadRequest("say what to set: --max-running, --highest-priority, or both")
    with opened(options) as log, log.writing() as connection:
        quota = quotas(connection).get(options.name, Quota())
        if options.max_running is not None:
            most = None if options.max_running == ANY else options.max_running
            quota = replace(quota, max_running=most)
        if options.highest_priority is not None:
            name = options.highest_priority
            quota = replace(quota, highest_priority=None if name == ANY else Priority[name.upper()])
        set_quota(connection, options.name, quota)
    most = ANY if quota.max_running is None else quota.max_running
    highest = ANY if quota.highest_priority is None else quota.highest_priority.name.lower()
    print(f"{options.name}: {most} running at a time, priority {highest} at most")
    return 0
