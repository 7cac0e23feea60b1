"""`tunefarm devices`: who is there."""

from __future__ import annotations

import argparse
from typing import Any

from coordinator.cli import options as shared
from coordinator.client import FarmClient


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "devices",
        help="the devices of a farm and what they do",
        description="Every device the coordinator has seen, with its state and last error.",
    )
    shared.add_coordinator(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the table."""
    from coordinator.cli.tables import devices_table

    with FarmClient(options.coordinator, shared.credentials(options)) as farm:
        devices_table(farm.devices())
    return 0
