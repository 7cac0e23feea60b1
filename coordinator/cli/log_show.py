"""`tunefarm log show`: all that the log keeps about one thing."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from coordinator.cli import options as shared
from coordinator.cli.log_tables import add_row, moment, opened, print_json, say, show, table
from protos.errors import BadRequest

if TYPE_CHECKING:
    from coordinator.tuning_log.entries import Entry

_SHOWN_TEXT = 50_000
"""Characters of the longest text that people are shown."""

_OF_MEASUREMENTS = (
    *("id", "measured_at", "device_kind", "device", "status", "latency_us", "job_id", "import_id"),
    *("cold_cache", "error"),
)
"""What people are shown of a candidate's measurements in a line; `show m123` has the rest."""

_EPILOG = """\
examples:
  tunefarm log show j-1a2b3c4d
  tunefarm log show 6d0c9a41 --code           # a workload, with its program
  tunefarm log show m4711                     # a measurement
  tunefarm log show v12                       # a cost model
"""


def add_show(verbs: Any) -> None:
    """Add `show`."""
    parser = verbs.add_parser(
        "show",
        help="all that the log keeps about one thing",
        description="Shows a job, workload, candidate, measurement, device or cost model.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "what",
        metavar="ID",
        help="a job's id, a device's name, a key or its first six digits or more, m123 for a "
        "measurement, v12 for a cost model",
    )
    parser.add_argument(
        "--code", action="store_true", help="a workload's program as well; loads the compiler"
    )
    parser.set_defaults(run=_show)
    parser.add_argument("--json", action="store_true", help="print JSON on one line")
    shared.add_log(parser)


def _show(options: argparse.Namespace) -> int:
    from coordinator.tuning_log.entries import entry, workload_json
    from coordinator.tuning_log.naming import find

    code = None
    with opened(options) as log, log.reading() as connection:
        found = entry(connection, find(connection, options.what))
        if options.code:
            code = workload_json(connection, _workload_of(found))
    texts = dict(found.texts)
    if code is not None:
        from coordinator.frontend.program_text import program_text

        texts["program"] = program_text(code)
    if options.json:
        shown = {**vars(found), "texts": texts}
        return print_json(shown)
    _print_entry(found, texts)
    return 0


def _workload_of(found: Entry) -> str:
    if found.what == "workload":
        return found.key
    if "workload_key" not in found.fields:
        raise BadRequest(f"a {found.what} has no program; leave out --code, or name a workload")
    return str(found.fields["workload_key"])


def _print_entry(found: Entry, texts: Mapping[str, str]) -> None:
    say(f"{found.what} {found.key}")
    fields = table("", "")
    for name, value in found.fields.items():
        if value is not None:
            add_row(fields, name, _value(name, value))
    show(fields)
    for name, rows in found.parts.items():
        if rows:
            say(f"\n{name}")
            columns = [
                key
                for key in dict.fromkeys(key for row in rows for key in row)
                if any(row.get(key) is not None for row in rows)
                and (name != "measurements" or key in _OF_MEASUREMENTS)
            ]
            listed = table(*columns)
            for row in rows:
                add_row(listed, *(_value(key, row.get(key)) for key in columns))
            show(listed)
    for name, text in texts.items():
        long = f"({len(text):,} characters: --json has them)"
        say(f"\n{name}\n{text if len(text) <= _SHOWN_TEXT else long}")


def _value(name: str, value: Any) -> object:
    """Times as such, and what was JSON as that."""
    if name.endswith("_at") and isinstance(value, float):
        return moment(value)
    if isinstance(value, dict | list):
        return json.dumps(value)
    return f"{value:.6g}" if isinstance(value, float) else value
