"""MetaSchedule's own database: two files of JSON lines.

A line of the one is a workload, ``[structural hash, module in base 64]``; a line of the other is a
record, ``[number of the workload, [trace, run_secs, target, args_info]]``.
"""

from __future__ import annotations

from pathlib import Path

from protos.errors import BadRequest

WORKLOADS = "database_workload.json"
RECORDS = "database_tuning_record.json"


def files_of(path: Path) -> tuple[Path, Path]:
    """The files of workloads and of records; ``path`` is their folder or the latter.

    Raises BadRequest if one is missing.
    """
    if path.is_dir():
        workloads, records = path / WORKLOADS, path / RECORDS
    else:
        records = path
        workloads = path.with_name(path.name.replace("tuning_record", "workload"))
        if workloads == records:
            raise BadRequest(
                f"{path} is not named as MetaSchedule names its records, …tuning_record….json; "
                f"give a folder with {WORKLOADS} and {RECORDS}"
            )
    for file in (workloads, records):
        if not file.is_file():
            raise BadRequest(f"no such file: {file}")
    return workloads, records
