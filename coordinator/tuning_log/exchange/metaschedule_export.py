"""The best of a tuning log as a database that stock MetaSchedule reads and compiles from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import sqlalchemy as sa

from protos.errors import BadRequest

from ..browse import ranked
from ..devices import target_of
from ..evidence import evidence
from ..schema import measurements, workloads
from ..store import TuningLog
from ..values import numbers_from_json
from .folders import new_export
from .metaschedule_files import RECORDS, WORKLOADS
from .report import Damaged, ExportReport, Progress, no_progress
from .selection import Filters, all_workload_keys, select
from .tvm_process import TvmProcess
from .tvm_worker import SEED_KIND

_UNTUNED = '[[["GetSBlock",[],["root","main"],["b0"]]],[]]'
"""A trace that changes nothing. MetaSchedule passes over a record with an empty one."""


@dataclass(frozen=True)
class Record:
    """A candidate that is right, with the times to be told of it."""

    trace_json: str
    run_s: tuple[float, ...]


def export_metaschedule(
    log: TuningLog,
    folder: Path,
    filters: Filters,
    process: TvmProcess,
    target_json: str = "",
    force: bool = False,
    progress: Progress = no_progress,
) -> ExportReport:
    """Write ``folder`` with one record for each right candidate that fits, of one kind of device.

    ``target_json`` is for a kind of which the log does not know the target. Raises BadRequest if
    nothing fits, more than one kind does, or there is an export already.
    """
    filters = replace(filters, cold_cache=bool(filters.cold_cache))
    with new_export(folder, [WORKLOADS, RECORDS], force) as work:
        with log.reading() as connection:
            selection = select(connection, filters)
            kind = _the_kind(connection, selection.condition())
            target = _target(connection, process, kind, target_json)
            keys = all_workload_keys(connection, selection)
            with (work / WORKLOADS).open("w") as texts, (work / RECORDS).open("w") as records:
                written = [0, 0]
                for done, key in enumerate(keys, 1):
                    found = list(_records(connection, key, kind, filters))
                    if found:
                        workload, args = _workload(connection, process, key)
                        texts.write(workload + "\n")
                        for record in found:
                            records.write(_line(written[1], record, target, args) + "\n")
                        written = [written[0] + len(found), written[1] + 1]
                    progress(done, len(keys))
        if not written[0]:
            raise BadRequest("no right measurement in this tuning log fits; nothing was written")
        sizes = {name: (work / name).stat().st_size for name in (WORKLOADS, RECORDS)}
    return ExportReport(folder, {"records": written[0], "workloads": written[1]}, sizes)


def _the_kind(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> str:
    m = measurements.c
    query = sa.select(m.device_kind).distinct().where(condition, m.latency_us.is_not(None))
    kinds = sorted(connection.scalars(query))
    if not kinds:
        raise BadRequest("no right measurement in this tuning log fits; nothing was written")
    # Seeds of other people's are not what is asked for where the farm has its own.
    kinds = [kind for kind in kinds if not kind.startswith(SEED_KIND)] or kinds
    if len(kinds) > 1:
        raise BadRequest(
            "MetaSchedule does not tell devices apart; choose one kind with --kind: "
            + ", ".join(kinds)
        )
    return str(kinds[0])


def _target(connection: sa.Connection, process: TvmProcess, kind: str, given: str) -> str:
    """What the kind's kernels were built for, as MetaSchedule's records say it."""
    if given and target_of(connection, kind):
        raise BadRequest(f"the log knows the target of {kind}; leave --target out")
    text = given or target_of(connection, kind)
    if not text:
        raise BadRequest(f"the log does not know the target of {kind}; say it with --target JSON")
    try:
        target = process.ask("stock_target", target_json=text)["target"]
    except Damaged as error:
        raise BadRequest(f"TVM refuses the target {text}: {error}") from None
    return json.dumps(target, separators=(",", ":"))


def _workload(connection: sa.Connection, process: TvmProcess, key: str) -> tuple[str, str]:
    """Its line, and the types of its parameters as MetaSchedule has them."""
    row = connection.execute(sa.select(workloads).where(workloads.c.key == key)).one()
    args = [["TENSOR", arg["dtype"], arg["shape"]] for arg in json.loads(row.args_json)]
    try:
        line = process.ask("stock_workload", workload_json=row.workload_json)["line"]
    except Damaged as error:
        raise BadRequest(f"the workload {key} of this tuning log can't be read: {error}") from None
    return str(line), json.dumps(args, separators=(",", ":"))


def _line(workload: int, record: Record, target: str, args: str) -> str:
    trace = _one_line(record.trace_json or _UNTUNED)
    return f"[{workload},[{trace},{list(record.run_s)},{target},{args}]]"


def _one_line(trace_json: str) -> str:
    """The same value: a trace from elsewhere may have line breaks. Raises BadRequest."""
    try:
        return json.dumps(json.loads(trace_json), separators=(",", ":"), allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"a trace of this tuning log can't be read: {error}") from None


def _records(connection: sa.Connection, key: str, kind: str, filters: Filters) -> Iterator[Record]:
    """Right candidates, the best first as ``ranked`` has them, as many as are wanted.

    One in the finals counts with its turns there, as it does for the farm; another with the
    samples of its fastest measurement.
    """
    cold = bool(filters.cold_cache)
    known = {each.candidate.key: each for each in evidence(connection, key, kind, cold)}
    chosen = ranked(known)[: filters.best]
    samples = _samples(connection, key, kind, cold) if chosen else {}
    for each in chosen:
        turns = tuple(turn_s for turns in each.finals_s for turn_s in turns)
        yield Record(each.candidate.trace_json, turns or samples[each.candidate.key])


def _samples(
    connection: sa.Connection, key: str, kind: str, cold: bool
) -> dict[str, tuple[float, ...]]:
    """Of each candidate, the repeats of its fastest measurement, seconds."""
    m = measurements.c
    query = (
        sa.select(m.candidate_key, m.repeats_s_json)
        .where(
            m.device_kind == kind,
            m.workload_key == key,
            m.latency_us.is_not(None),
            m.cold_cache.is_(sa.true() if cold else sa.false()),
        )
        .order_by(m.latency_us.desc(), m.id.desc())
    )
    return {
        candidate: numbers_from_json(repeats_s_json)
        for candidate, repeats_s_json in connection.execute(query)
    }
