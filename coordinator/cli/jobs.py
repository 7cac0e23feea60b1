"""`tunefarm jobs`: list, show, watch, cancel, pause, resume, priority."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
from pathlib import Path
from typing import Any

from coordinator.cli import options as shared
from coordinator.client import FarmClient
from coordinator.parts import asked_for
from protos.errors import BadRequest
from protos.plain_text import harmless
from protos.records import Job, JobState, Priority, sha256_hex


def add_parser(commands: Any) -> None:
    """Add the group; `tunefarm jobs` alone lists."""
    parser = commands.add_parser(
        "jobs",
        help="list, show, watch, cancel or pause jobs, or change their priority",
        description="The jobs of a coordinator.",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")

    def add(name: str, what: str) -> Any:
        return verbs.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")

    listing = add("list", "the newest jobs")
    listing.add_argument("--limit", type=shared.positive, default=20, metavar="N")
    listing.add_argument("--project", metavar="NAME", default="", help="of this project only")
    show = add("show", "one job with every operator")
    show.add_argument("--json", action="store_true", help="as one JSON object")
    watch = add("watch", "progress until it has ended, then its package")
    add_out(watch)
    cancel = add("cancel", "stop a job; what was measured stays in the log")
    pause = add("pause", "stop a job until it is resumed; others get its devices")
    resume = add("resume", "let a paused job go on where it was")
    priority = add("priority", "how much of the devices a job gets where several want them")
    for verb in (show, watch, cancel, pause, resume, priority):
        verb.add_argument("job", metavar="JOB", help="the id that `tunefarm submit` printed")
    priority.add_argument(
        "priority", choices=PRIORITIES, help="each gets four times the one before"
    )
    for verb, function in (
        (listing, _list),
        (show, _show),
        (watch, _watch),
        (cancel, _cancel),
        (pause, _pause),
        (resume, _resume),
        (priority, _priority),
    ):
        shared.add_coordinator(verb, inherited=True)
        verb.set_defaults(run=function)
    shared.add_coordinator(parser)
    parser.set_defaults(run=_list, limit=20, project="")


PRIORITIES = tuple(priority.name.lower() for priority in Priority)


def add_out(parser: argparse.ArgumentParser) -> None:
    """`--out`."""
    parser.add_argument(
        "--out",
        metavar="DIR",
        default="packages",
        help="where the package goes (default: packages)",
    )


def check_out(out: Path) -> None:
    """Make the folder for packages; raises BadRequest before any work is done for nothing."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadRequest(
            f"--out {out} can't be made: {error.strerror}; give another one"
        ) from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise BadRequest(f"--out {out} can't be written to; give another one")


def _list(options: argparse.Namespace) -> int:
    from coordinator.cli.tables import jobs_table

    with FarmClient(options.coordinator, shared.credentials(options)) as farm:
        jobs_table(farm.jobs(options.limit, options.project))
    return 0


def _show(options: argparse.Namespace) -> int:
    from coordinator.results.whole_report import whole_json, whole_text

    with FarmClient(options.coordinator, shared.credentials(options)) as farm:
        job = farm.job(options.job)
    if options.json:
        print(json.dumps(whole_json(job, {}, f"coordinator {options.coordinator}")))
    else:
        print(headline(job))
        print(whole_text(job, {}, f"of the coordinator at {options.coordinator}"))
    return 0


def headline(job: Job) -> str:
    """A line or two about a job."""
    submitted = datetime.datetime.fromtimestamp(job.submitted_at).isoformat(" ", "seconds")
    line = f"{job.job_id}  {job.spec.model_name}  {job.state.name.lower()}  submitted {submitted}"
    asked = asked_for(job.spec)
    line += f"  for {asked}" if asked else ""
    return harmless(f"{line}\n{job.error}" if job.error else line)


def _watch(options: argparse.Namespace) -> int:
    check_out(Path(options.out))
    with FarmClient(options.coordinator, shared.credentials(options)) as farm:
        return follow(farm, options.job, Path(options.out))


def follow(farm: FarmClient, job_id: str, out: Path) -> int:
    """Show a job until it has ended, then save its package and print the report. Of a job with
    parts, each part's package is saved in a folder of its own, whatever became of the others."""
    from coordinator.cli.progress import Progress
    from coordinator.results.whole_report import whole_text

    with Progress() as progress:
        for job in farm.watch(job_id):
            progress.update(job)
    paths = {
        one.job_id: str(save_package(_folder(out, one), one, farm.package(one.job_id)).resolve())
        for one in job.parts or (job,)
        if one.state is JobState.DONE
    }
    done = job.state is JobState.DONE
    if not done:
        print(f"tunefarm: {headline(job)}", file=sys.stderr)
    if paths:
        print(whole_text(job, paths, f"of the coordinator at {farm.address}"))
    return 0 if done else 3


def _folder(out: Path, job: Job) -> Path:
    """Where a job's package goes: all parts' packages have the same name."""
    if not job.parent_id:
        return out
    kind = job.spec.devices[0] if job.spec.devices else sha256_hex(job.spec.target_json.encode())
    return out / kind[:8]


def save_package(out: Path, job: Job, data: bytes) -> Path:
    """Write a finished job's wheel under ``out``; raises BadRequest if it can't be written."""
    if job.result is None:
        raise BadRequest(f"job {job.job_id} has no package")
    name = Path(job.result.package_filename).name  # a name only, whatever the coordinator says
    try:
        out.mkdir(parents=True, exist_ok=True)
        partial = out / f".{name}.partial"
        partial.write_bytes(data)
        return partial.replace(out / name)
    except OSError as error:
        raise BadRequest(
            f"the package can't be written to {out}: {error.strerror}. It is kept in the tuning "
            "log: give another directory with --out and run the same command again"
        ) from error


def _cancel(options: argparse.Namespace) -> int:
    with FarmClient(options.coordinator, shared.credentials(options)) as farm:
        print(headline(farm.cancel(options.job)))
    return 0


def _pause(options: argparse.Namespace) -> int:
    with FarmClient(options.coordinator, shared.credentials(options)) as farm:
        print(headline(farm.pause(options.job)))
    print(f"it goes on with: tunefarm jobs resume {options.job}", file=sys.stderr)
    return 0


def _resume(options: argparse.Namespace) -> int:
    with FarmClient(options.coordinator, shared.credentials(options)) as farm:
        print(headline(farm.resume(options.job)))
    return 0


def _priority(options: argparse.Namespace) -> int:
    with FarmClient(options.coordinator, shared.credentials(options)) as farm:
        job = farm.set_priority(options.job, Priority[options.priority.upper()])
    priority = job.spec.priority.name.lower()
    print(harmless(f"{job.job_id}  {job.spec.model_name}  priority {priority}"))
    return 0
