"""Which records an export is of: filters become workloads and kinds of device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from protos.errors import BadRequest, NotFound

from ..measurements import device_kinds
from ..naming import device_kind
from ..schema import candidates, job_tasks, jobs, measurements, workloads

_IDS_PER_PAGE = 1000


@dataclass(frozen=True)
class Filters:
    """What was asked for; empty: all. ``best`` is how many of each workload, None for all.

    A model or a job stands for its workloads, with all their records, whoever measured them.
    """

    model: str = ""
    job: str = ""
    workload: str = ""
    kind: str = ""
    cold_cache: bool | None = None
    best: int | None = None


@dataclass(frozen=True)
class Selection:
    """What ``filters`` mean in this log; ``workload_keys`` is None where none are named."""

    filters: Filters
    workload_keys: tuple[str, ...] | None
    kinds: tuple[str, ...]

    @property
    def everything(self) -> bool:
        """True if nothing is left out."""
        return self.filters == Filters()

    def condition(self, by_id: bool = False) -> sa.ColumnElement[bool]:
        """Of measurements, but for ``best``; ``by_id`` if they are read page by page."""
        m = measurements.c
        conditions: list[sa.ColumnElement[bool]] = [sa.true()]
        if self.filters.kind:
            # By id not an index over the whole kind of device, which would be sorted for each page.
            kind = sa.func.coalesce(m.device_kind, "") if by_id else m.device_kind
            conditions.append(kind.in_(self.kinds))
        if self.workload_keys is not None:
            conditions.append(m.workload_key.in_(self.workload_keys))
        if self.filters.cold_cache is not None:
            conditions.append(
                m.cold_cache.is_(sa.true() if self.filters.cold_cache else sa.false())
            )
        return sa.and_(*conditions)


def select(connection: sa.Connection, filters: Filters) -> Selection:
    """Look the names up; raises NotFound for one that the log does not have."""
    kinds = device_kinds(connection)
    if filters.kind:
        kinds = [device_kind(connection, filters.kind)]
    return Selection(filters, _workload_keys(connection, filters), tuple(kinds))


def all_workload_keys(connection: sa.Connection, selection: Selection) -> tuple[str, ...]:
    """The keys of the selected workloads, in order."""
    if selection.workload_keys is not None:
        return selection.workload_keys
    return tuple(connection.scalars(sa.select(workloads.c.key).order_by(workloads.c.key)))


def best_ids(connection: sa.Connection, selection: Selection) -> list[int]:
    """The ids of the fastest records: so many of each workload on each kind of device, with warm
    and with cold caches."""
    m = measurements.c
    found: list[int] = []
    cold = selection.filters.cold_cache
    cold_caches = (False, True) if cold is None else (cold,)
    for key in all_workload_keys(connection, selection):
        for kind in selection.kinds:
            for is_cold in cold_caches:
                query = (
                    sa.select(m.id)
                    .where(
                        m.device_kind == kind,
                        m.workload_key == key,
                        m.latency_us.is_not(None),
                        m.cold_cache.is_(sa.true() if is_cold else sa.false()),
                    )
                    .order_by(m.latency_us, m.id)
                    .limit(selection.filters.best)
                )
                found += connection.scalars(query)
    return sorted(found)


def id_pages(ids: list[int]) -> Iterator[list[int]]:
    """As many as one question may name."""
    for start in range(0, len(ids), _IDS_PER_PAGE):
        yield ids[start : start + _IDS_PER_PAGE]


def measured(selection: Selection) -> sa.ColumnElement[bool]:
    """Of candidates: that the selection has a record of it."""
    m = measurements.c
    record = sa.select(sa.literal(1)).where(
        # All of them are named, so that the index finds the candidate.
        m.device_kind.in_(selection.kinds),
        m.workload_key == candidates.c.workload_key,
        m.candidate_key == candidates.c.key,
        selection.condition(),
    )
    return sa.exists(record.correlate(candidates))


def _workload_keys(connection: sa.Connection, filters: Filters) -> tuple[str, ...] | None:
    if filters.workload:
        starting = workloads.c.key.startswith(filters.workload, autoescape=True)
        keys = connection.scalars(sa.select(workloads.c.key).where(starting).limit(5))
        return (_the_one(filters.workload, sorted(keys)),)
    if not filters.model and not filters.job:
        return None
    query = sa.select(job_tasks.c.workload_key).distinct().order_by(job_tasks.c.workload_key)
    if filters.job:
        if connection.scalar(sa.select(jobs.c.id).where(jobs.c.job_id == filters.job)) is None:
            raise NotFound(
                f"no job {filters.job!r} in this tuning log; tunefarm jobs list shows those it has"
            )
        return tuple(connection.scalars(query.where(job_tasks.c.job_id == filters.job)))
    names = connection.scalars(sa.select(jobs.c.model_name).distinct()).all()
    if filters.model not in names:
        known = f"; it has {', '.join(sorted(names)[:20])}" if names else ""
        raise NotFound(f"no job of a model {filters.model!r} in this tuning log{known}")
    query = query.join(jobs, jobs.c.job_id == job_tasks.c.job_id)
    return tuple(connection.scalars(query.where(jobs.c.model_name == filters.model)))


def _the_one(wanted: str, known: list[str]) -> str:
    """The workload that is meant by the beginning of its key."""
    if not known:
        raise NotFound(f"no workload {wanted!r} in this tuning log")
    if len(known) > 1 and wanted not in known:
        raise BadRequest(f"{wanted!r} may be {', '.join(known)}; write more of the one you mean")
    return known[0]
