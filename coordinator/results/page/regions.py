"""The section on who runs which operator best: the model's regions in our code and in engines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from coordinator.results.report import engine_title
from protos.records import MIXED, RegionResult

from .bars import Bar, bars
from .section import Column, ReportData, Section, Table, words

SHOWN = 12
"""Regions that the picture has bars for, those that take most."""

_TIMES = (
    "A bar is what the region takes inside of more that runs in the same: of our own code the "
    "times of its kernels, of an engine the region's time without its share of the way in and out, "
    "both scaled to the whole model. Beside the one that is chosen stands its share of the model. "
    "The table has the times with the way, too."
)


def regions(data: ReportData) -> Section | None:
    """Each region in everything that was timed for it; None if the model was not looked at so."""
    result = data.job.result
    if result is None or not result.regions:
        return None
    numbered = list(enumerate(result.regions, 1))
    shown = sorted(numbered, key=lambda item: -_least_ms(item[1]))[:SHOWN]
    total_ms = sum(map(_least_ms, result.regions))
    rows = [
        Bar(
            f"{index}. {engine_title(name)}",
            inner_ms,
            f"{inner_ms:.3f} ms{f', {_share(one, total_ms)}' if name == one.engine else ''}",
            chosen=name == one.engine,
        )
        for index, one in sorted(shown, key=lambda item: item[0])
        for name, inner_ms in inside_ms(one).items()
    ]
    return Section(
        "regions",
        "Operators in our code and in other engines",
        (_lead(result.regions, result.engine == MIXED),),
        (
            bars(
                "regions-picture",
                "Latency of the largest regions by engine",
                "; ".join(f"{row.label} {row.words}" for row in rows),
                "ms inside of more",
                rows,
            ),
        ),
        (_table(result.regions, total_ms),),
        (_TIMES,),
    )


def inside_ms(one: RegionResult) -> Mapping[str, float]:
    """What it takes inside of more; results of older versions have its times alone only."""
    return one.inner_ms or one.latency_ms


def _least_ms(one: RegionResult) -> float:
    """In what runs it in the placement."""
    return inside_ms(one).get(one.engine, 0.0)


def _share(one: RegionResult, total_ms: float) -> str:
    return f"{100 * _least_ms(one) / total_ms:.1f} %" if total_ms else "–"


def _lead(found: Sequence[RegionResult], packaged: bool) -> str:
    who = Counter(engine_title(one.engine) for one in found)
    said = " and ".join(f"{count} in {name}" for name, count in who.most_common())
    text = (
        f"The model was cut into {len(found)} regions, about one for each convolution or matrix "
        f"product, and each was timed in everything that runs it. By these times, with the ways "
        f"between engines, the model is best run with {said}."
    )
    if len(who) == 1:
        return text
    return f"{text} That mixture {'is packaged' if packaged else 'is not packaged'}."


def _table(found: Sequence[RegionResult], total_ms: float) -> Table:
    names = list(dict.fromkeys(name for one in found for name in one.latency_ms))
    columns = (
        words("region"),
        words("first operator"),
        words("last operator"),
        *(Column(f"{engine_title(name)} ms") for name in names),
        *(Column(f"{engine_title(name)} ms, with the way") for name in names),
        words("chosen"),
        Column("share of the model"),
    )
    rows = tuple(
        (
            str(index),
            one.first,
            one.last,
            *(_ms(inside_ms(one).get(name)) for name in names),
            *(_ms(one.latency_ms.get(name)) for name in names),
            engine_title(one.engine),
            _share(one, total_ms),
        )
        for index, one in enumerate(found, 1)
    )
    return Table("All regions", columns, rows, folded=len(found) > SHOWN)


def _ms(latency_ms: float | None) -> str:
    return "–" if latency_ms is None else f"{latency_ms:.3f}"
