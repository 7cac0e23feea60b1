"""One job on a farm, from its submission to its end, while faults happen to the farm."""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence

from benchmarks.chaos.farm import Farm
from benchmarks.chaos.model import small_model
from benchmarks.chaos.schedule import Fault
from coordinator.client import FarmClient
from protos.errors import FarmError
from protos.records import Job, JobSpec, sha256_hex

STEP_S = 0.2
ASK_EVERY_S = 1.0
PATIENCE_S = 300.0
"""How long a job may take that nothing happens to any more."""

CANARY_DRIFT = 0.99
"""Faults disturb those who time, and devices that are set aside for that would have none."""

TUNING_SHARE = 0.6
"""Of the time in which faults happen: finals, checks and packaging have theirs, too."""


class DidNotEnd(Exception):
    """The job was not done in time; the message says what was known of it."""


def submit(farm: Farm, target_json: str, trials: int, time_limit_s: float | None) -> str:
    """Hand in the model; the job's id."""
    model = small_model()
    spec = JobSpec(
        *("chaos", sha256_hex(model), target_json, trials),
        time_limit_s=time_limit_s,
        canary_drift=CANARY_DRIFT,
    )
    with FarmClient(farm.address) as client:
        return client.submit(spec, model).job_id


def follow(farm: Farm, job_id: str, faults: Sequence[Fault], say: Callable[[str], None]) -> Job:
    """Let the faults happen in time, until the job has ended; what has not happened by then does
    not, and what has is mended. Raises DidNotEnd."""
    began = time.monotonic()
    coming, numbers = deque(faults), itertools.count()
    lasting: list[tuple[float, int, Fault]] = []
    last = max((fault.at_s + fault.lasts_s for fault in faults), default=0.0)
    ask_at, job, stage = 0.0, None, ""
    try:
        while job is None or not job.state.ended:
            now = time.monotonic() - began
            if now > last + PATIENCE_S:
                raise DidNotEnd(f"job {job_id} has not ended {PATIENCE_S:.0f} s later: {job}")
            while lasting and lasting[0][0] <= now:
                _end(farm, heapq.heappop(lasting)[2], say)
            while coming and coming[0].at_s <= now:
                fault = coming.popleft()
                hit = farm.begin(fault)
                say(f"{fault.kind.value}: {hit}{_details(fault)}" if hit else "    nothing to hit")
                heapq.heappush(lasting, (now + fault.lasts_s, next(numbers), fault))
            farm.tend()
            if now >= ask_at:
                job, ask_at = _asked(farm, job_id) or job, now + ASK_EVERY_S
                if job is not None and job.stage != stage:
                    stage = job.stage
                    say(f"    job: {stage}, {job.trials.total} trials")
            time.sleep(STEP_S)
        return job
    finally:
        for _, _, fault in sorted(lasting):
            _end(farm, fault, say)


def _end(farm: Farm, fault: Fault, say: Callable[[str], None]) -> None:
    farm.end(fault)
    if fault.lasts_s:
        say(f"    over: {fault.kind.value}{_details(fault)}")


def _details(fault: Fault) -> str:
    parts = [f"for {fault.lasts_s:g} s"] if fault.lasts_s else []
    if fault.amount and fault.agent >= 0:
        parts.append(f"by {fault.amount:g}")
    if fault.agent >= 0:
        parts.append(f"agent {fault.agent}")
    return f" ({', '.join(parts)})" if parts else ""


def _asked(farm: Farm, job_id: str) -> Job | None:
    """The job as the coordinator knows it; None while that is down."""
    try:
        with FarmClient(farm.address) as client:
            return client.job(job_id)
    except FarmError:
        return None
