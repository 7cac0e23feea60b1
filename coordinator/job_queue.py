"""Which job is begun next, and which one makes room for it (pure).

Several jobs run at a time and share the devices (``fleet/dispatcher.py``); a job costs processes
that search and train, so there are only so many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from protos.records import Priority

MAX_RUNNING = 4
"""Jobs that run at a time."""

SLICE_S = 1800.0
"""A job that has run for so long makes room if another one waits; it goes on later."""


@dataclass(frozen=True)
class Waiting:
    """A job that waits; ``lacks`` says, for people, what it waits for if no device that it could
    run on is connected."""

    job_id: str
    user: str
    priority: Priority
    lacks: str = ""


@dataclass(frozen=True)
class Running:
    """A job that runs, for how many seconds already, and whether it could be interrupted now
    without loss."""

    job_id: str
    user: str
    priority: Priority
    ran_s: float = 0.0
    tunes: bool = False


@dataclass(frozen=True)
class Turn:
    """``begin`` is the job whose turn it is, ``interrupt`` one that is to make room for another;
    ``why`` says of each that waits what for."""

    begin: str | None
    interrupt: str | None
    why: Mapping[str, str]


def next_turn(
    waiting: Sequence[Waiting],
    running: Sequence[Running],
    max_running: Mapping[str, int],
    slots: int = MAX_RUNNING,
) -> Turn:
    """What to do now; ``waiting`` is in the order of submission, ``max_running`` has users' quotas.

    The highest priority goes first, then who has the fewest jobs running, then who came first.
    """
    running_of = Counter(job.user for job in running)
    why: dict[str, str] = {}
    ready = []
    for job in waiting:
        quota = max_running.get(job.user)
        if job.lacks:
            why[job.job_id] = f"waiting for {job.lacks}"
        elif quota is not None and running_of[job.user] >= quota:
            why[job.job_id] = f"waiting: {job.user} may have {quota} running at a time"
        else:
            ready.append(job)
    if not ready:
        return Turn(None, None, why)
    order = {job.job_id: place for place, job in enumerate(waiting)}
    ready.sort(key=lambda job: (-job.priority, running_of[job.user], order[job.job_id]))
    if len(running) < slots:
        return Turn(ready[0].job_id, None, why)
    why |= {job.job_id: f"waiting: {slots} other jobs run" for job in ready}
    old = [
        job
        for job in running
        if job.tunes and job.ran_s >= SLICE_S and job.priority <= ready[0].priority
    ]
    longest = max(old, key=lambda job: (-job.priority, job.ran_s), default=None)
    return Turn(None, longest.job_id if longest is not None else None, why)
