"""Can a measurement be trusted, and a winner? The farm against stock's runner, in turn.

``python -m benchmarks.timing_quality [--quick] [--sets N]``

``idle_spread`` and ``disturbed_spread``: one good candidate of the 3×3 convolution, built once, is
measured fifty times over the whole run, five times in a lease with seven other candidates, as in a
job; the spread is (95th − 5th percentile) / median of the fifty latencies. In the disturbed blocks
a neighbour keeps each CPU busy for 0.3 of every second. ``idle_drift`` and ``disturbed_drift`` are
the same of the blocks' medians: what the machine changed by in the minute between two of them.
``suspect_idle`` and ``suspect_disturbed`` count the farm's measurements that its canary put in
doubt; those are measured again, a few times, and what stays without an answer (``unanswered_…``) is
not in the spread.

``winner_flip_rate``: share of declared winners that another candidate of their set beats by more
than 1 % when all are timed for long, in turn and quietly (``benchmarks.winners``);
``winner_loss_worst`` is the largest such share. One set of each operator with ``--quick``, seven
otherwise.

With ``_stock``: the same by stock's ``LocalRunner`` and its default evaluator, on the same object
files, between the farm's measurements (``benchmarks.stock_runner``). It knows no doubt.

The farm's measurements go through the agent's lease worker (``benchmarks.lone_device``), with the
farm's evaluator.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.lone_device import LoneDevice
from benchmarks.operators import operators
from benchmarks.process import progress
from benchmarks.proposing import imported_task
from benchmarks.result import last_line, table
from benchmarks.stock_runner import StockRunner, stock_runner
from benchmarks.timing import Contender, alternate
from benchmarks.winners import CloseSet, close_set, farms_winner, flip_rate, loss, shuffled
from coordinator.experiments import EVALUATOR
from coordinator.frontend.target import num_threads, resolve_target

BLOCKS, PER_BLOCK = 10, 5
SETS, QUICK_SETS = 7, 1
ROUNDS, QUICK_ROUNDS = 100, 40
"""Of the long timing that is taken for the truth: 10 ms of each candidate in each."""

PROCESSES = 5
"""Among which they are divided: where memory happens to lie in one of them can slow a kernel."""

ON_S, OFF_S = 0.3, 0.7
_BURSTS = f"""
import os, sys, time
while os.getppid() == int(sys.argv[1]):
    until = time.monotonic() + {ON_S}
    while time.monotonic() < until:
        pass
    time.sleep({OFF_S})
"""


@dataclass
class Series:
    """What one situation gave: latencies in seconds, of each side."""

    farm_s: list[float] = field(default_factory=list)
    stock_s: list[float] = field(default_factory=list)
    suspect: int = 0
    unanswered: int = 0
    farm_medians_s: list[float] = field(default_factory=list)
    stock_medians_s: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Judged:
    """One set: by what share each side's declared winner was beaten."""

    task: str
    seed: int
    farm_loss: float
    stock_loss: float


def spread(values: Sequence[float]) -> float:
    """(95th − 5th percentile) / median."""
    cuts = statistics.quantiles(values, n=20, method="inclusive")
    return (cuts[-1] - cuts[0]) / statistics.median(values)


@contextlib.contextmanager
def neighbour() -> Iterator[None]:
    """Something else runs in bursts, one process for each CPU that we may use."""
    command = [sys.executable, "-c", _BURSTS, str(os.getpid())]  # it ends with us, come what may
    bursts = [subprocess.Popen(command) for _ in os.sched_getaffinity(0)]
    try:
        yield
    finally:
        for process in bursts:
            process.kill()
        for process in bursts:
            process.wait()


def block(close: CloseSet, device: LoneDevice, stock: StockRunner, series: Series) -> None:
    """Measure the set's first candidate a few times by each side."""
    suspect = device.suspect
    subject, *others = close.kernels
    lease = [*others, *[subject] * PER_BLOCK]
    random.Random(len(series.stock_s)).shuffle(lease)
    measured = device.measure(
        close.task, close.reference, lease, close.latencies_us[0], pacemaker=subject
    )
    right = [
        measurement.latency_us * 1e-6
        for kernel, measurement in zip(lease, measured, strict=True)
        if kernel is subject and measurement is not None and measurement.latency_us is not None
    ]
    series.farm_s += right
    series.farm_medians_s += [statistics.median(right)] if right else []
    series.suspect += device.suspect - suspect
    series.unanswered += PER_BLOCK - len(right)
    peers = [stock.latency_s(close.kernels[0]) for _ in range(PER_BLOCK)]
    series.stock_s += peers
    series.stock_medians_s.append(statistics.median(peers))


