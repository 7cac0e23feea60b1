"""What a job achieved: as text for people and as the object of ``tunefarm tune --json``."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from coordinator.results.efficiency import Efficiency, efficiencies
from protos.engines import ENGINES, engine
from protos.labels import labels_text
from protos.plain_text import indented, one_line
from protos.records import (
    MIXED,
    OWN,
    UNTUNED,
    EngineResult,
    Job,
    ModelResult,
    TaskProgress,
)

_WIDTH = 120
"""Columns of the report where no terminal says how wide it is."""

TIED = "≈"
"""Marks an operator whose winner could not be told from others."""

_FEW_OPERATORS = 5

_NAME_WIDTH = 42
"""Columns for an operator's name; the numbers get theirs first."""


@dataclass(frozen=True)
class OperatorRow:
    """One fused operator in the report; shares are of the summed kernel time of the model.

    ``interval_us`` is the 95 % interval of the tuned time, ``half_width_us`` how far it reaches
    from it at most, and ``tied`` how many others could not be told from the winner; None and 0
    without finals.
    """

    name: str
    weight: int
    untuned_us: float | None
    tuned_us: float | None
    share_before: float | None
    share_after: float | None
    trials: int
    half_width_us: float | None = None
    tied: int = 0
    interval_us: tuple[float, float] | None = None

    @property
    def speedup(self) -> float | None:
        """How many times faster; None where one of the two was not measured."""
        if self.untuned_us is None or not self.tuned_us:
            return None
        return self.untuned_us / self.tuned_us


def operator_rows(tasks: Iterable[TaskProgress]) -> list[OperatorRow]:
    """The operators, those first that take most of the untuned model."""
    tasks = list(tasks)
    before = sum(task.weight * (task.untuned_us or 0.0) for task in tasks)
    after = sum(task.weight * (final_us(task) or 0.0) for task in tasks)
    rows = [
        OperatorRow(
            name=task.name,
            weight=task.weight,
            untuned_us=task.untuned_us,
            tuned_us=final_us(task),
            share_before=_share(task.weight, task.untuned_us, before),
            share_after=_share(task.weight, final_us(task), after),
            trials=task.trials,
            half_width_us=_half_width_us(task),
            tied=task.tied,
            interval_us=_interval_us(task),
        )
        for task in tasks
    ]
    return sorted(rows, key=lambda row: (-(row.share_before or 0.0), row.name))


def final_us(task: TaskProgress) -> float | None:
    """What the package runs: the tuned kernel, or the untuned one where no trial was better."""
    known = [value for value in (task.tuned_us, task.untuned_us) if value is not None]
    return min(known) if known else None


def _interval_us(task: TaskProgress) -> tuple[float, float] | None:
    """The interval of what the package runs, if that is the tuned kernel and was in finals."""
    tuned, low, high = task.tuned_us, task.tuned_low_us, task.tuned_high_us
    if tuned is None or low is None or high is None or tuned != final_us(task):
        return None
    return low, high


def _half_width_us(task: TaskProgress) -> float | None:
    """How far the interval reaches from the median on its longer side."""
    interval, tuned = _interval_us(task), task.tuned_us
    if interval is None or tuned is None:
        return None
    return max(tuned - interval[0], interval[1] - tuned)


def _share(weight: int, latency_us: float | None, total_us: float) -> float | None:
    return None if latency_us is None or not total_us else weight * latency_us / total_us


def report_json(job: Job, package_path: str | None, log_url: str) -> dict[str, Any]:
    """The object that ``tunefarm tune --json`` prints; what was not measured is null."""
    result = job.result
    return {
        "job": job.job_id,
        "model": job.spec.model_name,
        "target": json.loads(job.spec.target_json) if job.spec.target_json else None,
        "cache": cache_policy(job),
        "trials": {
            "total": job.trials.total,
            "ok": job.trials.ok,
            "failed": job.trials.failed,
        },
        "tasks": [
            {
                "name": task.name,
                "workload": task.workload_key,
                "weight": task.weight,
                "untuned_us": task.untuned_us,
                "tuned_us": task.tuned_us,
                "tuned_low_us": task.tuned_low_us,
                "tuned_high_us": task.tuned_high_us,
                "tied": task.tied,
                "trials": task.trials,
            }
            for task in job.tasks
        ],
        "latency_ms": {
            "untuned": result.untuned_ms if result else None,
            "tuned": result.tuned_ms if result else None,
            "tuned_interval": _interval_ms(result),
            "packaged": result.packaged_ms if result else None,
            "mixed": result.mixed_ms if result else None,
            **{one.name: _engine_ms(result, one.name) for one in ENGINES},
        },
        "engine": result.engine if result else None,
        "regions": [asdict(one) for one in result.regions] if result else [],
        "left_to_engine": list(result.left_to_engine) if result else [],
        "engines": [asdict(one) for one in result.engines] if result else [],
        "threads": [asdict(one) for one in result.threads] if result else [],
        "outputs": [asdict(one) for one in result.outputs] if result else [],
        "weights_bytes": result.weights_bytes if result else None,
        "workspace_bytes": result.workspace_bytes if result else None,
        "labels": dict(result.labels) if result else {},
        "efficiency": [asdict(one) for one in efficiencies(result)] if result else [],
        "target_latency_ms": job.spec.target_latency_ms,
        "tuning_ended": job.tuning_ended or None,
        "max_abs_error": result.max_abs_error if result else None,
        "stage_s": dict(job.stage_s),
        "package": package_path,
        "log": log_url,
    }


