"""What ``benchmarks.models`` found, in figures and tables (pure)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.model_packages import OwnShare
from benchmarks.result import table
from protos.median import median_interval
from protos.records import VariantResult

PACKAGE, OWN_ONLY, TORCH = "package", "own code", "torch.compile"
PEERS = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", TORCH: TORCH}
"""Variants that are no part of the farm, by what the table calls them."""

LIBRARIES = {"onednn": "oneDNN"}
"""Variants that run in a library by a program of the farm's: nobody has them without it, so they
are no peers, but a package may be one."""

EQUAL = 0.98
"""A ratio from here on counts as equal: a run can't tell them apart."""


@dataclass(frozen=True)
class Verdict:
    """One model: its variants by name, and what the job said.

    ``PACKAGE`` and ``OWN_ONLY`` are among the variants; either may be what another one is, too.
    """

    name: str
    engine: str
    trials: int
    share: OwnShare
    variants: Mapping[str, VariantResult] = field(repr=False)

    def latency_ms(self, variant: str) -> float | None:
        """Its median; None if it was not timed."""
        found = self.variants.get(variant)
        return None if found is None else found.latency_ms

    @property
    def best_peer_ms(self) -> float:
        """The fastest peer's median; raises RuntimeError if none was timed."""
        timed = [ms for peer in PEERS if (ms := self.latency_ms(peer)) is not None]
        if not timed:
            raise RuntimeError(f"{self.name}: no peer was timed: {self.failures}")
        return min(timed)

    def ratio(self, variant: str) -> float:
        """The best peer's time over this variant's; raises RuntimeError if it has none."""
        ms = self.latency_ms(variant)
        if ms is None:
            raise RuntimeError(f"{self.name}: the {variant} was not timed: {self.failures}")
        return self.best_peer_ms / ms

    @property
    def failures(self) -> list[str]:
        """What went wrong with which variant."""
        failed = (one for one in self.variants.values() if one.error)
        return list(dict.fromkeys(f"{one.name}: {one.error}" for one in failed))


def figures(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Over all models, then each one's ratios."""
    package = {verdict.name: verdict.ratio(PACKAGE) for verdict in verdicts}
    own = {verdict.name: verdict.ratio(OWN_ONLY) for verdict in verdicts}
    return {
        "latency_ratio_min": min(package.values()),
        "latency_ratio_geomean": statistics.geometric_mean(package.values()),
        "at_least_equal": sum(ratio >= EQUAL for ratio in package.values()),
        "models": len(verdicts),
        "peers_failed": sum(len(verdict.failures) for verdict in verdicts),
        "own_only_ratio_min": min(own.values()),
        "own_only_ratio_geomean": statistics.geometric_mean(own.values()),
        "own_time_share": statistics.fmean(verdict.share.time for verdict in verdicts),
        "own_operator_share": statistics.fmean(verdict.share.operators for verdict in verdicts),
        **{f"latency_ratio_{name}": ratio for name, ratio in package.items()},
        **{f"own_only_ratio_{name}": ratio for name, ratio in own.items()},
    }


def times_table(verdicts: Sequence[Verdict]) -> str:
    """Median milliseconds with their 95 % intervals; a dash is what was not timed."""
    titles_of = {**PEERS, **LIBRARIES}
    columns = (PACKAGE, OWN_ONLY, *titles_of)
    rows = [
        (verdict.name, *(_time(verdict.variants.get(column)) for column in columns))
        for verdict in verdicts
    ]
    titles = [f"{titles_of.get(column, column)} ms" for column in columns]
    return table(("model", *titles), rows)


def ratios_table(verdicts: Sequence[Verdict]) -> str:
    """How it was tuned, what the package is, and how it compares with the best peer."""
    headings = ("model", "trials", "runs in", "own operators", "own time")
    rows = [
        (
            *(verdict.name, verdict.trials, verdict.engine),
            *(_percent(verdict.share.operators), _percent(verdict.share.time)),
            *(verdict.ratio(PACKAGE), verdict.ratio(OWN_ONLY)),
        )
        for verdict in verdicts
    ]
    return table((*headings, "latency ratio", "own only ratio"), rows)


def _time(result: VariantResult | None) -> str | None:
    if result is None or result.latency_ms is None:
        return None
    interval_s = median_interval(result.repeats_s)
    within = "" if interval_s is None else " [{:.3g} {:.3g}]".format(*(s * 1e3 for s in interval_s))
    return f"{result.latency_ms:.3g}{within}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
