"""`tunefarm submit`: give a running farm a model."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from coordinator.cli import jobs
from coordinator.cli import options as shared
from coordinator.client import FarmClient
from coordinator.parts import title
from protos.boards import canonical_target
from protos.errors import BadRequest
from protos.plain_text import harmless
from protos.records import DeviceState, Job, JobSpec, Priority
from protos.selectors import parse_condition

_EPILOG = """\
examples:
  tunefarm submit model.onnx --time-limit 30m            # for the device that is connected
  tunefarm submit model.onnx --device pi-rack3-07 --watch --out packages
  tunefarm submit model.onnx --device pi-rack3-07 --device 3fb1c2d4      # a result for each kind
  tunefarm submit model.onnx --where rack=3 --where 'price-per-hour<0.5'
  tunefarm submit model.onnx --device pi-rack3-07 --where name=pi-rack3-07 --exclusive
"""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "submit",
        help="give a running farm a model to tune",
        description="Submits a job to a coordinator and prints its id.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shared.add_job(parser)
    shared.add_coordinator(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--device",
        metavar="NAME|KIND",
        action="append",
        default=[],
        help="tune for this device's kind, or for a kind by its first digits, connected or not; "
        "repeatable: a result for each kind (default: the only kind that is connected)",
    )
    which.add_argument(
        "--target",
        metavar="BOARD|JSON",
        action="append",
        default=[],
        help="tune for devices with exactly this target, e.g. raspberry-pi/5-aarch64, connected or "
        "not; repeatable",
    )
    parser.add_argument(
        "--where",
        metavar="LABEL=VALUE",
        action="append",
        default=[],
        type=condition,
        help="only on devices with this label; also !=, and <, <=, >, >= for numbers (in quotes, "
        "or the shell takes < for its own); repeatable, all must hold. Beside labels: name, board, "
        "cores, emulated (yes or no). Without --device and --target: a result for each kind of "
        "device that matches",
    )
    parser.add_argument(
        "--exclusive",
        action="store_true",
        help="a device does no other job's work while it does this one's",
    )
    parser.add_argument(
        "--priority",
        choices=jobs.PRIORITIES,
        default=Priority.NORMAL.name.lower(),
        help="how much of the devices it gets where several jobs want them, each four times what "
        "the one before gets (default: normal)",
    )
    parser.add_argument("--watch", action="store_true", help="show progress until it has ended")
    jobs.add_out(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Submit, and watch if asked to."""
    model = shared.read_model(options.model)
    if options.watch:
        jobs.check_out(Path(options.out))
    with FarmClient(options.coordinator, shared.credentials(options)) as farm:
        spec = shared.job_spec(options, model, "")
        spec = replace(
            spec,
            priority=Priority[options.priority.upper()],
            where=tuple(options.where),
            exclusive=options.exclusive,
        )
        job = farm.submit(_for_devices(farm, options, spec), model)
        print(harmless(job.job_id), flush=True)
        _say(job)
        if not options.watch:
            print(f"follow it: tunefarm jobs watch {harmless(job.job_id)}", file=sys.stderr)
            return 0
        return jobs.follow(farm, job.job_id, Path(options.out))


def _say(job: Job) -> None:
    """The parts of a job, and what can't begin as nobody was ever seen who could do it."""
    for part in job.parts:
        print(f"a part of it is {harmless(title(part))}", file=sys.stderr)
    for one in job.parts or (job,):
        if one.stage:
            print(harmless(f"{one.job_id}: {one.stage}"), file=sys.stderr)


def condition(text: str) -> str:
    """A condition on a device, as it is."""
    try:
        parse_condition(text)
    except BadRequest as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _for_devices(farm: FarmClient, options: argparse.Namespace, spec: JobSpec) -> JobSpec:
    """With what says for which devices it is; the coordinator knows what that means."""
    targets = tuple(map(canonical_target, options.target))
    if len(targets) == 1:
        return replace(spec, target_json=targets[0])
    if targets or options.device or options.where:
        return replace(spec, targets=targets, devices=tuple(options.device))
    return replace(spec, target_json=_only_target(farm))


def _only_target(farm: FarmClient) -> str:
    devices = [s.device for s in farm.devices() if s.state is not DeviceState.GONE]
    targets = sorted({device.target_json for device in devices})
    if len(targets) == 1:
        return targets[0]
    if not targets:
        raise BadRequest(
            "no device is connected; see `tunefarm devices`, start one: `tunefarm agent`"
        )
    names = ", ".join(device.name for device in devices)
    raise BadRequest(f"devices of several kinds are connected; choose with --device: {names}")
