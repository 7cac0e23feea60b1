"""Who is timed again before a task's winner is declared, and until when (pure).

The fastest of some hundred single measurements is the luckiest of several that are as fast. So the
best few are timed again in rounds, until one has been told apart from the others or they are
declared a tie. In a round the device takes them in turn, some samples of each again and again; what
disturbs it for longer than a turn disturbs them alike. So two are compared turn by turn: they are
told apart when the 95 % interval of the median of the ratios (protos/median.py) is above one. As in
a racing algorithm (O. Maron and A. W. Moore, Hoeffding Races, NIPS 1993), who is out takes no more
of the device's time.

Programs with and without threads race apart: the whole model decides between them later
(docs/decisions/0009-the-whole-model-decides.md).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from coordinator.search.traces import uses_threads
from coordinator.tuning_log import Evidence, turns_s
from protos.median import median_interval
from protos.records import UNTUNED_TRACE

TURN_SAMPLES = 5
"""Samples that a device takes of one finalist before the next one's turn."""

ROUND_TURNS = 7
"""Turns of a finalist in a round."""


@dataclass(frozen=True)
class FinalsConfig:
    """Who takes part, and for how long.

    At most ``finalists`` of each kind that are within ``within`` times the best of their kind; the
    serial ones only if the best of them is also so close to the best of all, or no more than
    ``serial_within_us`` slower. At most ``rounds`` rounds. A round is a process
    of each, and where memory lies in a process may be good or bad luck: who is slower by the share
    ``clear`` is out at once, and who is slower by less after ``least_rounds``. Those that are then
    surely less than the share ``alike`` apart are a tie. Tasks with less than ``min_share`` of the
    model's time have none.
    """

    finalists: int = 6
    within: float = 1.15
    serial_within_us: float = 15.0
    rounds: int = 5
    least_rounds: int = 3
    clear: float = 0.05
    alike: float = 0.005
    min_share: float = 0.01


@dataclass(frozen=True)
class Standing:
    """What a finalist took in each turn, a tuple for each round it was right in; ``failed`` in a
    later one."""

    key: str
    rounds_s: tuple[tuple[float, ...], ...] = ()
    failed: bool = False

    @property
    def latency_s(self) -> float:
        """The median over its turns."""
        return statistics.median(turn for turns in self.rounds_s for turn in turns)

    def after(self, repeats_s: Sequence[float]) -> Standing:
        """With another round, of which these are the samples; without any it has failed in it."""
        if not repeats_s:
            return replace(self, failed=True)
        return replace(self, rounds_s=(*self.rounds_s, turns_s(repeats_s, TURN_SAMPLES)))


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
    leader = min(seen, key=lambda one: (one.latency_s, one.key))
    leader = min(seen, key=lambda one: (_ratio(leader, one), one.key))
    tied = [one for one in seen if one is not leader and not _is_out(leader, one, config)]
    others = tuple(one.key for one in tied)
    over = played >= config.rounds or _settled(leader, tied, config)
    if unseen and played < config.rounds:
        over = False
    again = () if over else tuple(one.key for one in running if one in (leader, *tied)) + unseen
    return Verdict(again, leader.key, others)


def _ratios(leader: Standing, other: Standing) -> list[float]:
    """How much longer the other one took, in each turn that both had."""
    return [
        theirs / mine
        for rounds in zip(leader.rounds_s, other.rounds_s, strict=False)
        for mine, theirs in zip(*rounds, strict=False)
    ]


def _ratio(leader: Standing, other: Standing) -> float:
    ratios = _ratios(leader, other)
    return statistics.median(ratios) if ratios else float("inf")


def told_apart(leader: Standing, other: Standing, by: float = 0.0) -> bool:
    """Whether the other one is surely slower, by this share."""
    interval = median_interval(_ratios(leader, other))
    return interval is not None and interval[0] > 1.0 + by


def _is_out(leader: Standing, other: Standing, config: FinalsConfig) -> bool:
    early = min(len(leader.rounds_s), len(other.rounds_s)) < config.least_rounds
    return told_apart(leader, other, config.clear if early else 0.0)


def _settled(leader: Standing, tied: Sequence[Standing], config: FinalsConfig) -> bool:
    """Whether more rounds would change nothing that matters."""
    if tied and len(leader.rounds_s) < config.least_rounds:
        return False
    intervals = [median_interval(_ratios(leader, one)) for one in tied]
    return all(i is not None and i[1] <= 1 + config.alike for i in intervals)


def order(keys: Sequence[str], played: int) -> list[str]:
    """The order of a round: rotated, so that nobody always runs after the same one."""
    turn = played % len(keys) if keys else 0
    return [*keys[turn:], *keys[:turn]]
