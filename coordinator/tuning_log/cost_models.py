"""Trained cost models, and how well they ordered each batch before it was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from .database import insert
from .schema import cost_models, now, rankings
from .values import finite, or_nan, to_json


@dataclass(frozen=True)
class RankingRecord:
    """How well one batch was ordered; NaN where its measurements say nothing about it."""

    workload_key: str
    cost_model_version: int | None
    pairwise: float
    peak_at_1: float
    peak_at_5: float
    candidates: int


def add(
    connection: sa.Connection,
    device_kind: str,
    model_text: str,
    trained_on: int,
    scores: Mapping[str, float],
) -> int:
    """Keep a model; returns its version, which grows."""
    statement = insert(connection, cost_models).values(
        device_kind=device_kind,
        model_text=model_text,
        trained_on=trained_on,
        scores_json=to_json(scores),
        trained_at=now(),
    )
    return int(connection.execute(statement.returning(cost_models.c.version)).scalar_one())


def latest(connection: sa.Connection, device_kind: str) -> tuple[int, str] | None:
    """Version and text of the newest model for a kind of device."""
    c = cost_models.c
    query = sa.select(c.version, c.model_text).where(c.device_kind == device_kind)
    row = connection.execute(query.order_by(c.version.desc()).limit(1)).first()
    return None if row is None else (row.version, row.model_text)


def add_ranking(connection: sa.Connection, job_id: str, ranking: RankingRecord) -> None:
    """Log a batch's ranking quality; ``cost_model_version`` is None where no model ordered it."""
    connection.execute(
        sa.insert(rankings).values(
            job_id=job_id,
            workload_key=ranking.workload_key,
            cost_model_version=ranking.cost_model_version,
            pairwise=finite(ranking.pairwise),
            peak_at_1=finite(ranking.peak_at_1),
            peak_at_5=finite(ranking.peak_at_5),
            candidates=ranking.candidates,
            ranked_at=now(),
        )
    )


def rankings_of(connection: sa.Connection, job_id: str) -> list[RankingRecord]:
    """A job's batches, oldest first."""
    query = sa.select(rankings).where(rankings.c.job_id == job_id).order_by(rankings.c.id)
    return [
        RankingRecord(
            workload_key=row.workload_key,
            cost_model_version=row.cost_model_version,
            pairwise=or_nan(row.pairwise),
            peak_at_1=or_nan(row.peak_at_1),
            peak_at_5=or_nan(row.peak_at_5),
            candidates=row.candidates,
        )
        for row in connection.execute(query)
    ]
