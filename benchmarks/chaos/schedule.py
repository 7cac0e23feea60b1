"""What breaks when (pure): the same seed, the same faults at the same moments."""

from __future__ import annotations

import enum
import random
from collections.abc import Sequence
from dataclasses import dataclass


class Kind(enum.Enum):
    """What a fault does; its value is how people read it."""

    AGENT_KILLED = "agent killed"
    AGENT_FROZEN = "agent frozen"
    CLOCK_MOVED = "clock moved"
    DISK_FILLED = "disk filled"
    LINK_CUT = "link cut"
    LINK_DELAYED = "link delayed"
    LINK_LOSSY = "link lossy"
    COORDINATOR_KILLED = "coordinator killed"
    DATABASE_RESTARTED = "PostgreSQL restarted"
    WORKER_KILLED = "Ray worker killed"

    @property
    def of_agent(self) -> bool:
        """It happens to one agent."""
        return self in (Kind.AGENT_KILLED, Kind.AGENT_FROZEN, Kind.CLOCK_MOVED, Kind.DISK_FILLED)

    @property
    def of_link(self) -> bool:
        """It happens to one agent's link."""
        return self in (Kind.LINK_CUT, Kind.LINK_DELAYED, Kind.LINK_LOSSY)


GAP_S = 3.0, 8.0
"""Between two faults; those that last overlap with the next."""

LASTS_S = {
    Kind.AGENT_KILLED: (0.0, 5.0),  # until it is started again
    Kind.AGENT_FROZEN: (3.0, 20.0),  # the coordinator notices after ten
    Kind.CLOCK_MOVED: (5.0, 20.0),
    Kind.DISK_FILLED: (5.0, 15.0),
    Kind.LINK_CUT: (3.0, 20.0),
    Kind.LINK_DELAYED: (5.0, 15.0),
    Kind.LINK_LOSSY: (5.0, 15.0),
    Kind.COORDINATOR_KILLED: (0.0, 3.0),
    Kind.DATABASE_RESTARTED: (0.0, 3.0),
    Kind.WORKER_KILLED: (0.0, 0.0),
}
"""Seconds, at least and at most."""

CLOCKS_S = (-3 * 86_400, -3600, 3600, 100 * 86_400)
"""How far a clock is moved: by days, before certificates begin or after they end, and by hours."""

DELAYS_S = 0.05, 0.4
LOSSES = 0.05, 0.25


@dataclass(frozen=True)
class Fault:
    """At ``at_s`` seconds, for ``lasts_s`` seconds. ``agent`` is the number of the agent that it
    happens to, or whose link (-1: none); ``amount`` is the clock's offset or the link's delay in
    seconds, the chance that a packet is lost, or which worker, from 0 to 1."""

    at_s: float
    kind: Kind
    lasts_s: float
    agent: int = -1
    amount: float = 0.0


def schedule(
    seed: int, seconds: float, agents: int, linked: int, without: Sequence[Kind] = ()
) -> list[Fault]:
    """The faults of a run of this length, in their order.

    Of ``agents`` agents the first ``linked`` have a link of their own. Every kind comes once before
    any comes again, and none twice in a row; two faults of an agent never overlap. ``without`` are
    kinds that can't be had here.
    """
    chance = random.Random(seed)
    faults: list[Fault] = []
    deck: list[Kind] = []
    at_s = 0.0
    while True:
        at_s = round(at_s + chance.uniform(*GAP_S), 1)
        if at_s >= seconds:
            return faults
        if not deck:
            deck = [kind for kind in Kind if kind not in without]
            chance.shuffle(deck)
            if faults and deck[-1] is faults[-1].kind:  # what was broken is to work for a while
                deck.reverse()
        kind = deck.pop()
        lasts_s = round(chance.uniform(*LASTS_S[kind]), 1)
        amount = _amount(kind, chance)
        free = _free(at_s, faults, range(linked if kind.of_link else agents))
        agent = chance.choice(free) if free and (kind.of_agent or kind.of_link) else -1
        if (kind.of_agent or kind.of_link) and agent < 0:
            continue  # every one of them has its fault at this moment
        faults.append(Fault(at_s, kind, lasts_s, agent, amount))


def _amount(kind: Kind, chance: random.Random) -> float:
    if kind is Kind.CLOCK_MOVED:
        return float(chance.choice(CLOCKS_S))
    if kind is Kind.LINK_DELAYED:
        return round(chance.uniform(*DELAYS_S), 3)
    if kind is Kind.LINK_LOSSY:
        return round(chance.uniform(*LOSSES), 3)
    return round(chance.random(), 3) if kind is Kind.WORKER_KILLED else 0.0


def _free(at_s: float, faults: Sequence[Fault], agents: Sequence[int]) -> list[int]:
    """The agents to which nothing happens at that moment."""
    hit = {fault.agent for fault in faults if at_s <= fault.at_s + fault.lasts_s}
    return [agent for agent in agents if agent not in hit]
