"""Where a log is, whether its schema is ours, and how an older one is brought up."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from coordinator.tuning_log import TuningLog, default_url, display_url, normalise_url
from coordinator.tuning_log.schema import metadata
from coordinator.tuning_log.upgrade import MIGRATIONS
from protos.errors import BadRequest, StaleSchema
from protos.records import (
    UNTUNED_TRACE,
    Candidate,
    DeviceLimits,
    JobState,
    Measurement,
    MeasurementStatus,
)

pytest_plugins = ("tests.postgres",)

REVISIONS = Path(__file__).with_name("revisions")
FIRST_REVISION = REVISIONS / "0001.sql"
BEFORE_LABELS = REVISIONS / "0006.sql"


def execute(url: str, *statements: str) -> None:
    if url.startswith("sqlite"):
        path = Path(url.removeprefix("sqlite:///"))
        path.parent.mkdir(exist_ok=True)
        with sqlite3.connect(path) as database:
            for statement in statements:
                database.execute(statement)
        database.close()
    else:
        with psycopg.connect(url) as server:
            for statement in statements:
                server.execute(statement.encode())


# ---------------------------------------------------------------------------------- URLs


def test_what_people_write_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    absolute = f"sqlite:///{tmp_path}/log.db"
    for text in ("log.db", "./log.db", "sqlite:///log.db", str(tmp_path / "log.db"), absolute):
        assert Path(normalise_url(text).removeprefix("sqlite:///")) == tmp_path / "log.db"
    assert normalise_url("~/log.db") == f"sqlite:///{tmp_path}/home/log.db"
    expected = "postgresql+psycopg://me:p%40ss@host:5433/farm"
    for scheme in ("postgresql", "postgres", "postgresql+psycopg"):
        assert normalise_url(f"{scheme}://me:p%40ss@host:5433/farm") == expected
    assert normalise_url(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a\0b",
        "mysql://me:hunter2@host/farm",
        "postgresql+asyncpg://me:hunter2@host/farm",
        "postgresql://me:hunter2@host:port/farm",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///log.db?mode=ro",
        "://hunter2",
        "/",
    ],
)
def test_anything_else_is_refused_with_what_to_do(text: str) -> None:
    with pytest.raises(BadRequest, match="give") as caught:
        normalise_url(text)
    assert "hunter2" not in str(caught.value)


def test_passwords_are_never_shown() -> None:
    shown = display_url("postgresql://me:hunter2@host/farm?sslpassword=hunter2&sslmode=require")
    assert "hunter2" not in shown
    assert "me:***@host/farm" in shown
    assert "sslmode=require" in shown


def test_the_default_is_in_the_users_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert default_url() == f"sqlite:///{tmp_path}/.local/share/tunefarm/log.db"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert default_url() == f"sqlite:///{tmp_path}/xdg/tunefarm/log.db"
    monkeypatch.setenv("TUNEFARM_LOG", "postgresql://host/farm")
    assert default_url() == "postgresql+psycopg://host/farm"


@pytest.mark.parametrize("name", ["plain.db", "a b%20c?d#é.db"])
def test_a_new_file_is_made_with_its_folders(tmp_path: Path, name: str) -> None:
    log = TuningLog.open(str(tmp_path / "new" / "folder" / name))
    again = TuningLog.open(log.url)
    again.close()
    log.close()
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == [name]


def test_a_sqlite_log_is_durable_and_checks_its_references(tmp_path: Path) -> None:
    log = TuningLog.open(str(tmp_path / "log.db"))
    with log._database.read() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    log.close()
    assert found == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 30_000,
    }


# ---------------------------------------------------------------------------------- revisions


def differences(url: str) -> list[object]:
    """Between a log and the schema in the code."""
    engine = sa.create_engine(normalise_url(url))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        found: list[object] = compare_metadata(context, metadata)
    engine.dispose()
    return found


def test_the_revisions_lead_to_the_schema(url: str) -> None:
    TuningLog.open(url).close()
    assert differences(url) == []


def test_a_newer_log_is_refused(url: str) -> None:
    TuningLog.open(url).close()
    execute(url, "UPDATE alembic_version SET version_num = 'f00d'")
    with pytest.raises(StaleSchema, match="newer tunefarm"):
        TuningLog.open(url)
    with pytest.raises(StaleSchema, match="newer tunefarm"):
        TuningLog.upgrade(url)


def test_an_older_log_is_refused_with_the_command(url: str) -> None:
    TuningLog.open(url).close()
    execute(url, "DELETE FROM alembic_version")
    with pytest.raises(StaleSchema) as caught:
        TuningLog.open(url)
    assert str(caught.value).endswith(
        f"tunefarm log upgrade --log {display_url(normalise_url(url))}"
    )


def test_another_programs_database_is_left_alone(url: str) -> None:
    execute(url, "CREATE TABLE photographs (id INTEGER)", "INSERT INTO photographs VALUES (1)")
    for attempt in (TuningLog.open, TuningLog.upgrade):
        with pytest.raises(BadRequest, match="another program"):
            attempt(url)
    execute(url, "INSERT INTO photographs VALUES (2)")


def test_an_empty_database_can_be_upgraded_beforehand(url: str) -> None:
    TuningLog.upgrade(url)
    TuningLog.upgrade(url)
    log = TuningLog.open(url)
    assert log.jobs() == []
    log.close()


def upgraded(fixture: Path, path: Path) -> TuningLog:
    """A log that an old revision wrote, brought up."""
    with sqlite3.connect(path) as database:
        database.executescript(fixture.read_text())
    database.close()
    TuningLog.upgrade(str(path))
    return TuningLog.open(str(path))


@pytest.mark.parametrize("fixture", sorted(REVISIONS.iterdir()), ids=lambda path: path.stem)
def test_every_old_log_gets_the_schema(tmp_path: Path, fixture: Path) -> None:
    log = upgraded(fixture, tmp_path / "log.db")
    assert differences(log.url) == []
    log.close()


def test_every_revision_but_the_newest_has_a_log_that_is_brought_up() -> None:
    script = ScriptDirectory(str(MIGRATIONS))
    old = {step.revision for step in script.walk_revisions()} - set(script.get_heads())
    assert {path.stem for path in REVISIONS.iterdir()} == old


def test_jobs_from_before_projects_belong_to_the_default_one(tmp_path: Path) -> None:
    log = upgraded(REVISIONS / "0008.sql", tmp_path / "log.db")
    (job,) = log.jobs(project="default")
    assert job.spec.submitted_by == "unknown"
    log.close()


def test_a_device_from_before_labels_has_none_and_can_get_some(tmp_path: Path) -> None:
    log = upgraded(BEFORE_LABELS, tmp_path / "log.db")
    (device,) = log.devices()
    assert (device.name, device.cache_bytes, device.labels) == ("d1", 32 << 20, {})
    assert log.limits(device.kind) == DeviceLimits("d1", 100.0, 10.0, 50.0, 32 << 20)
    (job,) = log.jobs()
    assert job.result is not None
    assert (job.result.engine, job.result.labels) == ("openvino", {})
    assert job.tuning_ended == "all trials were made"
    labelled = replace(device, labels={"rack": "3", "watts": "7.5"})
    log.upsert_device(labelled)
    assert log.devices() == [labelled]
    log.close()


def test_an_interval_that_was_kept_with_the_package_is_the_jobs(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with sqlite3.connect(path) as database:
        database.executescript(FIRST_REVISION.read_text())
        database.execute("UPDATE jobs SET package_sha256 = (SELECT sha256 FROM packages)")
        database.execute(
            "UPDATE packages SET result_json = "
            "json_set(result_json, '$.tuned_low_ms', 1.2, '$.tuned_high_ms', 1.3)"
        )
    database.close()
    TuningLog.upgrade(str(path))
    log = TuningLog.open(str(path))
    (job,) = log.jobs()
    log.close()
    assert job.result is not None
    assert (job.result.tuned_low_ms, job.result.tuned_high_ms) == (1.2, 1.3)


def test_a_log_of_the_first_revision_is_brought_up(tmp_path: Path) -> None:
    log = upgraded(FIRST_REVISION, tmp_path / "log.db")
    (job,) = log.jobs()
    assert (job.state, job.spec.seed, job.elapsed_s) == (JobState.DONE, 7, 12.5)
    assert job.spec.shapes["x"].dims == (1, 3, 48, 192)
    assert (job.spec.target_latency_ms, job.spec.flat_share, job.tuning_ended) == (None, None, "")
    assert job.tasks[0].tuned_us == 2000.0
    assert job.result is not None
    assert [(e.name, e.latency_ms) for e in job.result.engines] == [("onnxruntime", 2.5)]
    assert (job.result.engine, job.result.tuned_ms) == ("tunefarm", 1.25)
    assert [task.name for task in log.tasks(job.job_id)] == ["fused_w1", "fused_w2"]
    best = {record.candidate: record.latency_us for record in log.best_k("w1", "kind-a", 9)}
    fast, untuned = Candidate("w1", '["fast"]'), Candidate("w1", UNTUNED_TRACE)
    assert best == {fast: 1000.0, untuned: 8000.0}, "the least"
    assert log.best_k("w2", "kind-a", 9) == []
    tried = log.evidence("w1", "kind-a") + log.evidence("w2", "kind-a")
    assert len({item.candidate for item in tried} - {untuned}) == 3
    fast = log.outcomes("w1", "kind-a")[1]
    measurement = log.measured("kind-a", fast.artifact_sha256)
    assert measurement is not None
    assert measurement.circumstances is not None
    assert measurement.circumstances.before.governor == "performance"
    assert log.latest_cost_model("kind-a") == (1, "tree")
    assert [model.promoted for model in log.cost_models("kind-a")] == [True]
    assert log.rankings(job.job_id)[0].peak_at_5 == 1.0
    assert [device.name for device in log.devices()] == ["d1"]
    package = log.package("package-key")
    assert package is not None
    assert package[1] == b"wheel"
    assert package[0] == replace(job.result, package_sha256=package[0].package_sha256)

    candidate = Candidate("w2", "new")
    new = Measurement("w2", candidate.key, MeasurementStatus.OK, "lease-9", repeats_s=(1e-3,))
    assert log.record(job.job_id, "kind-a", candidate, new)
    log.close()
