"""`tunefarm log stats`, `top`, `show` and `prune` as a user meets them: real processes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import sqlalchemy as sa

from coordinator.cli.log_prune import age
from coordinator.cli.log_tables import plain, size
from coordinator.cli.main import parser
from coordinator.tuning_log import TuningLog
from coordinator.tuning_log.schema import imports, measurements
from protos.records import Candidate, JobState, MeasurementStatus
from tests.test_cli import Run, refused, run  # noqa: F401 (a fixture)
from tests.test_tuning_log import KIND, failed, ok, spec, task

KEY = "ab12cd" + "0" * 26
NAME = "[bold]net[/bold]"
WORDS = "it said [/red] \x1b[2J no"


@pytest.fixture
def job_id(tmp_path: Path) -> str:
    """The job of a small log: five candidates, fastest first, and one that was wrong."""
    log = TuningLog.open(str(tmp_path / "log.db"))
    job = log.add_job(spec(NAME), "here:1", embedded=True)
    log.set_tasks(job.job_id, [task(KEY)])
    for number in range(5):
        record = ok(candidate(number), f"l{number}", 1e-5 * (number + 1))
        log.record(job.job_id, KIND, candidate(number), record)
    wrong = failed(candidate(9), "l9", MeasurementStatus.WRONG_OUTPUT)
    wrong = dataclasses.replace(wrong, error=WORDS)
    log.record(job.job_id, KIND, candidate(9), wrong)
    log.save_job(dataclasses.replace(job, state=JobState.DONE))
    with log.writing() as connection:
        connection.execute(sa.update(measurements).values(measured_at=1e9))
    log.close()
    return job.job_id


def candidate(number: int) -> Candidate:
    return Candidate(KEY, f"[trace {number}]")


LOG = ("--log", "log.db")


def test_stats(run: Run, job_id: str) -> None:  # noqa: F811
    text = run("log", "stats", *LOG)
    assert text.returncode == 0
    assert "measurements  6: 5 ok, 1 wrong_output" in text.stdout
    assert f"{KIND}" in text.stdout
    found = json.loads(run("log", "stats", "--json", *LOG).stdout)
    assert found["log"].endswith("log.db")
    assert found["measurements"] == {"OK": 5, "WRONG_OUTPUT": 1}
    assert found["kinds"][0]["kind"] == KIND


def test_top_of_a_workload(run: Run, job_id: str) -> None:  # noqa: F811
    text = run("log", "top", "ab12cd", "-k", "2", *LOG).stdout
    assert candidate(0).key in text  # in one piece, however long the line
    assert candidate(1).key in text
    assert candidate(2).key not in text
    (found,) = json.loads(run("log", "top", KEY, "--kind", "kind", "--json", *LOG).stdout)
    keys = [one["candidate_key"] for one in found["candidates"]]
    assert keys == [candidate(number).key for number in range(5)]


def test_top_of_a_model(run: Run, job_id: str) -> None:  # noqa: F811
    text = run("log", "top", NAME, *LOG).stdout
    assert text.startswith(f"{NAME}, job {job_id}, on kind {KIND}, caches warm\n")
    assert f"{KEY}  {candidate(0).key}" in text
    (found,) = json.loads(run("log", "top", f"{NAME}.onnx", "--json", *LOG).stdout)
    assert found["tasks"][0]["best_us"] == pytest.approx(10.0)
    assert json.loads(run("log", "top", job_id, "--json", *LOG).stdout) == [found]


def test_what_was_imported_is_marked(run: Run, job_id: str, tmp_path: Path) -> None:  # noqa: F811
    log = TuningLog.open(str(tmp_path / "log.db"))
    with log.writing() as connection:
        found = {"source": "f", "format": "parquet", "imported_by": "unknown", "imported_at": 0.0}
        connection.execute(sa.insert(imports).values(import_id=1, records=1, **found))
        first = measurements.c.candidate_key == candidate(0).key
        connection.execute(sa.update(measurements).where(first).values(import_id=1, job_id=None))
    log.close()
    of_workload = run("log", "top", "ab12cd", *LOG).stdout
    assert f"{candidate(0).key} (imported)\n" in of_workload
    assert of_workload.count("imported") == 1
    assert f"{candidate(0).key} (imported)\n" in run("log", "top", NAME, *LOG).stdout
    (top,) = json.loads(run("log", "top", KEY, "--json", *LOG).stdout)
    assert [one["imported"] for one in top["candidates"]] == [True, *[False] * 4]


def test_what_is_in_the_log_is_shown_as_it_is(run: Run, job_id: str) -> None:  # noqa: F811
    shown = run("log", "show", candidate(9).key, *LOG).stdout
    assert WORDS.replace("\x1b", "�") in shown
    assert shown.endswith("\ntrace\n[trace 9]\n")
    assert all(line == line.rstrip() for line in shown.splitlines())
    found = json.loads(run("log", "show", candidate(9).key, "--json", *LOG).stdout)
    assert found["parts"]["measurements"][0]["error"] == WORDS


@pytest.mark.parametrize("what", ["job", "workload", "measurement"])
def test_show(run: Run, job_id: str, what: str) -> None:  # noqa: F811
    name = {"job": job_id, "workload": "ab12cd", "measurement": "m1"}[what]
    assert run("log", "show", name, *LOG).stdout.startswith(what)
    assert json.loads(run("log", "show", name, "--json", *LOG).stdout)["what"] == what


def test_the_code_of_a_workload(run: Run, tmp_path: Path) -> None:  # noqa: F811
    from tests.kernels import matmul, workload_json

    log = TuningLog.open(str(tmp_path / "log.db"))
    job = log.add_job(spec(), "here:1", embedded=True)
    readable = dataclasses.replace(task(KEY), workload_json=workload_json(matmul()))
    log.set_tasks(job.job_id, [readable, task("f" * 32)])
    log.close()
    assert "T.grid(64, 64, 64)" in run("log", "show", KEY, "--code", *LOG).stdout
    refused(run("log", "show", "f" * 32, "--code", *LOG), 2, "this version of TVM", "can't read")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", "nothing"), ("'nothing'", "tunefarm log top MODEL")),
        (("show", "m1", "--json", "--log", "no.db"), ("no tuning log", "no.db", "--log")),
        (("top", "m1"), ("is a measurement", "tunefarm log show m1")),
        (("top", "ab12cd", "--kind", "x"), ("'x'", KIND, "tunefarm log stats")),
        (("show", "JOB", "--code"), ("a job has no program", "--code")),
    ],
)
def test_what_is_not_there(
    run: Run,  # noqa: F811
    tmp_path: Path,
    job_id: str,
    arguments: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    named = [job_id if word == "JOB" else word for word in arguments]
    refused(run("log", *named, TUNEFARM_LOG=str(tmp_path / "log.db")), 2, *words)
    assert not (tmp_path / "no.db").exists()


def test_prune_says_what_would_go_and_deletes_when_told_to(
    run: Run,  # noqa: F811
    job_id: str,
) -> None:
    dry = run("log", "prune", "--keep", "2", *LOG)
    assert dry.returncode == 0
    assert "would go" in dry.stdout
    assert "nothing was deleted; --delete does it" in dry.stdout
    assert "candidates without a measurement: 4" in dry.stdout
    assert json.loads(run("log", "stats", "--json", *LOG).stdout)["candidates"] == 6
    done = json.loads(run("log", "prune", "--keep", "2", "--delete", "--json", *LOG).stdout)
    assert done["deleted"] is True
    assert done["measurements"][KIND]["rows"] == done["candidates"]["rows"] == 4
    assert json.loads(run("log", "stats", "--json", *LOG).stdout)["candidates"] == 2
    kept = run("log", "prune", "--keep", "2", "--delete", *LOG).stdout
    assert "nothing was deleted" not in kept
    assert "candidates" not in kept


def test_prune_leaves_what_is_younger(run: Run, job_id: str) -> None:  # noqa: F811
    options = ("--older-than", "100000d", "--keep", "1", "--json")
    assert json.loads(run("log", "prune", *options, *LOG).stdout)["measurements"] == {}


@pytest.mark.parametrize(
    ("text", "seconds"), [("90d", 90 * 86400), ("1.5d", 129600), ("12h", 43200), ("1h30m", 5400)]
)
def test_an_age(text: str, seconds: float) -> None:
    assert age(text) == seconds


@pytest.mark.parametrize(
    ("option", "value", "how"),
    [
        ("--older-than", "0d", "write 90d or 12h"),
        ("--older-than", "soon", "write 90d or 12h"),
        ("--keep", "0", "whole number from 1"),
    ],
)
def test_a_malformed_option(
    capsys: pytest.CaptureFixture[str], option: str, value: str, how: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["log", "prune", f"{option}={value}"])
    assert ended.value.code == 2
    assert how in capsys.readouterr().err


def test_sizes_and_texts_for_people() -> None:
    sizes = [size(number) for number in (0, 999, 1500, 2.5e6, 3e9, 4e12)]
    assert sizes == ["0 B", "999 B", "1.5 kB", "2.5 MB", "3.0 GB", "4000.0 GB"]
    assert plain("a\tb\n[c]\x07").plain == "a\tb\n[c]�"
    assert plain(None).plain == ""
