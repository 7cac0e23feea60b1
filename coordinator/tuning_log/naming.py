"""What a name, or the beginning of a key, stands for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from protos.errors import BadRequest, NotFound

from .jobs import IS_WHOLE
from .measurements import device_kinds
from .schema import candidates, cost_models, devices, job_tasks, jobs, measurements, workloads

SHORTEST = 6
"""Digits of a key that are enough to look for it."""

_SHOWN = 6
_LARGEST = 2**63 - 1


@dataclass(frozen=True)
class Named:
    """``what`` is a job, model, workload, candidate, measurement, device or cost model.

    ``key`` is its id; that of a model is its name.
    """

    what: str
    key: str


def find(connection: sa.Connection, text: str) -> Named:
    """The one thing of that name, or whose key begins so.

    Raises NotFound, and BadRequest if there are several.
    """
    found = list(dict.fromkeys(_exact(connection, text) or _beginning(connection, text)))
    if not found:
        raise NotFound(
            f"the log has no job, model, workload, candidate, measurement, device or cost model "
            f"{text!r}; a key needs its first {SHORTEST} digits at least, a measurement is written "
            "m123 and a cost model v12. tunefarm log top MODEL names workloads and candidates"
        )
    if len(found) > 1:
        several = ", ".join(f"{one.what} {one.key}" for one in found[:_SHOWN])
        more = ", …" if len(found) > _SHOWN else ""
        raise BadRequest(f"{text!r} may be {several}{more}; write more of the one you mean")
    return found[0]


def device_kind(connection: sa.Connection, text: str) -> str:
    """The kind of device whose name begins so; raises NotFound or BadRequest."""
    known = device_kinds(connection)
    found = [text] if text in known else [kind for kind in known if kind.startswith(text)]
    if len(found) == 1:
        return found[0]
    if found:
        raise BadRequest(f"{text!r} may be {', '.join(found)}; write more of the kind you mean")
    raise NotFound(
        f"nothing was measured on a kind of device {text!r}; there are "
        f"{', '.join(known) or 'none yet'}: see tunefarm log stats"
    )


def newest_job(connection: sa.Connection, model_name: str) -> str:
    """The newest job of a model; the newest with tasks, if any has them."""
    has_tasks = sa.exists().where(job_tasks.c.job_id == jobs.c.job_id)
    query = (
        sa.select(jobs.c.job_id)
        .where(jobs.c.model_name == model_name)
        .order_by(sa.case((has_tasks, 0), else_=1), jobs.c.id.desc())
        .limit(1)
    )
    return str(connection.execute(query).scalar_one())


def _exact(connection: sa.Connection, text: str) -> list[Named]:
    """Whatever has just this name. A number that is a measurement's may begin a key as well."""
    tables = (
        ("job", jobs.c.job_id, text),
        ("model", jobs.c.model_name, text.removesuffix(".onnx")),
        ("workload", workloads.c.key, text),
        ("candidate", candidates.c.key, text),
        ("device", devices.c.name, text),
    )
    found = []
    for what, column, value in tables:
        if connection.execute(sa.select(column).where(column == value).limit(1)).first():
            found.append(Named(what, value))
    numbered = re.fullmatch(r"([mv]?)(\d{1,19})", text)
    if numbered is not None and int(numbered[2]) <= _LARGEST:
        by_id = cost_models.c.version if numbered[1] == "v" else measurements.c.id
        what = "cost model" if numbered[1] == "v" else "measurement"
        number = int(numbered[2])
        if connection.execute(sa.select(by_id).where(by_id == number)).first() is not None:
            found.append(Named(what, f"{'v' if what == 'cost model' else 'm'}{number}"))
        if found and not numbered[1]:
            found += _beginning(connection, text)
    return found


def _beginning(connection: sa.Connection, text: str) -> Iterator[Named]:
    """Jobs, models, workloads and candidates whose key begins so."""
    if re.fullmatch(r"j-[0-9a-f]{3,}", text):
        for job_id in connection.execute(_begins(jobs.c.job_id, text).where(IS_WHOLE)).scalars():
            yield Named("job", job_id)
    if not re.fullmatch(rf"[0-9A-Fa-f]{{{SHORTEST},}}", text):
        return
    digits = text.lower()
    for what, column in (("workload", workloads.c.key), ("candidate", candidates.c.key)):
        for key in connection.execute(_begins(column, digits)).scalars():
            yield Named(what, key)
    models = _begins(jobs.c.model_sha256, digits).with_only_columns(jobs.c.model_name).distinct()
    for name in connection.execute(models.order_by(None).order_by(jobs.c.model_name)).scalars():
        yield Named("model", name)


def _begins(column: sa.Column[str], start: str) -> sa.Select[str]:
    """A range, which an index answers. No digit of a key comes after g."""
    return (
        sa.select(column)
        .where(column >= start, column < f"{start}g")
        .order_by(column)
        .limit(_SHOWN + 1)
    )
