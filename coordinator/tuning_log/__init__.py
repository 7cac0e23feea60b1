"""The tuning log: every job, candidate and measurement, in SQLite or PostgreSQL.

The only sub-package that imports SQLAlchemy and Alembic; the others meet it as ``TuningLog``.
"""

from .cost_models import RankingRecord
from .evidence import Evidence, is_final, turns_s
from .measurements import BestRecord, Outcome
from .store import TuningLog
from .urls import default_url, display_url, normalise_url, sqlite_file
from .values import tool_versions_key

__all__ = [
    "BestRecord",
    "Evidence",
    "Outcome",
    "RankingRecord",
    "TuningLog",
    "default_url",
    "display_url",
    "is_final",
    "normalise_url",
    "sqlite_file",
    "tool_versions_key",
    "turns_s",
]
