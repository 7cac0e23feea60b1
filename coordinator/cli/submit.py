"""`tunefarm submit`: give a running farm a model."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from coordinator.cli import jobs
from coordinator.cli import options as shared
from coordinator.client import FarmClient
from protos.errors import BadRequest
from protos.plain_text import harmless
from protos.records import DeviceState, Priority, canonical_json

_EPILOG = """\
examples:
  tunefarm submit model.onnx --time-limit 30m            # for the device that is connected
  tunefarm submit model.onnx --device pi-rack3-07 --watch --out packages
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
        "--device", metavar="NAME", help="tune for this device's kind (default: the only one)"
    )
    which.add_argument("--target", metavar="JSON", help="tune for devices with exactly this target")
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
        spec = shared.job_spec(options, model, _target(farm, options))
        spec = replace(spec, priority=Priority[options.priority.upper()])
        job = farm.submit(spec, model)
        print(harmless(job.job_id), flush=True)
        if not options.watch:
            print(f"follow it: tunefarm jobs watch {harmless(job.job_id)}", file=sys.stderr)
            return 0
        return jobs.follow(farm, job.job_id, Path(options.out))


def _canonical(target_json: str) -> str:
    """The target as agents write it, so that spaces and the order of keys don't matter."""
    try:
        target = json.loads(target_json)
    except ValueError as error:
        raise BadRequest(
            f"the target is not valid JSON: {error}. Copy one from `tunefarm devices`, or name a "
            "device with --device"
        ) from error
    return canonical_json(target)


def _target(farm: FarmClient, options: argparse.Namespace) -> str:
    if options.target:
        return _canonical(options.target)
    devices = [s.device for s in farm.devices() if s.state is not DeviceState.GONE]
    if options.device:
        devices = [device for device in devices if device.name == options.device]
    targets = sorted({device.target_json for device in devices})
    if len(targets) == 1:
        return targets[0]
    if not targets:
        who = f"no device named {options.device!r} is" if options.device else "no device is"
        raise BadRequest(f"{who} connected; see `tunefarm devices`, start one: `tunefarm agent`")
    names = ", ".join(device.name for device in devices)
    raise BadRequest(f"devices of several kinds are connected; choose one with --device: {names}")
