"""What was measured for a job, as its report shows it: read from the log, sent in pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from protos.errors import ProtocolViolation
from protos.records import History, Job, JobMeasurements

if TYPE_CHECKING:
    from coordinator.tuning_log import TuningLog

RECORDS_PER_PIECE = 1000
"""A record takes a few hundred bytes, and half a kilobyte if its device has the longest of names:
a piece is far below the largest message (``rpc.MAX_MESSAGE_BYTES``)."""


def measurements_of(log: TuningLog, job: Job) -> JobMeasurements:
    """All that the log knows; raises LogUnavailable."""
    history = log.history(job.job_id)
    kind = history.device_kind or _only_kind(log, job.spec.target_json)
    return JobMeasurements(history, log.limits(kind))


def _only_kind(log: TuningLog, target_json: str) -> str:
    """The kind of device of a job that measured nothing, if there is only one; otherwise empty."""
    kinds = {device.kind for device in log.devices() if device.target_json == target_json}
    return kinds.pop() if len(kinds) == 1 else ""


def pieces(measured: JobMeasurements) -> Iterator[JobMeasurements]:
    """At least one, each of RECORDS_PER_PIECE records at most; the first has all that is none."""
    history = measured.history
    first = history.records[:RECORDS_PER_PIECE]
    yield replace(measured, history=replace(history, records=first))
    for start in range(RECORDS_PER_PIECE, len(history.records), RECORDS_PER_PIECE):
        yield JobMeasurements(History(history.records[start : start + RECORDS_PER_PIECE]))


def joined(received: Iterable[JobMeasurements]) -> JobMeasurements:
    """What ``pieces`` took apart; raises ProtocolViolation if there are none."""
    found = list(received)
    if not found:
        raise ProtocolViolation("a job's measurements came without their first piece")
    records = tuple(record for piece in found for record in piece.history.records)
    return replace(found[0], history=replace(found[0].history, records=records))
