"""Trained cost models, and how well they ordered each batch before it was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from .database import insert
from .schema import cost_models, now, rankings
from .values import finite, from_json, or_nan, to_json


@dataclass(frozen=True)
class RankingRecord:
    """How well one batch was ordered; NaN where its measurements say nothing about it."""

    workload_key: str
    cost_model_version: int | None
    pairwise: float
    peak_at_1: float
    peak_at_5: float
    candidates: int


@dataclass(frozen=True)
class CostModelRecord:
    """A model that was trained: whether it was promoted, and by which scores."""

    version: int
    promoted: bool
    trained_on: int
    scores: Mapping[str, float]
    trained_at: float


def add(
    connection: sa.Connection,
    device_kind: str,
    model_text: str | None,
    trained_on: int,
    scores: Mapping[str, float],
) -> int:
    """Keep a model, or of one that was refused (None) its scores; returns its version, which
    grows."""
    statement = insert(connection, cost_models).values(
        device_kind=device_kind,
        model_text=model_text or "",
        promoted=model_text is not None,
        trained_on=trained_on,
        scores_json=to_json(scores),
        trained_at=now(),
    )
    return int(connection.execute(statement.returning(cost_models.c.version)).scalar_one())


def latest(connection: sa.Connection, device_kind: str) -> tuple[int, str] | None:
    """Version and text of the newest promoted model for a kind of device."""
    c = cost_models.c
    query = sa.select(c.version, c.model_text).where(
        c.device_kind == device_kind, c.promoted.is_(sa.true())
    )
    row = connection.execute(query.order_by(c.version.desc()).limit(1)).first()
    return None if row is None else (row.version, row.model_text)


def trained(connection: sa.Connection, device_kind: str) -> list[CostModelRecord]:
    """Every model of a kind of device, oldest first."""
    query = sa.select(cost_models).where(cost_models.c.device_kind == device_kind)
    return [
        CostModelRecord(
            version=row.version,
            promoted=row.promoted,
            trained_on=row.trained_on,
            scores=from_json(Mapping[str, float], row.scores_json),  # type: ignore[type-abstract]
            trained_at=row.trained_at,
        )
        for row in connection.execute(query.order_by(cost_models.c.version))
    ]


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
