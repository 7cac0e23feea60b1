"""The tuning log when processes die, race and run out of disk, and when servers vanish."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest

from coordinator import job_runner
from coordinator.job_runner import JobRunner
from coordinator.tuning_log import TuningLog
from protos.errors import JobFailed, LogUnavailable
from protos.records import JobSpec, Task

pytest_plugins = ("tests.postgres",)

ROOT = Path(__file__).resolve().parent.parent
KIND = "kind-a"
BATCH = 5

PREAMBLE = """
import sys
from coordinator.tuning_log import TuningLog
from protos.errors import LogUnavailable
from protos.records import Candidate, Measurement, MeasurementStatus

def row(job_id, lease, trace):
    candidate = Candidate("w1", trace)
    measurement = Measurement(
        "w1", candidate.key, MeasurementStatus.OK, lease_id=lease, repeats_s=(1e-3,)
    )
    return job_id, "kind-a", candidate, measurement, None
"""

ENDLESS_WRITER = """
_, url, job_id, name = sys.argv
log = TuningLog.open(url)
number = 0
while True:
    lease = f"{name}-{number}"
    log.record_many([row(job_id, lease, str(i)) for i in range(5)])
    print(lease, flush=True)
    number += 1
"""

OPENER = """
print("ready", flush=True)
sys.stdin.readline()
log = TuningLog.open(sys.argv[1])
print(log.put_blob(b"x"), flush=True)
log.close()
"""

WRITER = """
_, url, job_id, name = sys.argv
log = TuningLog.open(url)
print("ready", flush=True)
sys.stdin.readline()
new = 0
for number in range(30):
    rows = [row(job_id, f"shared-{number}", str(i)) for i in range(3)]
    new += sum(log.record_many(rows if int(name) % 2 else rows[::-1]))
    new += log.record(*row(job_id, f"own-{name}-{number}", "0"))
print(new, flush=True)
log.close()
"""

FULL_DISK = """
import resource
from pathlib import Path
_, url, path = sys.argv
log = TuningLog.open(url)
kept = log.put_blob(b"kept" * 100)
limit = max(item.stat().st_size for item in Path(path).parent.iterdir()) + 200_000
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    log.put_blob(bytes(5_000_000))
except LogUnavailable as error:
    print(error)
assert log.get_blob(kept) == b"kept" * 100
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.get_blob(log.put_blob(bytes(5_000_000)))
log.close()
"""


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + script, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def together(processes: list[subprocess.Popen[str]]) -> list[str]:
    """Let processes that wait for a line go on at once; what each prints then."""
    try:
        assert [line(process) for process in processes] == ["ready"] * len(processes)
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        said = [process.communicate(timeout=120)[0].strip() for process in processes]
        assert [process.returncode for process in processes] == [0] * len(processes)
        return said
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def new_job(log: TuningLog) -> str:
    job = log.add_job(JobSpec("m", "0" * 64, "{}", 64), "here:1", embedded=True)
    log.set_tasks(job.job_id, [Task("f", "w1", "{}", 1, (), 1, 1.0)])
    return job.job_id


def leases(log: TuningLog, url: str) -> Counter[str]:
    """How many records each lease has: asked from the database, which the API does not show."""
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as database:
            rows = database.execute("SELECT lease_id FROM measurements").fetchall()
        database.close()
    else:
        with psycopg.connect(url) as server:
            rows = server.execute("SELECT lease_id FROM measurements").fetchall()
    assert len(rows) == len(log.outcomes("w1", KIND))
    return Counter(lease for (lease,) in rows)


def test_what_was_acknowledged_survives_kill_9(url: str) -> None:
    log = TuningLog.open(url)
    job_id = new_job(log)
    acknowledged: list[str] = []
    for life in range(3):
        writer = start(ENDLESS_WRITER, url, job_id, f"life{life}")
        acknowledged.extend(line(writer) for _ in range(20))
        writer.kill()
        acknowledged.extend(writer.communicate()[0].split())
    kept = leases(log, url)
    assert set(acknowledged) <= set(kept)
    # At most one batch a life was committed but not yet said to be; none is there in part.
    assert len(kept) <= len(acknowledged) + 3
    assert set(kept.values()) == {BATCH}
    log.close()


def test_processes_lose_and_double_nothing(url: str) -> None:
    log = TuningLog.open(url)
    job_id = new_job(log)
    new = together([start(WRITER, url, job_id, str(i)) for i in range(3)])
    kept = leases(log, url)
    assert sum(int(count) for count in new) == sum(kept.values()) == 30 * 3 + 3 * 30
    assert all(count == (3 if lease.startswith("shared") else 1) for lease, count in kept.items())
    log.close()


def test_several_processes_open_a_new_log_at_once(url: str) -> None:
    for_all = together([start(OPENER, url) for _ in range(4)])
    assert len(set(for_all)) == 1
    log = TuningLog.open(url)
    assert log.has_blob(for_all[0])
    log.close()


def test_a_full_disk_loses_nothing_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    done = start(FULL_DISK, f"sqlite:///{path}", str(path))
    said = done.communicate(timeout=60)[0]
    assert done.returncode == 0
    assert "is not available" in said


def test_readers_do_not_wait_for_a_writer(tmp_path: Path) -> None:
    log = TuningLog.open(str(tmp_path / "log.db"))
    job_id = new_job(log)
    other = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("DELETE FROM job_tasks")
    started = time.monotonic()
    assert len(log.tasks(job_id)) == 1
    assert time.monotonic() - started < 5
    other.execute("ROLLBACK")
    other.close()
    log.close()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("dear diary\n" * 1000)
    with pytest.raises(LogUnavailable, match=r"notes\.txt.*not a database"):
        TuningLog.open(str(path))
    assert path.read_text() == "dear diary\n" * 1000


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LogUnavailable, match="folder"):
        TuningLog.open(str(tmp_path / "file" / "log.db"))


def test_an_unreachable_server_is_named_without_its_password() -> None:
    with pytest.raises(LogUnavailable, match=r"127\.0\.0\.1") as caught:
        TuningLog.open("postgresql://me:hunter2@127.0.0.1:1/farm")
    assert "hunter2" not in str(caught.value)


def test_a_server_without_the_database_says_so(postgres_url: str) -> None:
    with pytest.raises(LogUnavailable, match="does not exist"):
        TuningLog.open(postgres_url.replace("@/t", "@/nothere"))


def test_the_log_goes_on_after_the_server_dropped_its_connections(postgres_url: str) -> None:
    log = TuningLog.open(postgres_url)
    job_id = new_job(log)
    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    log.touch_job(job_id)
    assert log.job(job_id).job_id == job_id
    log.close()


def test_a_job_fails_when_its_log_stays_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A closed log refuses as one does whose server is gone or whose disk is full."""
    log = TuningLog.open(str(tmp_path / "log.db"))
    job = log.add_job(JobSpec("m", "0" * 64, "{}", trials=1), "test", embedded=True)
    runner = JobRunner(job, log, cast(Any, None), cast(Any, None), lambda job: None)
    log.close()
    monkeypatch.setattr(job_runner, "LOG_PATIENCE_S", 3.0)
    with pytest.raises(JobFailed, match=r"written for 3 s: the tuning log .* the same command"):
        asyncio.run(runner._save_now_and_then())
    assert "its progress is not saved" in caplog.text, "it was patient at first"
