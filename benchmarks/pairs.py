"""Stock and farm on the same operator, seed, target and number of trials, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.farm import FarmRun, run_farm
from benchmarks.operators import Operator
from benchmarks.process import progress
from benchmarks.stock import StockRun, run_stock


@dataclass(frozen=True)
class Pair:
    """The two searches of one operator."""

    operator: Operator
    seed: int
    stock: StockRun
    farm: FarmRun


def run_pairs(
    operators: Sequence[Operator], target: str, trials: int, seeds: Sequence[int]
) -> Iterator[Pair]:
    """Each as it is done. Who goes first changes from one pair to the next."""
    number = 0
    for seed in seeds:
        for operator in operators:
            farm = run_farm(operator, target, trials, seed) if number % 2 else None
            stock = run_stock(operator, target, trials, seed)
            farm = farm or run_farm(operator, target, trials, seed)
            progress(
                f"{operator.name}, seed {seed}: stock {stock.search_s:.1f} s, "
                f"{_us(stock.best_us)}; farm {farm.search_s:.1f} s, "
                f"{_us(farm.best.latency_us if farm.best else None)}"
            )
            number += 1
            yield Pair(operator, seed, stock, farm)


def _us(latency_us: float | None) -> str:
    return "nothing found" if latency_us is None else f"{latency_us:.0f} µs"


_STOCK_STAGES = {
    "SendToBuilder": "build",
    "SendToRunner": "measure",
    "JoinRunnerFutures": "measure",
    "MeasureCallback/UpdateCostModel": "train",
}


def stock_stages(profile: Mapping[str, float]) -> dict[str, float]:
    """MetaSchedule's own profile, seconds, under the names of the farm's stages.

    Its stages exclude each other. A name below another one's (``A/B/C`` below ``A/B``) is part of
    that one.
    """
    stages: dict[str, float] = {}
    for name, seconds in profile.items():
        stage = "propose" if name.startswith("EvoSearch/") else _STOCK_STAGES.get(name)
        if stage is not None and name.rpartition("/")[0] not in profile:
            stages[stage] = stages.get(stage, 0.0) + seconds
    return stages
