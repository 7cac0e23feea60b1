"""`tunefarm serve`: a coordinator that stays."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from typing import Any

from coordinator.cli import options as shared
from protos.rpc import check_address

_EPILOG = """\
examples:
  tunefarm serve                                    # SQLite log, port 7411 on loopback
  tunefarm serve --log postgresql://farm@db/tunefarm
Ctrl-C stops it; unfinished jobs go on at the next start.
"""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "serve",
        help="run a coordinator",
        description="Runs a coordinator: takes jobs, searches, dispatches to the agents, packages.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        default=shared.DEFAULT_ADDRESS,
        help=f"loopback only in this version (default: {shared.DEFAULT_ADDRESS})",
    )
    shared.add_log(parser)
    parser.add_argument(
        "--ray-address", metavar="ADDRESS", help="join this Ray cluster (default: start one here)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM."""
    from coordinator import ray_runtime
    from coordinator.server import CoordinatorConfig
    from coordinator.tuning_log import TuningLog, default_url, normalise_url

    check_address(options.listen)
    url = normalise_url(options.log) if options.log else default_url()
    TuningLog.open(url).close()  # a log that can't be used is said before anything is started
    cpus = len(os.sched_getaffinity(0))
    config = CoordinatorConfig(url, options.listen, num_builders=cpus)
    with ray_runtime.running(cpus, options.ray_address):
        asyncio.run(_serve(config))
    return 0


async def _serve(config: Any) -> None:
    from coordinator.server import Coordinator
    from coordinator.tuning_log import display_url

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with Coordinator(config) as coordinator:
        print(
            f"coordinator on 127.0.0.1:{coordinator.port}, log {display_url(config.log_url)}; "
            "Ctrl-C stops it",
            file=sys.stderr,
            flush=True,
        )
        await stop.wait()
        print("stopping", file=sys.stderr, flush=True)
