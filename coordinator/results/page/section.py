"""What a section of the page is made of: values, no HTML but that of the pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from markupsafe import Markup

from protos.records import DeviceLimits, History, Job, JobMeasurements


@dataclass(frozen=True)
class ReportData:
    """What is known of a job, and of each of its parts.

    ``source`` says where that was asked, for people; ``limits`` are None where those of the job's
    kind of device are not known.
    """

    job: Job
    source: str
    history: History
    limits: DeviceLimits | None = None
    parts: tuple[ReportData, ...] = ()

    @classmethod
    def of(cls, job: Job, source: str, measured: Callable[[Job], JobMeasurements]) -> ReportData:
        """``measured`` says what was measured for a job."""
        found = measured(job)
        parts = tuple(cls.of(part, source, measured) for part in job.parts)
        return cls(job, source, found.history, found.limits, parts)


@dataclass(frozen=True)
class Column:
    """A column of a table; numbers are aligned to the right."""

    heading: str
    numbers: bool = True


@dataclass(frozen=True)
class Table:
    """Rows of text under headings; ``marked`` are the rows that stand out."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: frozenset[int] = frozenset()
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the page: what is to be seen, in a sentence or two, then pictures, then tables."""

    key: str
    title: str
    words: tuple[str, ...] = ()
    pictures: tuple[Markup, ...] = field(default=(), repr=False)
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()


def words(heading: str) -> Column:
    """A column of text."""
    return Column(heading, numbers=False)
