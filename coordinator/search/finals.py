"""Who is timed again before a task's winner is declared, and until when (pure).

The fastest of some hundred single measurements is the luckiest of several that are as fast. So the
best few are timed again in rounds, each of them once a round, until one has been told apart from
the others or they are declared a tie. Two are told apart when the 95 % interval of the one's median
(protos/median.py) lies above the other's. As in a racing algorithm (O. Maron and A. W. Moore,
Hoeffding Races, NIPS 1993), who is out takes no more of the device's time.

Programs with and without threads race apart: the whole model decides between them later
(docs/decisions/0009-the-whole-model-decides.md).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from coordinator.search.traces import uses_threads
from coordinator.tuning_log import Evidence
from protos.median import median_interval
from protos.records import UNTUNED_TRACE


@dataclass(frozen=True)
class FinalsConfig:
    """Who takes part, and for how long.

    At most ``finalists`` of each kind that are within ``within`` times the best of their kind; the
    serial ones only if the best of them is also so close to the best of all, or no more than
    ``serial_within_us`` slower. At most ``rounds`` rounds, and at least ``least_rounds`` where
    there is somebody to be told apart. Those that are surely less than the share ``alike`` apart
    are a tie. Tasks with less than ``min_share`` of the model's time have none.
    """

    finalists: int = 4
    within: float = 1.10
    serial_within_us: float = 15.0
    rounds: int = 6
    least_rounds: int = 2
    alike: float = 0.01
    min_share: float = 0.01


@dataclass(frozen=True)
class Standing:
    """A finalist's samples, a tuple for each round it was right in; ``failed`` in a later one."""

    key: str
    rounds_s: tuple[tuple[float, ...], ...] = ()
    failed: bool = False

    @property
    def samples_s(self) -> list[float]:
        """Those of all rounds."""
        return [sample for samples in self.rounds_s for sample in samples]


@dataclass(frozen=True)
class Verdict:
    """Who is measured in the next round (nobody: it is over), who leads, and who is not told from
    the leader, the leader left out."""

    again: tuple[str, ...]
    leader: str | None = None
    tied: tuple[str, ...] = ()


def heats(known: Sequence[Evidence], config: FinalsConfig) -> list[list[Evidence]]:
    """The finalists, fastest first: those with threads and those without, each if there are any.

    The untuned program alone needs no finals.
    """
    right = [item for item in known if item.latency_us is not None]
    if not right:
        return []
    best_us = min(map(_latency_us, right))
    threads = [item for item in right if uses_threads(item.candidate.trace_json)]
    serial = [item for item in right if not uses_threads(item.candidate.trace_json)]
    found = [_best_few(threads, best_us, config)]
    serial_us = min(map(_latency_us, serial), default=float("inf"))
    if serial_us <= max(best_us + config.serial_within_us, best_us * config.within):
        found.append(_best_few(serial, serial_us, config))
    alone = all(item.candidate.trace_json == UNTUNED_TRACE for heat in found for item in heat)
    return [] if alone else [heat for heat in found if heat]


def _best_few(items: Sequence[Evidence], best_us: float, config: FinalsConfig) -> list[Evidence]:
    close = [item for item in items if _latency_us(item) <= best_us * config.within]
    few: dict[str, Evidence] = {}
    for item in sorted(close, key=lambda item: (_latency_us(item), item.candidate.key)):
        few.setdefault(item.artifact_sha256 or item.candidate.key, item)  # equal bytes race once
    return list(few.values())[: config.finalists]


def _latency_us(item: Evidence) -> float:
    return float("inf") if item.latency_us is None else item.latency_us


def decide(heat: Sequence[Standing], config: FinalsConfig) -> Verdict:
    """What the samples of one heat say so far."""
    running = [one for one in heat if not one.failed]
    unseen = tuple(one.key for one in running if not one.rounds_s)
    played = max((len(one.rounds_s) for one in running), default=0)
    seen = [one for one in running if one.rounds_s]
    if not seen:
        return Verdict(unseen)
    leader = min(seen, key=lambda one: (statistics.median(one.samples_s), one.key))
    tied = [one for one in seen if one is not leader and not told_apart(leader, one)]
    others = tuple(one.key for one in tied)
    least = 1 if len(running) == 1 else config.least_rounds
    over = played >= config.rounds or (played >= least and _settled(leader, tied, config))
    if unseen and played < config.rounds:
        over = False
    again = () if over else tuple(one.key for one in running if one in (leader, *tied)) + unseen
    return Verdict(again, leader.key, others)


def told_apart(leader: Standing, other: Standing) -> bool:
    """Whether the other one is surely slower."""
    mine, theirs = median_interval(leader.samples_s), median_interval(other.samples_s)
    return mine is not None and theirs is not None and theirs[0] > mine[1]


def _settled(leader: Standing, tied: Sequence[Standing], config: FinalsConfig) -> bool:
    """Whether more rounds would change nothing that matters."""
    if not tied:
        return True
    intervals = [median_interval(one.samples_s) for one in (leader, *tied)]
    known = [interval for interval in intervals if interval is not None]
    if len(known) < len(intervals):
        return False
    lowest, highest = min(low for low, _ in known), max(high for _, high in known)
    return highest <= lowest * (1 + config.alike)


def order(keys: Sequence[str], played: int) -> list[str]:
    """The order of a round: rotated, so that nobody always runs after the same one."""
    turn = played % len(keys) if keys else 0
    return [*keys[turn:], *keys[:turn]]
