"""Trials a second: the farm against stock MetaSchedule, operator by operator in turn.

``python -m benchmarks.throughput [--quick] [--task NAME]… [--trials N] [--seed N]``

A trial is a candidate that was built and timed, on the farm's side checked against a reference as
well; what failed, and what the farm answered without timing because it built to the same bytes as
another, is counted apart and not as a trial. Both sides have the same target and as many threads
for the kernels as it says.

The ratio is of trials per second of search, which goes from the first proposal to the last
measurement on both sides: stock from the call of ``ms.tune_tir``, the farm from the moment its log
has the untuned operator's time, after which it proposes. What comes before (imports, Ray, reading
the model) and after (the farm also verifies and packages) is in the table, and so is the ratio of
whole wall times, from the start of the process to its end.

The farm's stages overlap; a stage's seconds are those in which at least one piece of its work was
under way. Stock's follow each other. ``replay_utilisation`` is explained in ``benchmarks.replay``.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

from benchmarks import replay
from benchmarks.farm import FarmRun
from benchmarks.operators import operators
from benchmarks.pairs import Pair, run_pairs, stock_stages
from benchmarks.process import progress
from benchmarks.proposing import OURS, cpu_s_per_candidate, imported_task
from benchmarks.result import last_line, table
from coordinator.frontend.target import resolve_target

TRIALS, QUICK_TRIALS = 128, 32
ROUNDS, QUICK_ROUNDS = 5, 2

STAGES = ("propose", "build", "transfer", "load", "check", "time", "measure", "train", "idle")
"""The stages of the table, of which each side shows those that it has."""


def per_second(pair: Pair) -> tuple[float, float]:
    """Trials per second of search, stock's and the farm's."""
    return pair.stock.ok / pair.stock.search_s, pair.farm.ok / pair.farm.search_s


def figures(pairs: Sequence[Pair]) -> dict[str, float]:
    """What the searches amount to, over all operators and for each."""
    ratios = {}
    for pair in pairs:
        stock, farm = per_second(pair)
        ratios[pair.operator.name] = farm / stock
    searched_s = sum(pair.farm.search_s for pair in pairs)
    return {
        "trials_per_s_ratio_geomean": statistics.geometric_mean(ratios.values()),
        "trials_per_s_ratio_min": min(ratios.values()),
        **{f"trials_per_s_ratio_{name}": ratio for name, ratio in ratios.items()},
        "whole_wall_ratio_geomean": statistics.geometric_mean(
            pair.stock.whole_s / pair.farm.whole_s for pair in pairs
        ),
        "train_share": sum(pair.farm.stage_s.get("train", 0.0) for pair in pairs) / searched_s,
        "kernel_timed_share": sum(_kernel_s(pair) for pair in pairs) / searched_s,
        "device_busy_share": sum(_busy_s(pair) for pair in pairs) / searched_s,
    }


def _kernel_s(pair: Pair) -> float:
    return sum(trial.kernel_s for trial in pair.farm.trials)


def _busy_s(pair: Pair) -> float:
    return sum(trial.busy_s for trial in pair.farm.trials)


def trials_table(pairs: Sequence[Pair]) -> str:
    """What was tried, how fast, and where the wall time outside the search went."""
    headings = (
        *("task", "side", "ok", "failed", "same bytes", "before s", "search s", "whole s"),
        *("trials/s", "ratio", "whole ratio", "best µs"),
    )
    rows: list[tuple[object, ...]] = []
    for pair in pairs:
        name, stock, farm = pair.operator.name, pair.stock, pair.farm
        stock_per_s, farm_per_s = per_second(pair)
        farm_before_s = farm.start_s + farm.prepare_s
        rows.append(
            (
                *(name, "stock", stock.ok, stock.failed, 0, stock.import_s, stock.search_s),
                *(stock.whole_s, stock_per_s, None, None, stock.best_us),
            )
        )
        best_us = farm.best.latency_us if farm.best else None
        rows.append(
            (
                *(name, "farm", farm.ok, farm.failed, farm.twins, farm_before_s, farm.search_s),
                *(farm.whole_s, farm_per_s, farm_per_s / stock_per_s),
                *(stock.whole_s / farm.whole_s, best_us),
            )
        )
    return table(headings, rows)


def stages_table(pairs: Sequence[Pair]) -> str:
    """Seconds per trial and stage, and the shares of the search's wall time with a busy device."""
    headings = ("task", "side", *STAGES, "device busy", "kernel timed")
    rows: list[tuple[object, ...]] = []
    for pair in pairs:
        stock_s, farm_s = stock_stages(pair.stock.stage_s), farm_stages(pair.farm)
        tried, name = len(pair.farm.trials), pair.operator.name
        stock = [_per(stock_s.get(stage), len(pair.stock.trials)) for stage in STAGES]
        farm = [_per(farm_s.get(stage), tried) for stage in STAGES]
        busy, timed = (f(pair) / pair.farm.search_s for f in (_busy_s, _kernel_s))
        rows.append((name, "stock", *stock, None, None))
        rows.append((name, "farm", *farm, f"{100 * busy:.0f} %", f"{100 * timed:.0f} %"))
    return table(headings, rows)


def farm_stages(run: FarmRun) -> dict[str, float]:
    """The job's own account, and what the device says of its part; seconds."""
    parts = {
        "load": sum(trial.load_s for trial in run.trials),
        "check": sum(trial.check_s for trial in run.trials),
        "time": sum(trial.time_s for trial in run.trials),
    }
    return {**run.stage_s, **parts}


def _per(seconds: float | None, trials: int) -> float | None:
    return None if seconds is None else seconds / max(1, trials)


def main() -> None:
    """Print the tables and, as the last line, one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_TRIALS} trials of each")
    parser.add_argument("--task", action="append", default=[], help="one operator; repeatable")
    parser.add_argument("--trials", type=int, help=f"of each (default: {TRIALS})")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    trials = options.trials or (QUICK_TRIALS if options.quick else TRIALS)
    target = resolve_target("auto", None)
    pairs = list(run_pairs(operators(options.task), target, trials, [options.seed]))
    progress("proposing for the convolution")
    (conv2d,) = operators(["conv2d"])
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    propose_cpu_s = cpu_s_per_candidate(imported_task(conv2d, target), target, OURS, rounds)
    progress("replay devices")
    replay_trials = replay.QUICK_TRIALS if options.quick else replay.TRIALS
    replayed = replay.figures(replay.measure(replay_trials))
    print(trials_table(pairs))
    print("\nseconds per trial; the farm's stages overlap, stock's do not")
    print(stages_table(pairs))
    print(f"\nCPU seconds to propose a candidate of the convolution: {propose_cpu_s:.3f}")
    print(f"Least share of a replay device's time: {replayed['replay_utilisation']:.3f}")
    found = {**figures(pairs), "propose_cpu_s_conv2d": propose_cpu_s, **replayed}
    print(last_line("throughput", found, target))


if __name__ == "__main__":
    main()
