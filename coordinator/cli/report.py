"""`tunefarm report`: what a job achieved, as text, as JSON or as a page with pictures."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.cli import options as shared
from coordinator.cli.jobs import headline
from coordinator.client import FarmClient
from coordinator.job_measurements import measurements_of
from coordinator.results.whole_report import whole_json, whole_text
from protos.errors import BadRequest, NotFound

if TYPE_CHECKING:
    from coordinator.results.page.section import ReportData

LATEST = "latest"

_EPILOG = """\
examples:
  tunefarm report latest --html report.html
  tunefarm report j-1a2b3c4d --log postgresql://farm@db.example/log --html report.html
  tunefarm report latest --json > job.json

The page is one file that needs no network.
"""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "report",
        help="what a job achieved: text, JSON, or a page with pictures",
        description="Prints the report of a job and, with --html, writes it as one HTML page.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("job", metavar="JOB", help=f"a job's id, or {LATEST!r}: the newest")
    add_html(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object, no text")
    shared.add_source(parser)
    parser.set_defaults(run=run)


def add_html(parser: argparse.ArgumentParser) -> None:
    """`--html`."""
    parser.add_argument(
        "--html",
        metavar="FILE",
        type=Path,
        help="write the report as one HTML page with pictures, which needs no network",
    )


def check_html(path: Path | None) -> None:
    """Raises BadRequest, before any work is done for nothing, if the page can't be written."""
    if path is None:
        return
    what = ""
    if path.is_dir():
        what = "is a folder"
    elif path.exists() and not path.is_file():
        what = "is no plain file and would be replaced"
    elif not path.absolute().parent.is_dir():
        what = "is in a folder that does not exist"
    if what:
        raise BadRequest(f"--html {path} {what}; give a file in a folder that is there")


def run(options: argparse.Namespace) -> int:
    """Print the report, and write the page if one is wanted."""
    check_html(options.html)
    if options.coordinator:
        data = report_of_coordinator(options.coordinator, options.job, shared.credentials(options))
    else:
        data = _of_log(options)
    if options.json:
        print(json.dumps(_json(data)))
    else:
        print(headline(data.job))
        print(whole_text(data.job, {}, data.source))
    if options.html is not None:
        write_page(options.html, data)
    return 0


def _json(data: ReportData) -> dict[str, Any]:
    from coordinator.results.curve import tuning_json

    found = whole_json(data.job, {}, data.source)
    if not data.parts:
        return {**found, "tuning": tuning_json(data.job.tasks, data.history)}
    parts = zip(found["parts"], data.parts, strict=True)
    tuned = [{**one, "tuning": tuning_json(part.job.tasks, part.history)} for one, part in parts]
    return {**found, "parts": tuned}


def write_page(path: Path, data: ReportData) -> None:
    """Write the page and say where; raises BadRequest if it can't be written."""
    from coordinator.results.html_report import html_report

    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(html_report(data, time.time()), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise BadRequest(
            f"--html {path} can't be written: {error.strerror}. Nothing is lost: give another file "
            f"to `tunefarm report {data.job.job_id} --html`"
        ) from error
    print(f"the report with pictures is {path.resolve()}", file=sys.stderr)


def report_of_log(url: str, job_id: str) -> ReportData:
    """All that the log at this URL knows of a job, or of the newest; raises NotFound."""
    from coordinator.results.page.section import ReportData
    from coordinator.tuning_log import TuningLog, display_url

    log = TuningLog.open(url)
    try:
        if job_id == LATEST:
            newest = log.jobs(limit=1)
            if not newest:
                raise _no_job(f"the tuning log {display_url(log.url)}")
            job_id = newest[0].job_id
        return ReportData.of(
            log.job(job_id), display_url(log.url), lambda one: measurements_of(log, one)
        )
    finally:
        log.close()


def _of_log(options: argparse.Namespace) -> ReportData:
    from coordinator.tuning_log import default_url, display_url, normalise_url, sqlite_file

    url = normalise_url(options.log) if options.log else default_url()
    file = sqlite_file(url)
    if file is not None and not file.exists():
        raise NotFound(f"there is no tuning log {display_url(url)}; name another one with --log")
    return report_of_log(url, options.job)


def report_of_coordinator(address: str, job_id: str, credentials: Path | None = None) -> ReportData:
    """The same from the coordinator at this address; raises NotFound or Unavailable."""
    from coordinator.results.page.section import ReportData

    source = f"the coordinator at {address}"
    with FarmClient(address, credentials) as farm:
        if job_id == LATEST:
            newest = farm.jobs(limit=1)
            if not newest:
                raise _no_job(source)
            job_id = newest[0].job_id
        return ReportData.of(farm.job(job_id), source, lambda one: farm.measurements(one.job_id))


def _no_job(where: str) -> NotFound:
    return NotFound(f"{where} has no job yet; make one: tunefarm tune MODEL.onnx")
