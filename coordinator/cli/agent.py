"""`tunefarm agent`: the daemon on a device."""

from __future__ import annotations

import argparse
import importlib.util
import os
import socket
from pathlib import Path
from typing import Any

from coordinator.cli import agent_bundle, enroll
from coordinator.cli import options as shared
from protos.errors import BadRequest

_EPILOG = """\
examples:
  tunefarm agent --coordinator 127.0.0.1:7411
  # on another machine than the coordinator, with a token of `tunefarm ca token`:
  tunefarm agent enroll --coordinator farm.example:7413 --token-file token
  tunefarm agent --coordinator farm.example:7412 --name pi-rack3-07
  # two devices of one kind on one machine, each bound to one core:
  tunefarm agent --name left  --cpus 0 --target '{"kind":"llvm","mcpu":"znver4","num-cores":1}'
  tunefarm agent --name right --cpus 1 --target '{"kind":"llvm","mcpu":"znver4","num-cores":1}'
  # what reports reckon with: the price of an hour, and the power that it draws
  tunefarm agent --label price-per-hour=0.35 --label watts=7.5 --label rack=3
  # a server with the compiler, which builds what it measures in four processes
  tunefarm agent --build 4
  # a device for tests of a farm, which needs a tenth of a second for a kernel and runs none:
  tunefarm agent --name replayed --replay 100ms
It needs no compiler but for --build: `tunefarm agent bundle` has all that it needs.
"""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "agent",
        help="offer this device to a coordinator",
        description="Dials in to a coordinator, is leased kernels, times them and reports.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shared.add_coordinator(parser)
    parser.add_argument(
        "--name",
        default=socket.gethostname(),
        help="unique in the farm (default: the host's name)",
    )
    parser.add_argument(
        "--target",
        metavar="BOARD|JSON",
        help="what kernels are built for this device, e.g. raspberry-pi/5-aarch64 (default: this "
        "CPU)",
    )
    device = parser.add_mutually_exclusive_group()
    device.add_argument(
        "--cpus",
        type=shared.cpus,
        metavar="LIST",
        help="the CPUs kernels may run on, e.g. 0 or 0-3 (default: all)",
    )
    parser.add_argument(
        "--emulated",
        action="store_true",
        help="this is no real device: its times never answer for one",
    )
    device.add_argument(
        "--replay",
        type=shared.duration,
        metavar="TIME",
        help="a device that answers without running anything, after this long for each kernel "
        "(e.g. 100ms); for tests of a farm, and emulated",
    )
    shared.add_labels(parser)
    parser.add_argument(
        "--build",
        type=shared.positive,
        nargs="?",
        const=1,
        metavar="PROCESSES",
        help="build what is measured here, in so many processes (1 if no number is given; each "
        "takes about 300 MB), instead of having the coordinator do it; needs the compiler of the "
        "coordinator's version, tunefarm[agent,compiler]",
    )
    parser.add_argument(
        "--state",
        type=Path,
        metavar="FOLDER",
        help="where results are kept until the coordinator has acknowledged them (default: "
        "$XDG_STATE_HOME/tunefarm, else ~/.local/state/tunefarm)",
    )
    parser.add_argument(
        "--supervised",
        action="store_true",
        help="something starts this agent again when it exits (the systemd unit says so): a "
        "coordinator may have it restarted when the device fails",
    )
    parser.add_argument(
        "--metrics",
        metavar="HOST:PORT",
        help="a port where Prometheus reads how the device is, in plain text on loopback, "
        "elsewhere with mutual TLS (default: none)",
    )
    parser.add_argument("--die-with-parent", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(run=run)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    enroll.add_verb(verbs, "agent", "make this device known to a farm on another machine")
    agent_bundle.add_verb(verbs)


def run(options: argparse.Namespace) -> int:
    """Serve the coordinator until SIGINT or SIGTERM."""
    from device_agent.agent import run_agent

    if options.build and options.replay is not None:
        raise BadRequest("a replay device runs nothing, and builds nothing: leave --build out")
    cpus = len(options.cpus or os.sched_getaffinity(0))
    if options.build and options.build > cpus:
        raise BadRequest(
            f"--build {options.build} is more than the device's CPUs, and no faster; ask "
            f"for {cpus} at most"
        )
    target = options.target
    if target is None and importlib.util.find_spec("tvm") is not None:
        # The compiler knows this CPU better, and `tunefarm tune` asks it, too.
        from coordinator.frontend.target import resolve_target

        target = resolve_target("auto", threads=len(options.cpus) if options.cpus else None)
    return run_agent(
        options.coordinator,
        options.name,
        target,
        options.cpus,
        options.emulated,
        options.die_with_parent,
        options.replay,
        options.label,
        shared.credentials(options, "agent"),
        # An agent that ends with its coordinator has nobody to deliver to later.
        None if options.die_with_parent else options.state or _state_folder(),
        options.supervised,
        options.metrics,
        options.build or 0,
    )


def _state_folder() -> Path:
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "tunefarm"
