"""How soon, and how good: the farm against stock MetaSchedule, and against the machine's peak.

``python -m benchmarks.time_to_quality [--quick] [--seeds N] [--task NAME]… [--trials N]``

Both sides search the same operators with as many trials; the times are those of the search, from
the first proposal to the last measurement (see ``benchmarks.throughput``).

``time_ratio_to_stock_best``: stock's whole search over the farm's time until a trial was at least
as fast as stock's winner, geometric mean. Stock's winner is taken at the better of two numbers, as
its runner reported it and as it was timed again beside the farm's. A farm that never was as fast
counts with its whole search, and would have needed longer: the ratio is then an upper bound, and
says little where the farm gave up early. Such pairs have a ``*``, ``not_reached`` counts them, and
``time_ratio_where_reached`` is the mean without them (absent if there is none).

``latency_ratio_equal_trials``: stock's winner over the farm's. Both are built again and timed in
turn in one process, with the peak kernel (``benchmarks.peak``) beside them, and the median over the
rounds counts; their outputs are compared with the untuned program's. ``peak_share_NAME`` is the
farm's winner's flop/s over the peak kernel's, median over seeds.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks import peak
from benchmarks.operators import operators
from benchmarks.pairs import Pair, run_pairs
from benchmarks.process import progress
from benchmarks.result import last_line, table
from benchmarks.timing import Contender, alternate, contender, same, seeded
from coordinator.frontend.target import num_threads, resolve_target
from protos.records import UNTUNED_TRACE

TRIALS, QUICK_TRIALS = 128, 32
SEEDS = 5


@dataclass(frozen=True)
class Verdict:
    """One pair's winners, timed again: seconds, and the peak in flop/s of the same rounds."""

    pair: Pair
    stock_s: float
    farm_s: float
    peak_per_s: float

    @property
    def bar_us(self) -> float:
        """What the farm has to reach: the better of what is known of stock's winner."""
        return min(self.pair.stock.best_us or float("inf"), self.stock_s * 1e6)

    @property
    def reached_s(self) -> float | None:
        """When the farm had it; None if never."""
        return self.pair.farm.reached_s(self.bar_us)

    @property
    def time_ratio(self) -> float:
        """Stock's search over the farm's way there, or over all of the farm's search."""
        reached_s = self.reached_s
        return self.pair.stock.search_s / (
            self.pair.farm.search_s if reached_s is None else reached_s
        )

    @property
    def latency_ratio(self) -> float:
        """Stock's winner over the farm's."""
        return self.stock_s / self.farm_s

    @property
    def peak_share(self) -> float:
        """The farm's winner."""
        return self.pair.operator.flops / self.farm_s / self.peak_per_s


def judge(pair: Pair, target: str) -> Verdict:
    """Build both winners again and time them in turn; raises RuntimeError if one is wrong."""
    stock, farm = pair.stock, pair.farm
    if stock.best_trace_json is None or farm.best is None:
        raise RuntimeError(f"{pair.operator.name}: a search found nothing that runs")
    sides = {
        "stock": (stock.workload_json, stock.best_trace_json),
        "farm": (farm.workload_json, farm.best.trace_json),
    }
    contenders: list[Contender] = [contender("peak", peak.peak_workload(target), "", target)]
    for side, (workload, trace) in sides.items():
        contenders.append(contender(side, workload, trace, target))
        untuned = contender(f"{side} untuned", workload, UNTUNED_TRACE, target, timed=False)
        contenders.append(untuned)
    timed = alternate(contenders, num_threads(target))
    by_name = {item.name: item for item in contenders}
    for side in sides:
        # A candidate that packs its weights takes other inputs than the untuned program.
        comparable = by_name[side].args == by_name[f"{side} untuned"].args
        if comparable and not same(timed[f"{side} untuned"], timed[side]):
            raise RuntimeError(f"{pair.operator.name}: the winner of {side} computes nonsense")
    if not np.allclose(timed["peak"].output, peak.expected(seeded(by_name["peak"].args)), 1e-3):
        raise RuntimeError("the peak kernel computes nonsense")
    peak_per_s = peak.flops(target) / timed["peak"].median_s
    return Verdict(pair, timed["stock"].median_s, timed["farm"].median_s, peak_per_s)


def figures(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Geometric means over operators and seeds, and the shares of the peak."""
    names = dict.fromkeys(verdict.pair.operator.name for verdict in verdicts)
    found = {
        "time_ratio_to_stock_best": statistics.geometric_mean(v.time_ratio for v in verdicts),
        "latency_ratio_equal_trials": statistics.geometric_mean(v.latency_ratio for v in verdicts),
        "not_reached": sum(verdict.reached_s is None for verdict in verdicts),
        "peak_gflops": statistics.median(verdict.peak_per_s for verdict in verdicts) / 1e9,
    }
    reached = [verdict.time_ratio for verdict in verdicts if verdict.reached_s is not None]
    if reached:
        found["time_ratio_where_reached"] = statistics.geometric_mean(reached)
    for name in names:
        of_name = [v for v in verdicts if v.pair.operator.name == name]
        found[f"peak_share_{name}"] = statistics.median(v.peak_share for v in of_name)
        found[f"time_ratio_{name}"] = statistics.geometric_mean(v.time_ratio for v in of_name)
        found[f"latency_ratio_{name}"] = statistics.geometric_mean(v.latency_ratio for v in of_name)
    return found


def report(verdicts: Iterable[Verdict]) -> str:
    """One line for each pair."""
    headings = (
        *("task", "seed", "stock s", "farm s", "stock said µs", "farm said µs", "reached s"),
        *("time ratio", "stock µs", "farm µs", "latency ratio", "GFLOP/s", "of peak"),
    )
    rows = []
    for verdict in verdicts:
        pair, reached_s = verdict.pair, verdict.reached_s
        said_us = pair.farm.best.latency_us if pair.farm.best else None
        rows.append(
            (
                *(pair.operator.name, pair.seed, pair.stock.search_s, pair.farm.search_s),
                *(pair.stock.best_us, said_us, reached_s),
                f"{verdict.time_ratio:.3g}{'*' if reached_s is None else ''}",
                *(verdict.stock_s * 1e6, verdict.farm_s * 1e6, verdict.latency_ratio),
                *(pair.operator.flops / verdict.farm_s / 1e9, f"{100 * verdict.peak_share:.0f} %"),
            )
        )
    return table(headings, rows)


def main() -> None:
    """Print the table and, as the last line, one JSON object."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.time_to_quality", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_TRIALS} trials of each, one seed"
    )
    parser.add_argument("--seeds", type=int, help=f"how many (default: {SEEDS})")
    parser.add_argument("--task", action="append", default=[], help="one operator; repeatable")
    parser.add_argument("--trials", type=int, help=f"of each (default: {TRIALS})")
    options = parser.parse_args()
    trials = options.trials or (QUICK_TRIALS if options.quick else TRIALS)
    seeds = options.seeds or (1 if options.quick else SEEDS)
    target = resolve_target("auto", None)
    verdicts = []
    for pair in run_pairs(operators(options.task), target, trials, range(seeds)):
        verdicts.append(judge(pair, target))
        progress(report(verdicts[-1:]))
    print(report(verdicts))
    print("* never reached: an upper bound, by the farm's whole search")
    print(last_line("time_to_quality", figures(verdicts), target))


if __name__ == "__main__":
    main()
