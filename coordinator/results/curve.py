"""How a job's operators became faster, trial by trial, and what that took of the devices (pure)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from protos.records import History, HistoryRecord, MeasurementStatus, TaskProgress


@dataclass(frozen=True)
class CurvePoint:
    """From here on the operators together took ``latency_us`` per inference.

    ``seconds`` count from the job's first measurement, ``trials`` are the candidates tried by then.
    """

    trials: int
    seconds: float
    latency_us: float


@dataclass(frozen=True)
class TuningCost:
    """What a job's measurements took: device time, and what became of its candidates.

    A candidate counts once: as OK if any of its measurements is, otherwise as the last of them.
    """

    device_s: float = 0.0
    measurements: int = 0
    trials: Mapping[MeasurementStatus, int] = field(default_factory=dict)
    devices: tuple[str, ...] = ()


def tuning_curve(tasks: Sequence[TaskProgress], history: History) -> tuple[CurvePoint, ...]:
    """The sum of the operators' best times so far, each times its weight, after each trial.

    It starts with what the log knew before the job, otherwise with the untuned programs. The points
    are the first, those where the sum falls, and the last; none if nothing was measured. An
    operator that was never timed is in none of them.
    """
    if not history.records:
        return ()
    weights = {task.workload_key: task.weight for task in tasks}
    best = _start(tasks_us=_untuned_us(tasks), history=history, keys=weights)
    started = history.records[0].measured_at
    tried: set[str] = set()
    points = [CurvePoint(0, 0.0, _sum_us(weights, best))]
    for record in history.records:
        if record.trial and record.status is not MeasurementStatus.SUSPECT:
            tried.add(record.candidate_key)
        known_us = best.get(record.workload_key)
        if known_us is not None and record.latency_us is not None and record.latency_us < known_us:
            best[record.workload_key] = record.latency_us
            seconds = record.measured_at - started
            points.append(CurvePoint(len(tried), seconds, _sum_us(weights, best)))
    last = history.records[-1].measured_at - started
    points.append(CurvePoint(len(tried), last, points[-1].latency_us))
    return tuple(points) if best else ()


def tuning_cost(history: History) -> TuningCost:
    """What the measurements of a job took."""
    outcome: dict[str, MeasurementStatus] = {}
    for record in history.records:
        if record.trial and outcome.get(record.candidate_key) is not MeasurementStatus.OK:
            outcome[record.candidate_key] = record.status
    counts = Counter(outcome.values())
    return TuningCost(
        device_s=sum(record.busy_s for record in history.records),
        measurements=sum(record.busy_s > 0 for record in history.records),
        trials={status: counts[status] for status in MeasurementStatus if status in counts},
        devices=tuple(sorted({record.device for record in history.records if record.device})),
    )


def tuning_json(tasks: Sequence[TaskProgress], history: History) -> dict[str, Any]:
    """How the operators became faster and what that took."""
    spent = tuning_cost(history)
    return {
        "device_s": spent.device_s,
        "measurements": spent.measurements,
        "devices": list(spent.devices),
        "trials_by_status": {status.name: count for status, count in spent.trials.items()},
        "curve": [asdict(point) for point in tuning_curve(tasks, history)],
    }


def _untuned_us(tasks: Iterable[TaskProgress]) -> dict[str, float]:
    return {task.workload_key: task.untuned_us for task in tasks if task.untuned_us is not None}


def _start(
    tasks_us: Mapping[str, float], history: History, keys: Iterable[str]
) -> dict[str, float]:
    """What each operator took before the first trial, as far as anything is known of it."""
    untuned: dict[str, float] = {}
    any_time: dict[str, float] = {}
    for record in history.records:
        if record.latency_us is not None:
            _first(any_time, record)
            if record.untuned:
                _first(untuned, record)
    sources = (history.best_before_us, untuned, tasks_us, any_time)
    found = {key: next((s[key] for s in sources if key in s), None) for key in keys}
    return {key: us for key, us in found.items() if us is not None}


def _first(known: dict[str, float], record: HistoryRecord) -> None:
    if record.latency_us is not None:
        known.setdefault(record.workload_key, record.latency_us)


def _sum_us(weights: Mapping[str, int], best: Mapping[str, float]) -> float:
    return sum(weights[key] * us for key, us in best.items())
