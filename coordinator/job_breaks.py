"""A job whose run broke off through no fault of its own goes on from the log.

The tuning log was away for a moment, or a process that searches, trains or compiles has died. What
was measured is in the log, so the job is run again, as after a coordinator's restart.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from coordinator.ray_runtime import ActorLost
from protos.errors import LogUnavailable

log = logging.getLogger(__name__)

BREAKS_IN_A_ROW = 3
"""Without a new trial in between, the next one ends the job."""

PAUSE_S = 1.0


async def run_through_breaks(
    job_id: str,
    run: Callable[[], Awaitable[object]],
    trials: Callable[[], int],
    ask_log: Callable[[], Awaitable[object]],
    patience_s: float,
) -> None:
    """Call ``run`` again whenever it breaks off, once the log answers.

    ``trials`` says how many there are so far; ``ask_log`` raises LogUnavailable while the log is
    away. A run that was cancelled is not begun again, whatever it raised. Raises what ``run``
    raises: LogUnavailable or ActorLost only if the log has not answered for ``patience_s`` seconds,
    or after ``BREAKS_IN_A_ROW``.
    """
    breaks, known = 0, -1
    while True:
        try:
            await run()
            return
        except (LogUnavailable, ActorLost) as error:
            _end_if_cancelled()
            breaks = breaks + 1 if trials() == known else 1
            known = trials()
            if breaks > BREAKS_IN_A_ROW:
                raise
            log.warning("job %s breaks off, and goes on from the log: %s", job_id, error)
        await _answers(ask_log, patience_s)


def _end_if_cancelled() -> None:
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def _answers(ask_log: Callable[[], Awaitable[object]], patience_s: float) -> None:
    """Return when the log answers; raises LogUnavailable if it does not in time."""
    deadline = time.monotonic() + patience_s
    while True:
        await asyncio.sleep(PAUSE_S)
        try:
            await ask_log()
            return
        except LogUnavailable:
            if time.monotonic() > deadline:
                raise
