"""The tuning log: every job, candidate and measurement, in SQLite or PostgreSQL.

The only sub-package that imports SQLAlchemy and Alembic; the others meet it as ``TuningLog``.
"""

from .cost_models import RankingRecord
from .measurements import BestRecord, Outcome
from .store import TuningLog
from .urls import default_url, display_url, normalise_url
from .values import tool_versions_key

__all__ = [
    "BestRecord",
    "Outcome",
    "RankingRecord",
    "TuningLog",
    "default_url",
    "display_url",
    "normalise_url",
    "tool_versions_key",
]
