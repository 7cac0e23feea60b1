"""`tunefarm log export` and `tunefarm log import`: records as files."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.cli import options as shared
from coordinator.cli.log_tables import opened
from coordinator.cli.printable import printable
from protos.errors import BadRequest

if TYPE_CHECKING:
    from coordinator.tuning_log.exchange.report import ImportReport

PARQUET, METASCHEDULE = "parquet", "metaschedule"

_EXPORT_EPILOG = """\
examples:
  tunefarm log export records
  tunefarm log export records --model resnet18 --kind 7a750563
  tunefarm log export database --format metaschedule --model resnet18 -k 5
"""

_IMPORT_EPILOG = """\
examples:
  tunefarm log import records
  tunefarm log import database --format metaschedule

Doing it again adds nothing. What is damaged is named and left out.
"""


def add_export(verbs: Any) -> None:
    """Add `export`."""
    parser = verbs.add_parser(
        "export",
        help="write records as files: Parquet, or MetaSchedule's own database",
        description="Writes a folder with the records that fit; without filters, all of them.",
        epilog=_EXPORT_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="the folder to be made")
    parser.add_argument(
        "--format",
        choices=(PARQUET, METASCHEDULE),
        default=PARQUET,
        help="lossless, for analysis and other farms (parquet, the default), or the right "
        "candidates of one kind of device, for stock TVM (metaschedule)",
    )
    of = parser.add_mutually_exclusive_group()
    of.add_argument("--model", metavar="NAME", default="", help="the operators of this model")
    of.add_argument("--job", metavar="JOB", default="", help="the operators of this job")
    of.add_argument("--workload", metavar="KEY", default="", help="this workload, or its beginning")
    parser.add_argument(
        "--kind", metavar="KIND", default="", help="this kind of device, or its beginning"
    )
    parser.add_argument(
        "--cache",
        choices=("warm", "cold"),
        help="times with warm or with cold caches (default: both; with metaschedule, warm)",
    )
    parser.add_argument(
        "-k",
        "--best",
        type=shared.positive,
        metavar="N",
        help="the N fastest of each workload only (default: all)",
    )
    parser.add_argument(
        "--target",
        metavar="JSON",
        default="",
        help="with metaschedule: the target of a kind whose devices this log has not seen",
    )
    parser.add_argument("--force", action="store_true", help="replace an export that is there")
    _add_common(parser)
    parser.set_defaults(run=_export)


def add_import(verbs: Any) -> None:
    """Add `import`."""
    parser = verbs.add_parser(
        "import",
        help="read such files into the log",
        description="Adds the records of an export of another log, or of stock MetaSchedule.",
        epilog=_IMPORT_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "path", metavar="PATH", type=Path, help="the folder, or MetaSchedule's file of records"
    )
    parser.add_argument(
        "--format",
        choices=(PARQUET, METASCHEDULE),
        help="what the files are (default: as their names say)",
    )
    _add_common(parser)
    parser.set_defaults(run=_import)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object, no text")
    shared.add_log(parser)


def _export(options: argparse.Namespace) -> int:
    from coordinator.tuning_log.exchange.metaschedule_export import export_metaschedule
    from coordinator.tuning_log.exchange.parquet_export import export_parquet
    from coordinator.tuning_log.exchange.selection import Filters
    from coordinator.tuning_log.exchange.tvm_process import TvmProcess

    cold_cache = None if options.cache is None else options.cache == "cold"
    filters = Filters(
        options.model.removesuffix(".onnx"),
        options.job,
        options.workload,
        options.kind,
        cold_cache,
        options.best,
    )
    if options.target and options.format != METASCHEDULE:
        raise BadRequest("--target is for --format metaschedule only")
    with opened(options) as log, _progress("export") as progress:
        if options.format == PARQUET:
            report = export_parquet(log, options.folder, filters, options.force, progress)
        else:
            with TvmProcess() as process:
                report = export_metaschedule(
                    *(log, options.folder, filters, process),
                    *(options.target, options.force, progress),
                )
    if options.json:
        found = {"folder": str(report.folder), "records": report.records, "bytes": report.files}
        print(json.dumps(found))
    else:
        print(report.summary())
    return 0


def _import(options: argparse.Namespace) -> int:
    from coordinator.tuning_log.exchange.metaschedule_import import import_metaschedule
    from coordinator.tuning_log.exchange.parquet_import import import_parquet
    from coordinator.tuning_log.exchange.report import ImportReport
    from coordinator.tuning_log.exchange.tvm_process import TvmProcess

    read = import_parquet if _format_of(options) == PARQUET else import_metaschedule
    report = ImportReport()
    try:
        with (
            opened(options, must_exist=False) as log,
            TvmProcess() as process,
            _progress("import") as progress,
        ):
            read(log, options.path, shared.user_name(), report, process, progress)
    except BaseException:
        if report.imported:
            print(
                f"tunefarm: {report.summary()}; that is kept, and the same command goes on",
                file=sys.stderr,
            )
        raise
    _print_damages(report)
    if not report.readable:
        raise BadRequest(f"nothing in {options.path} could be read: {report.summary()}")
    print(_json_of(report) if options.json else report.summary())
    return 0


def _print_damages(report: ImportReport) -> None:
    for damage in report.damages:
        print(f"tunefarm: {printable(damage)}", file=sys.stderr)
    more = report.damaged - len(report.damages)
    if more:
        print(f"tunefarm: … and {more} more are damaged", file=sys.stderr)


def _json_of(report: ImportReport) -> str:
    found = {
        name: getattr(report, name)
        for name in (
            *("imported", "known", "damaged", "left_out", "workloads", "candidates"),
            "import_id",
        )
    }
    damages = [{"file": d.file, "row": d.row, "reason": d.reason} for d in report.damages]
    return json.dumps({**found, "damages": damages})


def _format_of(options: argparse.Namespace) -> str:
    """What is said, or what the names of the files say; raises BadRequest."""
    path: Path = options.path
    if not path.exists():
        raise BadRequest(f"no such file or folder: {path}")
    if options.format:
        if options.format == PARQUET and not path.is_dir():
            raise BadRequest(f"{path} is a file; give the folder of the export")
        return str(options.format)
    if not path.is_dir():
        if path.suffix == ".json":
            return METASCHEDULE
        raise BadRequest(f"{path} is a file; give the folder of the export")
    is_parquet = (path / "measurements.parquet").exists()
    is_stock = (path / "database_tuning_record.json").exists()
    if is_parquet == is_stock:
        what = "both kinds of export" if is_parquet else "no export"
        raise BadRequest(f"{path} holds {what}; say what to read with --format")
    return PARQUET if is_parquet else METASCHEDULE


@contextlib.contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), TextColumn("{task.percentage:.0f} %"))
    bar = Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
