"""`tunefarm log stats` and `top`: how much is in the log, and the best of it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from coordinator.cli import options as shared
from coordinator.cli.log_tables import (
    add_row,
    cache,
    counted,
    moment,
    opened,
    print_json,
    ratio,
    say,
    show,
    size,
    table,
    us,
)
from protos.errors import BadRequest

if TYPE_CHECKING:
    from coordinator.tuning_log.browse import TopModel, TopWorkload
    from coordinator.tuning_log.stats import LogStats

_TOP_EPILOG = """\
examples:
  tunefarm log top mobilenet_v2               # the operators of the newest job of that model
  tunefarm log top j-1a2b3c4d --kind 7a75
  tunefarm log top 6d0c9a41 -k 5              # the fastest candidates of a workload
  tunefarm log top mobilenet_v2 --json > best.json
"""


def add_browse(verbs: Any) -> None:
    """Add `stats` and `top`."""
    stats = verbs.add_parser(
        "stats",
        help="how much is in the log",
        description="Counts what the log holds, and what was measured on each kind of device.",
    )
    stats.set_defaults(run=_stats)
    top = verbs.add_parser(
        "top",
        help="the best of a workload, or of each operator of a model",
        description="The fastest candidates of a workload, or the best of each task of a model's "
        "newest job, on each kind of device.",
        epilog=_TOP_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument(
        "what",
        metavar="WORKLOAD|MODEL",
        help="a workload's key, a model's name or SHA-256, or a job's id; of a key its first six "
        "digits or more",
    )
    top.add_argument(
        "-k", type=shared.positive, default=10, metavar="N", help="of a workload (default: 10)"
    )
    top.add_argument(
        "--kind", default="", metavar="KIND", help="on this kind of device only, or what begins so"
    )
    top.set_defaults(run=_top)
    for verb in (stats, top):
        verb.add_argument("--json", action="store_true", help="print JSON on one line")
        shared.add_log(verb)


def _stats(options: argparse.Namespace) -> int:
    from coordinator.tuning_log import display_url
    from coordinator.tuning_log.stats import stats

    with opened(options) as log:
        with log.reading() as connection:
            found = stats(connection)
        if options.json:
            return print_json({"log": display_url(log.url), **vars(found)})
        say(f"the tuning log {display_url(log.url)}")
    _print_stats(found)
    return 0


def _print_stats(found: LogStats) -> None:
    jobs, measured = found.jobs, found.measurements
    counts = table("", "")
    for name, value in (
        ("jobs", f"{sum(jobs.values()):,}: {counted(sorted(jobs.items()))}"),
        ("models", f"{found.models:,}"),
        ("workloads", f"{found.workloads:,}"),
        ("candidates", f"{found.candidates:,}"),
        ("measurements", f"{sum(measured.values()):,}: {counted(sorted(measured.items()))}"),
        ("cost models", f"{found.cost_models:,}"),
        ("packages", f"{found.packages:,}"),
        ("files", f"{found.files:,} of models and packages, {size(found.file_bytes)}"),
    ):
        add_row(counts, name, value)
    show(counts)
    rows = table(
        *("kind", "CPU", "devices", "measurements", "failed", "first", "last", "device time")
    )
    for one in found.kinds:
        add_row(
            rows,
            one.kind,
            ", ".join(one.cpu_models),
            one.devices,
            f"{one.measurements:,}",
            f"{100 * one.failed / one.measurements:.1f} %",
            moment(one.first_at),
            moment(one.last_at),
            f"{one.device_s / 3600:.2f} h",
        )
    say("")
    if found.kinds:
        show(rows)
    else:
        say("nothing was measured yet; tune a model: tunefarm tune MODEL.onnx")


def _top(options: argparse.Namespace) -> int:
    from coordinator.tuning_log.browse import top_job, top_model, top_workload
    from coordinator.tuning_log.naming import device_kind, find

    with opened(options) as log, log.reading() as connection:
        named = find(connection, options.what)
        kind = device_kind(connection, options.kind) if options.kind else ""
        if named.what == "workload":
            best = top_workload(connection, named.key, options.k, kind)
            return print_json(best) if options.json else _print_workload(best)
        if named.what not in ("model", "job"):
            raise BadRequest(
                f"{options.what!r} is a {named.what}: top is of a workload, a model or a job; see "
                f"tunefarm log show {options.what}"
            )
        find_tasks = top_model if named.what == "model" else top_job
        models = find_tasks(connection, named.key, kind)
    return print_json(models) if options.json else _print_models(models)


def _print_workload(best: Sequence[TopWorkload]) -> int:
    for one in best:
        untuned = f"{us(one.untuned_us)} µs" if one.untuned_us else "not measured"
        say(
            f"workload {one.workload_key} on kind {one.device_kind}, caches {cache(one.cold_cache)}"
        )
        say(f"untuned: {untuned}")
        rows = table("latency µs", "over untuned", "finals", "right", "last measured", "candidate")
        for found in one.candidates:
            add_row(
                rows,
                us(found.latency_us),
                ratio(found.over_untuned),
                "yes" if found.final else "no",
                found.right,
                moment(found.measured_at),
                _marked(found.candidate_key, untuned=found.untuned, imported=found.imported),
            )
        show(rows)
    if not best:
        say("no candidate of this workload was measured and right")
    return 0


def _marked(key: str | None, **marks: bool) -> str:
    """A candidate with what is to be known of it."""
    words = ", ".join(word for word, so in marks.items() if so)
    return f"{key or ''}{f' ({words})' if words else ''}"


def _print_models(models: Sequence[TopModel]) -> int:
    for one in models:
        say(
            f"{one.model_name}, job {one.job_id}, on kind {one.device_kind}, caches "
            f"{cache(one.cold_cache)}"
        )
        rows = table(
            *("task", "runs", "untuned µs", "best µs", "speed-up", "share", "workload"),
            "candidate",
        )
        for task in one.tasks:
            add_row(
                rows,
                task.name,
                task.weight,
                us(task.untuned_us),
                us(task.best_us),
                ratio(task.speed_up),
                "–" if task.share is None else f"{100 * task.share:.1f} %",
                task.workload_key,
                _marked(task.candidate_key, imported=task.imported),
            )
        show(rows)
    if not models:
        say("none of its tasks was measured and right")
    return 0
