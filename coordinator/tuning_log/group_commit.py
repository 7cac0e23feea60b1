"""What several devices have to write goes into the log by one transaction.

A transaction of one result takes 1.2 ms of CPU and a write to the disk that can be relied on; one
of thirty-two takes 0.16 ms for each of them and the same single write. So whatever arrives while a
transaction is being committed waits for its end, and is committed by the next one together. Nobody
waits for a group to fill: where little is written, each has a transaction of its own at once.
(Group commit: DeWitt et al., Implementation Techniques for Main Memory Database Systems, SIGMOD
1984.)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from protos.errors import LogUnavailable

from .measurements import Result
from .store import TuningLog

logger = logging.getLogger(__name__)

Work = Callable[[sa.Connection], object]
"""Something else to write. It may be called again, in another transaction, if the first fails."""


@dataclass(frozen=True)
class _Entry:
    """What one caller wants written, and how it is told."""

    results: Sequence[Result]
    work: Work | None
    done: asyncio.Future[None]

    def succeeded(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def failed(self, error: Exception) -> None:
        if self.done.done():  # its caller has gone
            logger.warning("not written, and nobody waits for it any more: %s", error)
        else:
            self.done.set_exception(error)


class GroupCommit:
    """Writes for many callers at once. Lives on an event loop."""

    def __init__(self, tuning_log: TuningLog) -> None:
        self._log = tuning_log
        self._waiting: list[_Entry] = []
        self._writer: asyncio.Task[None] | None = None

    async def record(self, results: Sequence[Result]) -> None:
        """As ``TuningLog.record_many``: durable on return, or not there at all and an exception of
        its own, whatever the others in its group did."""
        await self._write(results, None)

    async def write(self, work: Work) -> None:
        """Do this within a transaction; the same holds."""
        await self._write((), work)

    async def _write(self, results: Sequence[Result], work: Work | None) -> None:
        entry = _Entry(results, work, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._drain(), name="group commit")
        await entry.done

    async def _drain(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            await self._settle(group)

    async def _settle(self, group: Sequence[_Entry]) -> None:
        try:
            await asyncio.to_thread(self._commit, group)
        except Exception as error:
            if len(group) == 1 or isinstance(error, LogUnavailable):
                for entry in group:
                    entry.failed(error)
                return
            for entry in group:  # one of them is at fault: the others are not to suffer
                await self._settle([entry])
        else:
            for entry in group:
                entry.succeeded()

    def _commit(self, group: Sequence[_Entry]) -> None:
        results = [result for entry in group for result in entry.results]
        self._log.record_many(results, [entry.work for entry in group if entry.work is not None])