def judge(
    task: str, close: CloseSet, device: LoneDevice, stock: StockRunner, threads: int, rounds: int
) -> Judged:
    """Have both sides declare a winner, and time all for long."""
    kernels: list[Contender] = shuffled(close)
    stock_s = {kernel.name: stock.latency_s(kernel) for kernel in kernels}
    winners = farms_winner(close, device), min(stock_s, key=stock_s.__getitem__)
    truth: dict[str, list[float]] = {kernel.name: [] for kernel in kernels}
    for _ in range(PROCESSES):
        for name, one in alternate(kernels, threads, rounds // PROCESSES).items():
            truth[name].append(min(one.rounds_s))
    farm, peer = (loss(winner, truth) for winner in winners)
    found = Judged(task, close.seed, farm, peer)
    progress(f"{found.task}, seed {found.seed}: farm {farm:+.3f}, stock {peer:+.3f}")
    return found


def measure(sets: int, rounds: int) -> tuple[Series, Series, list[Judged]]:
    """Idle, disturbed, and every set: spread over the run, so that each sees all of its moods."""
    target = resolve_target("auto", None)
    tasks = {operator.name: imported_task(operator, target) for operator in operators()}
    wanted = [(name, seed) for seed in range(sets) for name in tasks]
    idle, disturbed, judged = Series(), Series(), []
    threads = num_threads(target)
    with LoneDevice(target, EVALUATOR) as device, stock_runner(target) as stock:
        subject = close_set(tasks["conv2d"], target, sets, device)
        for number in range(BLOCKS):
            progress(f"block {number + 1} of {BLOCKS}")
            block(subject, device, stock, idle)
            with neighbour():
                block(subject, device, stock, disturbed)
            for name, seed in wanted[number::BLOCKS]:
                close = close_set(tasks[name], target, seed, device)
                judged.append(judge(name, close, device, stock, threads, rounds))
    return idle, disturbed, judged


def figures(idle: Series, disturbed: Series, judged: Sequence[Judged]) -> dict[str, float]:
    """What is promised, the peer's beside the farm's."""
    found: dict[str, float] = {}
    for name, series in (("idle", idle), ("disturbed", disturbed)):
        if len(series.farm_s) > 1:
            found[f"{name}_spread"] = spread(series.farm_s)
        found[f"{name}_spread_stock"] = spread(series.stock_s)
        for side, medians_s in (("", series.farm_medians_s), ("_stock", series.stock_medians_s)):
            if len(medians_s) > 1:
                found[f"{name}_drift{side}"] = spread(medians_s)
        found[f"suspect_{name}"] = series.suspect
        found[f"unanswered_{name}"] = series.unanswered
    farm = [one.farm_loss for one in judged]
    stock = [one.stock_loss for one in judged]
    return {
        **found,
        "winner_flip_rate": flip_rate(farm),
        "winner_flip_rate_stock": flip_rate(stock),
        "winner_loss_worst": max(farm),
        "winner_loss_worst_stock": max(stock),
        "winners": len(judged),
    }


def report(idle: Series, disturbed: Series, judged: Sequence[Judged]) -> str:
    """Two tables."""
    rows: list[tuple[object, ...]] = []
    for name, series in (("idle", idle), ("disturbed", disturbed)):
        for side, values in (("farm", series.farm_s), ("stock", series.stock_s)):
            enough = len(values) > 1
            middle = statistics.median(values) * 1e6 if enough else None
            doubt = (series.suspect, series.unanswered) if side == "farm" else (None, None)
            width = spread(values) if enough else None
            rows.append((name, side, len(values), middle, width, *doubt))
    spreads = table(
        ("machine", "side", "measured", "median µs", "spread", "suspect", "unanswered"), rows
    )
    losses = table(
        ("task", "seed", "farm's winner beaten by", "stock's winner beaten by"),
        [
            (one.task, one.seed, f"{100 * one.farm_loss:.1f} %", f"{100 * one.stock_loss:.1f} %")
            for one in judged
        ],
    )
    return f"{spreads}\n\n{losses}"


def main() -> None:
    """Print the tables and, as the last line, one JSON object."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.timing_quality", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SETS} set of each operator")
    parser.add_argument("--sets", type=int, help=f"of each operator (default: {SETS})")
    options = parser.parse_args()
    sets = options.sets or (QUICK_SETS if options.quick else SETS)
    found = measure(sets, QUICK_ROUNDS if options.quick else ROUNDS)
    print(report(*found))
    print(last_line("timing_quality", figures(*found), resolve_target("auto", None)))


if __name__ == "__main__":
    main()
