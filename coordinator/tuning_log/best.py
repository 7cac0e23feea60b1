"""The best few candidates of a workload, however many records there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import sqlalchemy as sa

from protos.records import Candidate

from .measurements import BestRecord
from .schema import candidates, measurements

_RECORDS_PER_CANDIDATE = 4
"""How many records of the fastest are read for each candidate asked for; finals bring several."""


def best_k(
    connection: sa.Connection, workload_key: str, device_kind: str, k: int, cold_cache: bool
) -> list[BestRecord]:
    """The ``k`` candidates with the least latencies, each with its fastest record; best first.

    The untuned program is a candidate like any other. Only the records down to the last of these
    are read, in the order of an index, and then the traces of these few.
    """
    fastest: dict[str, tuple[int, float]] = {}
    for row_id, latency_us, key in _in_order(connection, workload_key, device_kind, k, cold_cache):
        if len(fastest) == k:
            break
        fastest.setdefault(key, (row_id, latency_us))
    traces = _traces(connection, list(fastest))
    return [
        BestRecord(row_id, Candidate(workload_key, traces[key]), latency_us)
        for key, (row_id, latency_us) in fastest.items()
    ]


def _in_order(
    connection: sa.Connection, workload_key: str, device_kind: str, k: int, cold_cache: bool
) -> Iterator[tuple[int, float, str]]:
    """Id, latency and candidate of each record, the fastest first, read a page at a time."""
    m, page = measurements.c, max(1, k) * _RECORDS_PER_CANDIDATE
    query = (
        sa.select(m.id, m.latency_us, m.candidate_key)
        .where(
            m.device_kind == device_kind,
            m.workload_key == workload_key,
            m.latency_us.is_not(None),
            m.cold_cache.is_(sa.true() if cold_cache else sa.false()),
        )
        .order_by(m.latency_us, m.id)
        .limit(page)
    )
    rows = connection.execute(query).all()
    while rows:
        yield from ((row.id, row.latency_us, row.candidate_key) for row in rows)
        if len(rows) < page:
            return
        after = sa.tuple_(m.latency_us, m.id) > (rows[-1].latency_us, rows[-1].id)
        rows = connection.execute(query.where(after)).all()


def _traces(connection: sa.Connection, keys: Sequence[str]) -> dict[str, str]:
    c = candidates.c
    query = sa.select(c.key, c.trace_json).where(c.key.in_(keys))
    return {row.key: row.trace_json for row in connection.execute(query)}
