"""A coordinator with a thousand devices: measurements a second, and what they cost it.

``python -m benchmarks.fleet [--quick] [--postgres] [--devices N]… [--slower X] [--seconds S]``

One coordinator process (``benchmarks.fleet_coordinator``) and replay devices
(``benchmarks.replay_agents``), up to 125 in a process, each with a certificate and a stream of its
own. For each number of devices everything is new: log, authority, certificates, processes. After
the devices have joined it settles for half a minute, and is watched for a minute.

Real: enrolment, mutual TLS, gRPC over loopback, the guard in front of every message, leases,
dispatching among several jobs, suspect measurements that are made again, and a tuning log on a disk
in which every result is durable before it is acknowledged (SQLite, or a PostgreSQL of the
benchmark's own with ``--postgres``). Not real: nothing is proposed, built, trained or run. The
devices answer with what real ones did, and take as long as those did times ``--slower``: by default
eight, as boards beside a server, and a twenty-fourth of the number of devices where that is more,
so that they want 500 measurements a second; the coordinator hands out prepared candidates with
artifacts of 32 KB.

``measurements_per_s`` are those that devices made and got acknowledged in the window,
``utilisation_N`` is the share of the window in which N devices measured, as they saw it, and
``coordinator_cpu_ms`` is all CPU time of the coordinator's process over its measurements; the
figures without a number are those of the run with most devices. ``lost`` results were acknowledged
and are not in the log afterwards, ``doubled`` ones are there twice.

``rpc_overhead_ratio`` is explained in ``benchmarks.rpc_overhead``: TVM's RPC over the farm.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import postgres_server, rpc_overhead
from benchmarks.fleet_plan import recorded_answers
from benchmarks.fleet_run import Pace, Ran, measure
from benchmarks.result import last_line, table
from benchmarks.rpc_peer import Overhead

DEVICES, QUICK_DEVICES = (1, 8, 64, 256, 1000), (1, 8)
SETTLE_S, QUICK_SETTLE_S = 30.0, 1.0
WINDOW_S, QUICK_WINDOW_S = 60.0, 3.0
RPC_MEASUREMENTS, QUICK_RPC_MEASUREMENTS = 64, 8
SLOWER, DEVICES_PER_SLOWER = 8.0, 24
"""Boards, beside the two cores of a server that the recorded latencies are of; and so many devices
want about 500 measurements a second."""


@contextlib.contextmanager
def new_log(server: postgres_server.Server | None, number: int) -> Iterator[str]:
    """The URL of an empty log."""
    if server is not None:
        name = f"fleet{number}"
        server.execute(f"CREATE DATABASE {name}")
        yield server.url(name)
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")
        return
    with tempfile.TemporaryDirectory(prefix="tunefarm-fleet-") as folder:
        yield str(Path(folder) / "log.db")


def figures(runs: Sequence[Ran], overheads: Sequence[Overhead] = ()) -> dict[str, float]:
    """What is compared with the goals; ``overheads`` are the farm's and TVM's."""
    most = max(runs, key=lambda run: run.devices)
    found: dict[str, float] = {
        "devices": most.connected,
        "measurements_per_s": most.per_s,
        "coordinator_cpu_ms": most.cpu_ms,
        "lost": sum(run.lost for run in runs),
        "doubled": sum(run.doubled for run in runs),
        "rss_growth_mb": max(run.rss_mb[2] - run.rss_mb[0] for run in runs),
    }
    for run in runs:
        found[f"utilisation_{run.devices}"] = run.utilisation
        found[f"measurements_per_s_{run.devices}"] = run.per_s
        found[f"coordinator_cpu_ms_{run.devices}"] = run.cpu_ms
    if overheads:
        ours, theirs = overheads
        found["rpc_overhead_ratio"] = theirs.each_s / ours.each_s
        found["overhead_ms"], found["rpc_overhead_ms"] = ours.each_s * 1e3, theirs.each_s * 1e3
    return found


def runs_table(runs: Sequence[Ran]) -> str:
    """One row a run."""
    headings = (
        *("devices", "connected", "joins", "joined in s", "per s", "utilisation", "ack ms"),
        *("CPU ms each", "coordinator's cores", "agents' cores"),
        *("RSS MB", "half-way", "at the end", "acknowledged", "lost", "doubled"),
    )
    rows = [
        (
            *(run.devices, run.connected, run.sessions, run.joined_s, run.per_s),
            *(f"{100 * run.utilisation:.1f} %", run.wait_ms, run.cpu_ms),
            *(run.coordinator_cores, run.other_cores, *run.rss_mb),
            *(run.acknowledged, run.lost, run.doubled),
        )
        for run in runs
    ]
    return table(headings, rows)


def main() -> None:
    """Print the tables and, as the last line, one JSON object."""
    options = _options()
    counts = options.devices or (QUICK_DEVICES if options.quick else DEVICES)
    pace = Pace(
        options.settle or (QUICK_SETTLE_S if options.quick else SETTLE_S),
        options.seconds or (QUICK_WINDOW_S if options.quick else WINDOW_S),
    )
    runs: list[Ran] = []
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(postgres_server.running()) if options.postgres else None
        for number, count in enumerate(counts):
            slower = options.slower or max(SLOWER, count / DEVICES_PER_SLOWER)
            answers = recorded_answers(slower)
            with new_log(server, number) as url:
                runs.append(measure(url, count, answers, pace, options.profile))
        print(server.description if server else "SQLite: journal_mode=WAL, synchronous=FULL")
    print(f"{runs_table(runs)}\n")
    overheads: Sequence[Overhead] = ()
    if not options.without_rpc:
        overheads = rpc_overhead.compared(
            QUICK_RPC_MEASUREMENTS if options.quick else RPC_MEASUREMENTS
        )
        print(f"{rpc_overhead.overhead_table(overheads)}\n")
    print(last_line("fleet", figures(runs, overheads)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    few = f"{QUICK_DEVICES} devices for {QUICK_WINDOW_S:g} s each"
    parser.add_argument("--quick", action="store_true", help=few)
    parser.add_argument(
        "--devices", type=int, action="append", metavar="N", help=f"default: {DEVICES}"
    )
    parser.add_argument(
        "--slower",
        type=float,
        metavar="X",
        help="a device takes this many times what was recorded (default: see above)",
    )
    parser.add_argument(
        "--settle",
        type=float,
        metavar="S",
        help=f"seconds before a run is watched (default: {SETTLE_S:g})",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help=f"for which a run is watched (default: {WINDOW_S:g})",
    )
    parser.add_argument("--postgres", action="store_true", help="in place of SQLite")
    parser.add_argument("--without-rpc", action="store_true", help="leave TVM's RPC out")
    parser.add_argument(
        "--profile", type=Path, metavar="FILE", help="profile the coordinator's event loop into it"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
