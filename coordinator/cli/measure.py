"""`tunefarm measure`: a model's real latency on a device of a running farm."""

from __future__ import annotations

import argparse
import json
from typing import Any

from coordinator.cli import options as shared
from coordinator.cli import predict
from coordinator.farm import MEASURE_TRIALS, Farm
from protos.plain_text import harmless

_EPILOG = """\
examples:
  tunefarm measure model.onnx                            # on the device that is connected
  tunefarm measure model.onnx --device pi-rack3-07 --trials 1000
  tunefarm measure model.onnx --time-limit 2m --json

Submits the model with a small budget, waits, and prints the median latency of the package on the
device with its 95 % interval. More trials make it faster; what the tuning log knows counts and is
not measured again. Ctrl-C cancels the job. `tunefarm predict` needs no device and a second.
--json prints one object on standard output:
  {"model", "latency_ms", "low_ms", "high_ms", "engine", "job"}
"""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "measure",
        help="a model's real latency on a device of a running farm",
        description="Tunes a model with a small budget and times its package on the device.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    predict.add_question(parser)
    parser.add_argument(
        "--trials",
        type=shared.positive,
        default=MEASURE_TRIALS,
        metavar="N",
        help=f"stop after N candidates in all (default: {MEASURE_TRIALS})",
    )
    parser.add_argument(
        "--time-limit",
        type=shared.duration,
        metavar="TIME",
        help="stop tuning after this long (90s, 10m); importing and packaging come on top",
    )
    shared.add_coordinator(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure and print."""
    from coordinator.cli.progress import Progress

    shared.read_model(options.model)  # says what is wrong with it before the farm is asked
    shapes = {name: shape.dims for name, shape in options.shape}
    with Farm(options.coordinator, shared.credentials(options)) as farm, Progress() as progress:
        found = farm.measure(
            options.model,
            options.device,
            shapes,
            options.trials,
            options.time_limit,
            submitted_by=shared.user_name(),
            changed=progress.update,
        )
    name = options.model.stem
    if options.json:
        said = {"latency_ms": found.latency_ms, "low_ms": found.low_ms, "high_ms": found.high_ms}
        print(json.dumps({"model": name, **said, "engine": found.engine, "job": found.job_id}))
    else:
        said_of_it = (
            f"{name}: {found.latency_ms:.3f} ms (95 % interval {found.low_ms:.3f} to "
            f"{found.high_ms:.3f}), run by {found.engine}; job {found.job_id}\n"
            f"its package: tunefarm jobs watch {found.job_id}"
        )
        print(harmless(said_of_it))
    return 0
