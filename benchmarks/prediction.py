"""How well latencies are predicted: each finished model of a log as if it had never been tuned.

``python -m benchmarks.prediction --log LOG [--device NAME]`` takes a model out of what the log
knows, with every operator that only it has, predicts its latency from its ONNX file, and prints the
ratio to what was measured, and whether the interval holds it: a table in Markdown
(docs/prediction.md has one).
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from coordinator.prediction.devices import choose_device
from coordinator.prediction.graph import read_operators
from coordinator.prediction.predictor import COVERAGE, Interval, Known, Parts, Predictor
from coordinator.prediction.service import Evidence, evidence_of
from coordinator.tuning_log import TuningLog
from protos.records import Job


@dataclass(frozen=True)
class Row:
    """One model that was left out: predicted, measured, and how its operators were found."""

    job: Job
    predicted: Interval
    measured_ms: float
    operators: int
    known: int
    took_s: float

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.predicted.latency_ms / self.measured_ms

    @property
    def held(self) -> bool:
        """Whether the interval holds what was measured."""
        return self.predicted.low_ms <= self.measured_ms <= self.predicted.high_ms


def left_out(log: TuningLog, evidence: Evidence) -> list[Row]:
    """Every finished model, predicted by what is known without it."""
    rows = []
    for job, finished in zip(evidence.jobs, evidence.finished, strict=True):
        known = _without(evidence.known, finished.model_sha256)
        others = [one for one in evidence.finished if one.model_sha256 != finished.model_sha256]
        predictor = Predictor.train(known, others)
        model = log.get_blob(finished.model_sha256)
        started = time.monotonic()
        times = predictor.times.of(read_operators(model, job.spec.shapes))
        interval = predictor.calibration.interval(Parts.of(times))
        took_s = time.monotonic() - started
        seen = sum(one.known for one in times)
        rows.append(Row(job, interval, finished.latency_ms, len(times), seen, took_s))
    return rows


def _without(known: Sequence[Known], model_sha256: str) -> list[Known]:
    """What would be known if this model had never been tuned."""
    return [
        replace(one, models=one.models - {model_sha256})
        for one in known
        if one.models != {model_sha256}
    ]


def _print(rows: Sequence[Row]) -> None:
    print("| model | predicted ms | interval | measured ms | ratio | inside | known | took s |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        p = row.predicted
        print(
            f"| {row.job.spec.model_name} | {p.latency_ms:.2f} | {p.low_ms:.2f} to {p.high_ms:.2f} "
            f"| {row.measured_ms:.2f} | {row.ratio:.2f} | {'yes' if row.held else 'no'} "
            f"| {row.known} of {row.operators} | {row.took_s:.2f} |"
        )
    squares = math.fsum(math.log(row.ratio) ** 2 for row in rows)
    held = sum(row.held for row in rows)
    print(
        f"\n{held} of {len(rows)} inside of their interval of {100 * COVERAGE:.0f} %; off by "
        f"{100 * math.expm1(math.sqrt(squares / len(rows))):.0f} % (root of the mean square)"
    )


def main() -> int:
    """Print the table; returns the process's exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prediction", description=__doc__)
    parser.add_argument("--log", required=True, help="the tuning log")
    parser.add_argument("--device", default="", help="a device or kind (default: the only kind)")
    options = parser.parse_args()
    log = TuningLog.open(options.log)
    try:
        evidence = evidence_of(log, choose_device(log.devices(), options.device))
        rows = left_out(log, evidence)
    finally:
        log.close()
    if len(rows) < 2:
        print("fewer than two models are finished: nothing can be left out", file=sys.stderr)
        return 1
    _print(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
