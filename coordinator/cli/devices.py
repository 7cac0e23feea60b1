"""`tunefarm devices`: who is there, and what people do with them."""

from __future__ import annotations

import argparse
from typing import Any

from coordinator.cli import options as shared
from coordinator.client import FarmClient
from protos.plain_text import harmless
from protos.records import DeviceAction

_EPILOG = """\
examples:
  tunefarm devices
  tunefarm devices drain pi-rack3-07 --reason "new power supply"    # it finishes what it holds
  tunefarm devices quarantine pi-rack3-07 --reason "odd times"      # what it holds goes to others
  tunefarm devices resume pi-rack3-07
  tunefarm devices forget pi-rack3-07                               # its measurements stay
  tunefarm devices events pi-rack3-07    # when it failed, and what was done about it
What is decided here outlives agents and coordinators, until `resume`.
"""

_VERBS = {
    DeviceAction.DRAIN: "let a device finish what it holds, and give it nothing new",
    DeviceAction.QUARANTINE: "give what a device holds to others at once, and nothing new to it",
    DeviceAction.RESUME: "let a device work again, whoever or whatever had set it aside",
    DeviceAction.FORGET: "list a device that is gone no more; what it measured stays",
}


def add_parser(commands: Any) -> None:
    """Add the group; `tunefarm devices` alone lists."""
    parser = commands.add_parser(
        "devices",
        help="the devices of a farm and what they do; drain, quarantine, resume or forget one",
        description="Every device the coordinator knows, with its state and last error.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    for action, what in _VERBS.items():
        name = action.name.lower()
        verb = verbs.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
        verb.add_argument("device", metavar="DEVICE", help="its name")
        verb.add_argument(
            "--reason", default="", metavar="TEXT", help="shown with the device and in the log"
        )
        shared.add_coordinator(verb, inherited=True)
        verb.set_defaults(run=_control, action=action)
    events = verbs.add_parser(
        "events",
        help="when devices failed, and what was done about it",
        description="When devices failed, were set aside, restarted, power-cycled; newest first.",
    )
    events.add_argument("device", metavar="DEVICE", nargs="?", default="", help="default: all")
    events.add_argument(
        "--limit", type=shared.positive, default=50, metavar="N", help="so many (default: 50)"
    )
    shared.add_coordinator(events, inherited=True)
    events.set_defaults(run=_events)
    shared.add_coordinator(parser)
    parser.set_defaults(run=_list)


def _list(options: argparse.Namespace) -> int:
    from coordinator.cli.tables import devices_table

    with FarmClient(options.coordinator, shared.credentials(options)) as farm:
        devices_table(farm.devices())
    return 0


def _events(options: argparse.Namespace) -> int:
    from coordinator.cli.tables import events_table

    with FarmClient(options.coordinator, shared.credentials(options)) as farm:
        events_table(farm.device_events(options.device, options.limit))
    return 0


def _control(options: argparse.Namespace) -> int:
    with FarmClient(options.coordinator, shared.credentials(options)) as farm:
        status = farm.control(options.device, options.action, options.reason)
    if status is None:
        print(f"{options.device}: forgotten")
    else:
        shown = f" ({status.last_error})" if status.last_error else ""
        print(harmless(f"{options.device}: {status.state.name.lower()}{shown}"))
    return 0
