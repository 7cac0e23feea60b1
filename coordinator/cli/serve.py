"""`tunefarm serve`: a coordinator that stays."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from coordinator.cli import ca
from coordinator.cli import options as shared
from protos.errors import BadRequest
from protos.rpc import check_plain, parse_address

if TYPE_CHECKING:
    from coordinator.fleet.builders import BuildWorker
    from coordinator.server import SecurePorts

GARBAGE = 10_000
"""Objects that were made and not freed before Python looks for garbage among them."""

_EPILOG = """\
examples:
  tunefarm serve                                    # SQLite log, port 7411 on loopback
  tunefarm serve --log postgresql://farm@db/tunefarm
  tunefarm ca init && tunefarm serve --listen-tls 0.0.0.0:7412   # for other machines, too
  tunefarm serve --power-cycle /usr/local/bin/poe-reset          # for boards that hang
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
        help="the port for this machine, on loopback: in plain text, everybody may do everything "
        f"(default: {shared.DEFAULT_ADDRESS})",
    )
    parser.add_argument(
        "--listen-tls",
        metavar="HOST:PORT",
        help="a port for other machines, with mutual TLS: for who was enrolled, and may do what "
        "their role may. Needs `tunefarm ca init` (default: none)",
    )
    parser.add_argument(
        "--listen-enroll",
        metavar="HOST:PORT",
        help="the port where others enrol with a token (default: the one after --listen-tls)",
    )
    parser.add_argument(
        "--metrics",
        metavar="HOST:PORT",
        help="a port where Prometheus reads how the farm is, in plain text on loopback, elsewhere "
        "with mutual TLS (default: none)",
    )
    ca.add_authority(parser)
    shared.add_log(parser)
    parser.add_argument(
        "--ray-address", metavar="ADDRESS", help="join this Ray cluster (default: start one here)"
    )
    parser.add_argument(
        "--builders",
        type=shared.positive,
        metavar="N",
        help="processes that build candidates, one CPU each; with --ray-address they are where the "
        "cluster has room (default: one for each CPU of this machine)",
    )
    parser.add_argument(
        "--power-cycle",
        metavar="COMMAND",
        help="what switches a device off and on that vanished or fails its health checks, e.g. "
        "'/usr/local/bin/poe-reset': no shell runs it; it gets TUNEFARM_DEVICE, TUNEFARM_HOST and "
        "TUNEFARM_LABEL_RACK (and so on) in its environment (default: nobody does)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, build_worker: type[BuildWorker] | None = None) -> int:
    """Serve until SIGINT or SIGTERM. ``build_worker`` builds candidates (default: as ever)."""
    from coordinator import ray_runtime
    from coordinator.fleet.builders import BuildWorker
    from coordinator.fleet.medic import parse_command
    from coordinator.server import CoordinatorConfig
    from coordinator.tuning_log import TuningLog, default_url, normalise_url

    check_plain(options.listen)
    secure = _secure_ports(options)
    power_cycle = parse_command(options.power_cycle) if options.power_cycle is not None else ()
    url = normalise_url(options.log) if options.log else default_url()
    cpus = len(os.sched_getaffinity(0))
    config = CoordinatorConfig(
        *(url, options.listen),
        num_builders=options.builders or cpus,
        secure=secure,
        power_cycle=power_cycle,
        metrics=options.metrics,
        build_worker=build_worker or BuildWorker,
    )
    TuningLog.open(url).close()  # a log that can't be used is said before anything is started
    with ray_runtime.running(cpus, options.ray_address):
        asyncio.run(_serve(config))
    return 0


def _secure_ports(options: argparse.Namespace) -> SecurePorts | None:
    """What is asked for; raises BadRequest before anything is started."""
    from coordinator.security.authority import Authority
    from coordinator.server import SecurePorts

    if options.listen_tls is None:
        if options.listen_enroll is not None:
            raise BadRequest("--listen-enroll is for farms with --listen-tls")
        return None
    address = parse_address(options.listen_tls)
    enrol = options.listen_enroll or f"{address.host}:{address.port + 1 if address.port else 0}"
    Authority.load(options.ca)
    return SecurePorts(str(address), str(parse_address(enrol)), options.ca)


def collect_seldom() -> None:
    """Look for garbage in cycles less often, and not at what is there from the start. With a
    thousand devices Python would spend an eighth of a coordinator's time on that."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE, 20, 20)


async def _serve(config: Any) -> None:
    from coordinator.server import Coordinator
    from coordinator.tuning_log import display_url

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with Coordinator(config) as coordinator:
        collect_seldom()
        print(
            f"coordinator on 127.0.0.1:{coordinator.port}, log {display_url(config.log_url)}; "
            "Ctrl-C stops it",
            file=sys.stderr,
            flush=True,
        )
        if config.secure is not None:
            print(
                f"with mutual TLS on port {coordinator.secure_port}, enrolments on port "
                f"{coordinator.enrol_port}",
                file=sys.stderr,
                flush=True,
            )
        if config.metrics is not None:
            print(f"metrics on port {coordinator.metrics_port}", file=sys.stderr, flush=True)
        await stop.wait()
        print("stopping", file=sys.stderr, flush=True)