def cache_policy(job: Job) -> str:
    """What the caches were when the job's times were taken: warm or cold."""
    return "cold" if job.spec.cold_cache else "warm"


def _interval_ms(result: ModelResult | None) -> list[float] | None:
    if result is None or result.tuned_low_ms is None or result.tuned_high_ms is None:
        return None
    return [result.tuned_low_ms, result.tuned_high_ms]


def report_text(
    job: Job, package_path: str | None, log_url: str, *, width: int = _WIDTH, color: bool = False
) -> str:
    """The report as text of ``width`` columns, with the terminal's colours if ``color``."""
    from rich.console import Console

    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=color,
        color_system="auto" if color else None,
    )
    console.print(_operator_table(job))
    for line in _summary(job, package_path, log_url):
        console.print(indented(line), markup=False, highlight=False, soft_wrap=True)
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def _operator_table(job: Job) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    title = Text(f"Fused operators of {one_line(job.spec.model_name)}")
    table = Table(title=title, box=box.SIMPLE_HEAD)
    table.add_column("operator", overflow="ellipsis", no_wrap=True, max_width=_NAME_WIDTH)
    for heading in _HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True, min_width=len(heading))
    for row in operator_rows(job.tasks):
        table.add_row(
            Text(one_line(row.name)),
            str(row.weight),
            _number(row.untuned_us),
            _number(row.tuned_us),
            _uncertainty(row),
            _times(row.speedup),
            _percent(row.share_before),
            _percent(row.share_after),
            str(row.trials),
        )
    return table


_HEADINGS = ("weight", "untuned µs", "tuned µs", "±", "speed-up", "before", "after", "trials")


def _uncertainty(row: OperatorRow) -> str:
    """The interval's half width, marked where the winner is one of a tie."""
    width = "" if row.half_width_us is None else f"{row.half_width_us:.1f}"
    return f"{width}{TIED if row.tied else ''}"


def _summary(job: Job, package_path: str | None, log_url: str) -> list[str]:
    trials, result = job.trials, job.result
    counts = f"{trials.ok} ok, {trials.failed} failed, {trials.from_log} answered from the log"
    lines = [f"trials       {trials.total} ({counts}) in {job.elapsed_s:.0f} s"]
    if job.tuning_ended:
        lines.append(f"ended        {job.tuning_ended}")
    if job.ranking is not None:
        ranking = job.ranking
        lines.append(
            f"cost model   pairwise {ranking.pairwise:.2f}, peak@1 {ranking.peak_at_1:.2f}, "
            f"peak@5 {ranking.peak_at_5:.2f} over {ranking.batches} batches"
        )
    if result is not None:
        faster = _times(result.untuned_ms / result.tuned_ms if result.tuned_ms else None)
        lines.append(
            f"whole model  untuned {result.untuned_ms:.3f} ms, tuned {result.tuned_ms:.3f} ms"
            f"{_within(result.tuned_low_ms, result.tuned_high_ms)} ({faster})"
        )
        lines += [f"engine       {_engine(one, result.tuned_ms)}" for one in result.engines]
        timed = {one.name for one in result.engines}
        lines += [
            f"engine       {one.title}: not on the device (pip install {one.distribution})"
            for one in ENGINES
            if one.name not in timed
        ]
        if result.regions:
            lines.append(f"regions      {_regions(result)}")
        if result.left_to_engine:
            lines.append(f"parts        {_parts(result.left_to_engine)}")
        lines.append(f"packaged     {_packaged(result)}")
        if job.spec.target_latency_ms is not None:
            lines.append(f"target       {_target(job, result, job.spec.target_latency_ms)}")
        if result.labels:
            lines.append(f"labels       {labels_text(result.labels)}")
        lines += [f"efficiency   {_efficiency(one)}" for one in efficiencies(result)]
        lines.append(
            f"difference   at most {result.max_abs_error:.2e} absolute, "
            f"{result.max_rel_error:.2e} relative to ONNX Runtime"
        )
    if any(task.tied for task in job.tasks):
        lines.append(f"{TIED}            a tie: others could not be told from the winner")
    lines.append(f"caches       {cache_policy(job)}")
    lines += [f"time         {seconds:6.1f} s {name}" for name, seconds in job.stage_s.items()]
    if package_path is not None:
        lines.append(f"package      {package_path}")
    lines.append(f"log          {log_url}")
    return lines


