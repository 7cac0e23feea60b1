"""Many rows in one statement, those that are there already left out."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from .database import insert
from .schema import now


def append(
    connection: sa.Connection,
    table: sa.Table,
    rows: Sequence[Mapping[str, Any]],
    returning: tuple[str, ...],
) -> Sequence[sa.Row[Any]]:
    """Insert rows with the same columns, in their order; returns these columns of the new ones.

    A column ``measured_at`` is the database's to fill in.
    """
    if connection.dialect.name == "postgresql":
        statement = _from_json(table, tuple(rows[0]), returning)
        return connection.execute(statement, {"rows": json.dumps(rows)}).all()
    columns = [table.c[name] for name in returning]
    values = insert(connection, table).values(_by_the_database(table)).on_conflict_do_nothing()
    return connection.execute(values.returning(*columns), rows).all()


@functools.cache
def _from_json(
    table: sa.Table, names: tuple[str, ...], returning: tuple[str, ...]
) -> sa.Executable:
    """All rows as one parameter: a parameter for each value costs more than the insertion."""
    columns = [sa.column(name, table.c[name].type) for name in names]
    function = sa.func.json_to_recordset(sa.cast(sa.bindparam("rows", type_=sa.Text), sa.JSON))
    rows = function.table_valued(*columns).render_derived(name="row", with_types=True)
    filled = _by_the_database(table)
    source = sa.select(*filled.values(), *(rows.c[name] for name in names))
    return (
        postgresql.insert(table)
        .from_select([*filled, *names], source, include_defaults=False)
        .on_conflict_do_nothing()
        .returning(*(table.c[name] for name in returning))
    )


def _by_the_database(table: sa.Table) -> dict[str, Any]:
    return {"measured_at": now()} if "measured_at" in table.c else {}
