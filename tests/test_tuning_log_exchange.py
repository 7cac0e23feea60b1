"""Records of a tuning log as Parquet files: lossless, shared, damaged, interrupted."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
import tvm

from coordinator.cli.log_exchange import _print_damages
from coordinator.cli.main import main
from coordinator.frontend.workload import canonical_workload
from coordinator.tuning_log import TuningLog
from coordinator.tuning_log.exchange import parquet_export
from coordinator.tuning_log.exchange.columns import TABLES, from_ns, to_ns
from coordinator.tuning_log.exchange.folders import new_export
from coordinator.tuning_log.exchange.parquet_export import export_parquet
from coordinator.tuning_log.exchange.parquet_import import import_parquet
from coordinator.tuning_log.exchange.report import Damaged, ImportReport, no_progress
from coordinator.tuning_log.exchange.selection import Filters, select
from coordinator.tuning_log.exchange.tvm_process import TvmProcess
from coordinator.tuning_log.schema import imports, jobs, measurements, workloads
from protos.errors import BadRequest, NotFound
from protos.records import Candidate, MeasurementStatus, sha256_hex
from tests.exchange import KIND, answers, fill, operator, reordered, rows, untuned
from tests.kernels import FAULTS
from tests.test_tuning_log import failed, ok

pytest_plugins = ("tests.postgres",)

ALL = Filters()
ROWS = 6 + 9 + 1  # what ``fill`` records


@pytest.fixture
def here(tmp_path: Path) -> Iterator[TuningLog]:
    """A log that everything is in."""
    opened = TuningLog.open(str(tmp_path / "here.db"))
    fill(opened)
    yield opened
    opened.close()


@pytest.fixture
def there(tmp_path: Path) -> Iterator[TuningLog]:
    """Another farm's log."""
    opened = TuningLog.open(str(tmp_path / "there.db"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def process() -> Iterator[TvmProcess]:
    with TvmProcess() as opened:
        yield opened


def read(
    log: TuningLog,
    folder: Path,
    process: TvmProcess,
    progress: Callable[[int, int], None] = no_progress,
) -> ImportReport:
    report = ImportReport()
    import_parquet(log, folder, "ann", report, process, progress)
    return report


def table(path: Path, name: str) -> list[dict[str, Any]]:
    arrow = pq.read_table(path / f"{name}.parquet")
    for index, field in enumerate(arrow.schema):
        if pa.types.is_timestamp(field.type):
            arrow = arrow.set_column(index, field.name, arrow.column(index).cast(pa.int64()))
    found: list[dict[str, Any]] = arrow.to_pylist()
    return found


# ---------------------------------------------------------------------------------- lossless


def test_a_copy_answers_as_its_original_does(
    log: TuningLog, there: TuningLog, process: TvmProcess, tmp_path: Path
) -> None:
    fill(log)
    written = export_parquet(log, tmp_path / "out", ALL)
    assert written.records == {"measurements": ROWS, "candidates": 6, "workloads": 2}
    report = read(there, tmp_path / "out", process)
    assert (report.imported, report.known, report.damaged) == (ROWS, 0, 0)
    assert (report.workloads, report.candidates) == (2, 6)
    assert repr(answers(there)) == repr(answers(log))
    # No device of the other farm has run these bytes.
    sha256 = sha256_hex(untuned().key.encode())
    assert log.measured(KIND, sha256) is not None
    assert there.measured(KIND, sha256) is None
    assert rows(there) == rows(log)
    with there.reading() as connection:
        (row,) = connection.execute(sa.select(imports)).all()
        jobs = set(connection.scalars(sa.select(measurements.c.job_id)))
    assert (row.records, row.format, row.imported_by) == (ROWS, "parquet", "ann")
    assert row.source == str(tmp_path / "out")
    assert jobs == {None}
    assert there.devices() == []


def test_a_second_time_adds_nothing_anywhere(
    log: TuningLog, here: TuningLog, process: TvmProcess, tmp_path: Path
) -> None:
    export_parquet(here, tmp_path / "out", ALL)
    assert read(log, tmp_path / "out", process).imported == ROWS
    again = read(log, tmp_path / "out", process)
    assert (again.imported, again.known, again.damaged) == (0, ROWS, 0)
    own = read(here, tmp_path / "out", process)
    assert (own.imported, own.known, own.import_id) == (0, ROWS, None)
    export_parquet(log, tmp_path / "copy", ALL)
    back = read(here, tmp_path / "copy", process)
    assert (back.imported, back.known) == (0, ROWS)
    with log.reading() as connection:
        assert len(connection.execute(sa.select(imports)).all()) == 1


@pytest.mark.parametrize("seconds", [0.0, 1.5, 1795902428.64501, 1795902439.8029768, 1e9 + 1e-6])
def test_times_come_back_to_the_last_bit(seconds: float) -> None:
    assert from_ns(to_ns(seconds)) == seconds


def test_a_long_log_is_written_in_groups_and_read_in_batches(
    log: TuningLog, there: TuningLog, process: TvmProcess, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    job = fill(log)
    one = reordered()
    many = [(job, KIND, one, ok(one, f"many-{n}", 1e-3 + n * 1e-9), None) for n in range(2500)]
    log.record_many(many)
    monkeypatch.setattr(parquet_export, "ROW_GROUP_ROWS", 1000)
    export_parquet(log, tmp_path / "out", ALL)
    metadata = pq.read_metadata(tmp_path / "out" / "measurements.parquet")
    assert metadata.num_row_groups == 3
    assert metadata.row_group(0).column(0).compression == "ZSTD"

    def interrupt(done: int, total: int) -> None:
        assert total == ROWS + 2500
        if done == 2000:
            raise KeyboardInterrupt

    report = ImportReport()
    with pytest.raises(KeyboardInterrupt):
        import_parquet(there, tmp_path / "out", "ann", report, process, interrupt)
    assert report.imported == 2000
    assert len(rows(there)) == 2000
    rest = read(there, tmp_path / "out", process)
    assert (rest.imported, rest.known) == (ROWS + 500, 2000)
    assert rows(there) == rows(log)


# ---------------------------------------------------------------------------------- selection


def test_filters(log: TuningLog, tmp_path: Path) -> None:
    job = fill(log)
    other = log.add_job(log.job(job).spec, "here:1", embedded=True).job_id
    log.set_tasks(other, [operator(24)])
    log.record(job, "metaschedule-1", untuned(), ok(untuned(), "lease-k", 1.0))

    def written(**filters: Any) -> dict[str, int]:
        return export_parquet(log, tmp_path / "out", Filters(**filters), force=True).records

    assert written(model="small")["measurements"] == ROWS + 1
    few = written(job=other)
    assert (few["workloads"], few["candidates"], few["measurements"]) == (1, 3, 11)
    jobs = {row["job_id"] for row in table(tmp_path / "out", "jobs")}
    assert jobs == {job, other}
    assert written(workload=operator(16).workload_key[:8])["measurements"] == 6
    few = written(kind="meta")
    assert (few["workloads"], few["candidates"], few["measurements"]) == (1, 1, 1)
    assert table(tmp_path / "out", "devices") == []
    few = written(cold_cache=True)
    assert (few["workloads"], few["candidates"], few["measurements"]) == (1, 1, 1)
    few = written(best=1, kind=KIND)
    best = {row["lease_id"] for row in table(tmp_path / "out", "measurements")}
    assert best == {"lease-2", "lease-4", "lease-6"}
    assert (few["workloads"], few["candidates"]) == (2, 2)
    for unknown in ({"job": "j-1"}, {"model": "huge"}, {"workload": "77"}, {"kind": "x"}):
        with pytest.raises(NotFound):
            written(**unknown)


def test_nothing_is_overwritten_unasked_and_nothing_is_left_half(
    here: TuningLog, there: TuningLog, tmp_path: Path
) -> None:
    with pytest.raises(BadRequest, match="nothing was written"):
        export_parquet(there, tmp_path / "out", ALL)
    assert not (tmp_path / "out").exists()
    export_parquet(here, tmp_path / "out", ALL)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(BadRequest, match="--force"):
        export_parquet(here, tmp_path / "out", ALL)
    export_parquet(here, tmp_path / "out", Filters(best=1), force=True)
    assert len(table(tmp_path / "out", "measurements")) == 3
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"

    def interrupt(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_parquet(here, tmp_path / "new", ALL, progress=interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_parquet(here, tmp_path / "out", ALL, force=True, progress=interrupt)
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["out"]
    assert [p.name for p in (tmp_path / "out").iterdir() if p.is_dir()] == []
    with pytest.raises(BadRequest, match="is no folder"):
        export_parquet(here, tmp_path / "a" / "b", ALL)


def test_a_folder_that_is_there_is_written_within(tmp_path: Path) -> None:
    """It may be where a file system is mounted."""
    folder = tmp_path / "out"
    folder.mkdir()
    with new_export(folder, ["a"], force=False) as work:
        assert work.parent == folder
        (work / "a").write_text("1")
        other = new_export(folder, ["a"], force=True)
        with pytest.raises(BadRequest, match="can't be written"), other:
            pass
        assert work.is_dir(), "it is not that one's"
    assert [path.name for path in folder.iterdir()] == ["a"]


@pytest.mark.parametrize("filters", [Filters(kind=KIND), Filters(kind=KIND, cold_cache=False)])
def test_no_page_sorts_the_whole_kind_of_device(here: TuningLog, filters: Filters) -> None:
    plans = []

    def explain(connection: Any, _cursor: Any, statement: str, values: Any, *_others: Any) -> None:
        if "ORDER BY measurements.id" in statement and not statement.startswith("EXPLAIN"):
            plans.extend(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values))

    with here.reading() as connection:
        sa.event.listen(connection.engine, "before_cursor_execute", explain)
        condition = select(connection, filters).condition(by_id=True)
        pages = list(parquet_export._by_key(connection, "measurements", condition))
    assert sum(map(len, pages)) > 1
    here.samples_after(KIND, False, 1, 0, 10)
    here.newest_samples(KIND, False, 1, 10)
    assert len(plans) >= 4
    assert not [plan for plan in plans if "TEMP B-TREE" in plan[-1]]


# ---------------------------------------------------------------------------------- readers


def test_duckdb_and_pandas_read_the_files(here: TuningLog, tmp_path: Path) -> None:
    export_parquet(here, tmp_path / "out", ALL)
    document = (Path(__file__).parent.parent / "docs" / "tuning-log.md").read_text()
    (query,) = re.findall(r"```sql\n(SELECT[^`]*read_parquet[^`]*)```", document)
    with duckdb.connect() as connection:
        found = connection.execute(query.replace("records/", f"{tmp_path}/out/")).fetchall()
        types = dict(
            connection.execute(
                "SELECT column_name, column_type FROM"
                f" (DESCRIBE SELECT * FROM '{tmp_path}/out/measurements.parquet')"
            ).fetchall()
        )
        (times,) = connection.execute(
            f"SELECT list_min(repeats_s) FROM '{tmp_path}/out/measurements.parquet'"
            " WHERE lease_id = 'lease-2'"
        ).fetchall()
    assert len(found) == 1, "of the other workload no repeat is a time but the untuned one's"
    assert times == (1e-3,)
    assert types["measured_at"].startswith("TIMESTAMP")
    assert types["repeats_s"] == "DOUBLE[]"
    frame = pandas.read_parquet(tmp_path / "out" / "measurements.parquet")
    assert len(frame) == ROWS
    assert str(frame["measured_at"].dtype) == "datetime64[ns, UTC]"
    assert list(frame.loc[frame["lease_id"] == "lease-2", "repeats_s"].iloc[0]) == [2e-3, 1e-3]
    assert pandas.read_parquet(tmp_path / "out" / "devices.parquet")["labels"][0] == [("rack", "3")]


def test_what_a_job_asked_for_and_came_to_is_exported() -> None:
    only_while_it_runs = {"id", "coordinator", "embedded", "stage", "remaining_s"}
    exported = {column.name for column in TABLES["jobs"]}
    assert {column.name for column in jobs.columns} - exported == {
        *only_while_it_runs,
        "ranking_batches",
    }


def test_every_column_is_documented() -> None:
    document = (Path(__file__).parent.parent / "docs" / "tuning-log.md").read_text()
    section = document.partition("## Sharing")[2].partition("\n## ")[0]
    for name, columns in TABLES.items():
        line = next(line for line in section.splitlines() if line.startswith(f"| `{name}.parquet`"))
        named = re.findall(r"`(\w+)`", line.partition("|")[2].partition("|")[2])
        assert sorted(named) == sorted(column.name for column in columns)


# ---------------------------------------------------------------------------------- damage


def damaged_copy(folder: Path, name: str, **changes: list[Any]) -> None:
    """Write a file again with other values; None leaves a row as it is."""
    path = folder / f"{name}.parquet"
    arrow = pq.read_table(path)
    for column, values in changes.items():
        index = arrow.schema.get_field_index(column)
        plain = arrow.column(index)
        if pa.types.is_timestamp(plain.type):
            plain = plain.cast(pa.int64())
        old = plain.to_pylist()
        new = [was if now is None else now for was, now in zip(old, values, strict=False)]
        array = pa.array(new + old[len(new) :], plain.type).cast(arrow.schema.field(index).type)
        arrow = arrow.set_column(index, arrow.schema.field(index), array)
    pq.write_table(arrow, path)


def test_damaged_rows_are_named_and_the_others_kept(
    here: TuningLog, there: TuningLog, process: TvmProcess, tmp_path: Path
) -> None:
    export_parquet(here, tmp_path / "out", ALL)
    bad: dict[str, list[Any]] = {
        "status": ["FINE"],
        "latency_us": [None, -5.0, 1.0],
        "repeats_s": [None, None, None, [1e-3] * 5000],
        "error": [None] * 4 + ["x" * 5000],
        "lease_id": [None] * 5 + ["\0"],
        "evaluator_json": [None] * 6 + ['{"repeat":2.5}', '{"number":true}', "[" * 9000],
        "num_threads": [None] * 9 + [-1],
        "workload_key": [None] * 10 + ["w"],
        "candidate_key": [None] * 11 + ["0" * 64],
        "measured_at": [None] * 12 + [-1],
        "device_kind": [None] * 13 + ["../kind"],
    }
    damaged_copy(tmp_path / "out", "measurements", **bad)
    report = read(there, tmp_path / "out", process)
    assert report.damaged == 14
    assert report.imported == ROWS - 14
    said = [str(damage) for damage in report.damages]
    assert [damage.row for damage in report.damages] == [*range(1, 12), 13, 14, 12]
    for number, words in enumerate(
        ["status", "latency of -5", "latency of 1.0", "repeats", "error has 5000", "NUL"]
    ):
        assert f"measurements.parquet:{number + 1}: " in said[number]
        assert words in said[number]
    assert rows(there) == rows(here)[14:]


def test_what_is_not_what_its_key_says_is_not_kept(
    here: TuningLog, there: TuningLog, process: TvmProcess, tmp_path: Path
) -> None:
    export_parquet(here, tmp_path / "out", ALL)
    texts = [row["workload_json"] for row in table(tmp_path / "out", "workloads")]
    damaged_copy(tmp_path / "out", "workloads", workload_json=[texts[1]])
    damaged_copy(tmp_path / "out", "candidates", trace_json=[None] * 5 + ['[["Fuse"]]'])
    lost = table(tmp_path / "out", "workloads")[0]["key"]
    wrong = table(tmp_path / "out", "candidates")[5]
    gone = [row for row in table(tmp_path / "out", "candidates") if row["workload_key"] == lost]
    report = read(there, tmp_path / "out", process)
    reasons = "\n".join(str(damage) for damage in report.damages)
    assert "workloads.parquet:1: the workload's key" in reasons
    assert "candidates.parquet:6: the candidate's key" in reasons
    assert "its workload is not there" in reasons
    assert "its candidate is not there" in reasons
    missing = {row["key"] for row in gone} | {wrong["key"]}
    kept = [row for row in rows(here) if row["candidate_key"] not in missing]
    assert rows(there) == kept
    assert report.imported == len(kept)


def test_what_a_workload_says_of_itself_is_what_tvm_says(
    here: TuningLog, there: TuningLog, process: TvmProcess, tmp_path: Path
) -> None:
    export_parquet(here, tmp_path / "out", ALL)
    keys = [row["key"] for row in table(tmp_path / "out", "workloads")]
    damaged_copy(tmp_path / "out", "workloads", num_outputs=[2], flops=[None, 1.0])
    report = read(there, tmp_path / "out", process)
    assert str(report.damages[0]) == "workloads.parquet:1: 2 outputs, where the workload writes 1"
    with there.reading() as connection:
        (kept,) = connection.execute(sa.select(workloads)).all()
    size = next(size for size in (16, 24) if operator(size).workload_key == keys[1])
    assert (kept.key, kept.flops) == (keys[1], operator(size).flops)


def test_outputs_that_are_not_clear_are_believed(process: TvmProcess) -> None:
    without_blocks = canonical_workload(FAULTS["doubled"])
    text = str(tvm.ir.save_json(without_blocks))
    assert process.ask("describe", workload_json=text)["num_outputs"] is None
    assert process.ask("describe", workload_json=operator().workload_json)["num_outputs"] == 1


def test_names_that_are_not_canonical_are_made_so(
    here: TuningLog, there: TuningLog, process: TvmProcess, tmp_path: Path
) -> None:
    """The key is blind to names, and traces are not."""
    export_parquet(here, tmp_path / "out", Filters(workload=operator(16).workload_key))
    (text,) = [row["workload_json"] for row in table(tmp_path / "out", "workloads")]
    damaged_copy(tmp_path / "out", "workloads", workload_json=[text.replace('"block0"', '"mine"')])
    assert read(there, tmp_path / "out", process).damaged == 0
    export_parquet(there, tmp_path / "copy", ALL)
    assert [row["workload_json"] for row in table(tmp_path / "copy", "workloads")] == [text]


def test_times_without_circumstances_never_answer_for_a_device(
    here: TuningLog, there: TuningLog, process: TvmProcess, tmp_path: Path
) -> None:
    bare = dataclasses.replace(ok(untuned(), "lease-bare", 1e-9), circumstances=None)
    job = here.jobs()[0].job_id
    here.record(job, KIND, untuned(), bare)
    export_parquet(here, tmp_path / "out", ALL)
    report = read(there, tmp_path / "out", process)
    assert "without circumstances" in str(report.damages[0])
    assert rows(there) == rows(here)[:-1]


def test_files_that_are_none_or_broken(
    here: TuningLog, there: TuningLog, process: TvmProcess, tmp_path: Path
) -> None:
    export_parquet(here, tmp_path / "out", ALL)
    file = tmp_path / "out" / "measurements.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    report = read(there, tmp_path / "out", process)
    assert (report.imported, report.damaged, report.workloads) == (0, 1, 2)
    assert str(report.damages[0]).startswith("measurements.parquet: ")
    pq.write_table(pa.table({"id": ["a"]}), file)
    report = read(there, tmp_path / "out", process)
    assert "columns measured_at" in str(report.damages[0])
    file.unlink()
    with pytest.raises(BadRequest, match=r"no measurements\.parquet"):
        read(there, tmp_path / "out", process)


def test_what_kills_tvm_does_not_kill_the_import(process: TvmProcess) -> None:
    last = '{"root_index":0,"nodes":[{"type":"ffi.Array","data":[1]},{"type":"None"}]}'
    nodes = json.loads(operator().workload_json)["nodes"]
    node = next(n for n in nodes if n["type"] == "tirx.BufferType")
    node["data"]["shape"] = len(nodes) - 1
    forward = json.dumps({**json.loads(operator().workload_json), "nodes": nodes})
    with pytest.raises(Damaged, match="SIGSEGV"):
        process.ask("describe", workload_json=forward)
    for text in ("", "{}", "[" * 100_000, last, '{"nodes":[{"type":"None"}],"root_index":0}'):
        with pytest.raises(Damaged):
            process.ask("describe", workload_json=text)
    assert process.ask("describe", workload_json=operator().workload_json)["flops"] > 0
    with TvmProcess(timeout_s=0.01) as hasty, pytest.raises(Damaged, match="longer than 0 s"):
        hasty.ask("describe", workload_json=operator().workload_json)


# ---------------------------------------------------------------------------------- the command


def test_the_command(here: TuningLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = [str(tmp_path / name) for name in ("here.db", "there.db")]
    out = str(tmp_path / "out")
    assert main(["log", "export", out, "--log", logs[0]]) == 0
    assert f"wrote {ROWS} measurements, 6 candidates, 2 workloads" in capsys.readouterr().out
    assert main(["log", "export", out, "--log", logs[0]]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["log", "export", out, "--log", logs[0], "--force", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["bytes"]) == {f"{t}.parquet" for t in TABLES}
    damaged_copy(tmp_path / "out", "measurements", status=["FINE"])
    assert main(["log", "show", "\x1b[2Jx", "--log", logs[0]]) == 2
    assert "\x1b" not in capsys.readouterr().err
    assert main(["log", "import", out, "--log", logs[1]]) == 0
    said = capsys.readouterr()
    assert said.out == f"imported {ROWS - 1}, known already 0, damaged 1\n"
    assert "measurements.parquet:1: unknown status 'FINE'" in said.err
    assert main(["log", "import", out, "--log", logs[1], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["imported"], found["known"], found["damaged"]) == (0, ROWS - 1, 1)
    assert found["damages"][0]["row"] == 1
    assert main(["log", "import", str(tmp_path / "nowhere"), "--log", logs[1]]) == 2
    (tmp_path / "empty").mkdir()
    assert main(["log", "import", str(tmp_path / "empty"), "--log", logs[1]]) == 2
    assert main(["log", "export", out, "--log", str(tmp_path / "none.db")]) == 2
    assert not (tmp_path / "none.db").exists()


def test_words_of_a_file_do_not_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    report = ImportReport()
    report.damage("\x1b[2J.parquet", 1, "TVM says \x1b]0;mine\x07")
    _print_damages(report)
    assert capsys.readouterr().err == "tunefarm: �[2J.parquet:1: TVM says �]0;mine�\n"


def test_nothing_readable_is_a_bad_request(
    here: TuningLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_parquet(here, tmp_path / "out", ALL)
    for file in (tmp_path / "out").iterdir():
        file.write_bytes(b"PAR1 and no more")
    arguments = ["log", "import", str(tmp_path / "out"), "--log", str(tmp_path / "there.db")]
    assert main(arguments) == 2
    assert "nothing in" in capsys.readouterr().err


def test_many_damaged_rows_are_counted(
    here: TuningLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = here.jobs()[0].job_id
    one: Candidate = reordered(24)
    many = [
        (job, KIND, one, failed(one, f"m-{n}", MeasurementStatus.CRASHED), None) for n in range(40)
    ]
    here.record_many(many)
    export_parquet(here, tmp_path / "out", ALL)
    damaged_copy(tmp_path / "out", "measurements", status=["FINE"] * 45)
    assert main(["log", "import", str(tmp_path / "out"), "--log", str(tmp_path / "t.db")]) == 0
    said = capsys.readouterr()
    assert said.err.count("unknown status") == 20
    assert "and 25 more" in said.err
    assert "damaged 45" in said.out