def _engine_ms(result: ModelResult | None, name: str) -> float | None:
    """The model's latency in an engine; None if it has none there."""
    engines = result.engines if result is not None else ()
    return next((one.latency_ms for one in engines if one.name == name), None)


def _engine(one: EngineResult, tuned_ms: float) -> str:
    """One engine's line: its time, and how the tuned model compares."""
    name = f"{engine_title(one.name)} {one.version}".rstrip()
    if one.latency_ms is None:
        return f"{name}: {one.error or 'not measured'}"
    ratio = f"{one.latency_ms / tuned_ms:.2f}×" if tuned_ms else "–"
    within = _within(one.low_ms, one.high_ms)
    differs = f"; it differs by {one.max_rel_error:.2e} of the range"
    return f"{name} {one.latency_ms:.3f} ms{within}; the tuned model is {ratio} as fast{differs}"


def _packaged(result: ModelResult) -> str:
    """What the package runs, and why."""
    peers = [one.latency_ms for one in result.engines if one.latency_ms is not None]
    if result.engine == MIXED:
        return f"a mixture, faster than the tuned model and any engine: {result.packaged_ms:.3f} ms"
    if result.engine == OWN:
        against = "no other engine was timed" if not peers else "no engine is faster"
        return f"the tuned model: {against}"
    return (
        f"{engine_title(result.engine)}, faster than the tuned model: {result.packaged_ms:.3f} ms"
    )


def _regions(result: ModelResult) -> str:
    """How many regions are best run where, and what the mixture of them takes."""
    counts = Counter(engine_title(one.engine) for one in result.regions)
    said = ", ".join(f"{count} best in {name}" for name, count in counts.most_common())
    text = f"{len(result.regions)} timed in everything that runs them: {said}"
    if len(counts) == 1:
        return text
    mixed = "not made, failed or wrong" if result.mixed_ms is None else f"{result.mixed_ms:.3f} ms"
    return f"{text}; that mixture: {mixed}"


def _parts(operators: Sequence[str]) -> str:
    """Which operators ONNX Runtime runs in the tuned model."""
    few = ", ".join(operators[:_FEW_OPERATORS])
    more = len(operators) - _FEW_OPERATORS
    shown = f"{few} and {more} more" if more > 0 else few
    return f"in the tuned model ONNX Runtime runs what can't be imported: {shown}"


def _target(job: Job, result: ModelResult, target_ms: float) -> str:
    """Whether the target latency was reached, and what is known if not."""
    if result.packaged_ms <= target_ms:
        return f"{target_ms:g} ms: reached, {result.packaged_ms:.3f} ms"
    missed = f"{target_ms:g} ms: not reached, {result.packaged_ms:.3f} ms"
    least_ms = arithmetic_ms(job.tasks)
    if least_ms is None:
        return missed
    if least_ms > target_ms:
        return (
            f"{missed}; it can't be: the arithmetic alone takes {least_ms:.3f} ms at the highest "
            "rate that any of the operators has reached on the device"
        )
    return f"{missed}; give it more trials or time, or tune for a faster device"


def _efficiency(one: Efficiency) -> str:
    """What an inference costs in one way to run the model."""
    return f"{way_title(one.name)}{', packaged' if one.packaged else ''}: {one}"


def arithmetic_ms(tasks: Iterable[TaskProgress]) -> float | None:
    """What the arithmetic of all operators takes at the highest rate that one of them reached."""
    tasks = list(tasks)
    rates = [task.flops / us for task in tasks if (us := final_us(task))]
    rate = max(rates, default=0.0)
    return sum(task.weight * task.flops for task in tasks) / rate / 1e3 if rate else None


def engine_title(name: str) -> str:
    """What people call an engine."""
    known = engine(name)
    return name if known is None else known.title


def way_title(name: str) -> str:
    """What people call a way to run the whole model, capitalised."""
    ours = {UNTUNED: "Untuned", OWN: "Tuned", MIXED: "Mixture"}
    return ours.get(name) or engine_title(name)


def _within(low_ms: float | None, high_ms: float | None) -> str:
    return "" if low_ms is None or high_ms is None else f" [{low_ms:.3f} to {high_ms:.3f}]"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _times(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}×"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
