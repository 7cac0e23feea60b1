"""One job for several kinds of device: its state, and what the log has of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.cli.tables import jobs_table
from coordinator.parts import asked_for, joint_state, whole
from coordinator.results.html_report import html_report
from coordinator.results.page.section import ReportData
from coordinator.results.whole_report import whole_json, whole_text
from coordinator.tuning_log import TuningLog
from coordinator.tuning_log.naming import find
from coordinator.tuning_log.stats import stats
from coordinator.tuning_log.users import known
from protos.errors import NotFound
from protos.records import History, Job, JobMeasurements, JobSpec, JobState, Priority, TrialCounts
from tests.test_results_report import JOB

pytest_plugins = ("tests.postgres",)

KINDS = ("1a2b3c4d" * 2, "5e6f7a8b" * 2)
SPEC = JobSpec("cls", "0" * 64, "", 64, devices=KINDS, where=("rack=3",), submitted_by="ada")
PARTS = [replace(SPEC, target_json='{"kind":"llvm"}', devices=(kind,)) for kind in KINDS]

Q, R, P = JobState.QUEUED, JobState.RUNNING, JobState.PAUSED
D, F, C, I = JobState.DONE, JobState.FAILED, JobState.CANCELLED, JobState.INTERRUPTED  # noqa: E741


@pytest.mark.parametrize(
    ("states", "joint"),
    [
        ([D, D], D),
        ([D, R], R),
        ([Q, R], R),
        ([F, Q], Q),
        ([D, P], P),
        ([P, Q], Q),
        ([D, F], F),
        ([C, F], F),
        ([C, D], C),
        ([C, C], C),
        ([D, I], I),
    ],
)
def test_the_whole_is_what_its_parts_are(states: list[JobState], joint: JobState) -> None:
    assert joint_state(states) is joint
    assert joint_state(states[::-1]) is joint


def part(number: int, state: JobState, **changes: object) -> Job:
    job = Job(f"j-1.{number}", PARTS[number - 1], state, parent_id="j-1")
    return replace(job, **changes)  # type: ignore[arg-type]


def test_what_follows_from_the_parts() -> None:
    job = Job("j-1", SPEC, JobState.QUEUED)
    first = part(1, R, stage="tuning", trials=TrialCounts(9, 7, 2, 1), elapsed_s=5.0)
    second = part(2, F, error="no compiler", trials=TrialCounts(1, 0, 1, 0), elapsed_s=9.0)
    now = whole(job, [replace(first, remaining_s=30.0), second])
    assert (now.state, now.trials) == (JobState.RUNNING, TrialCounts(10, 7, 3, 1))
    assert (now.elapsed_s, now.remaining_s) == (9.0, 30.0)
    assert now.stage == "j-1.1 (kind 1a2b3c4d): tuning; j-1.2 (kind 5e6f7a8b): failed"
    assert now.error == "j-1.2 (kind 5e6f7a8b): no compiler"
    assert whole(job, [first, second]).remaining_s is None, "nobody knows"
    assert whole(job, []) == job
    assert asked_for(SPEC) == "kind 1a2b3c4d, kind 5e6f7a8b, rack=3"
    assert asked_for(replace(JOB.spec)) == ""


# ------------------------------------------------------------------------------- in the log


def test_a_job_with_parts_is_one_job_of_the_log(log: TuningLog) -> None:
    before = log.add_job(replace(SPEC, target_json="{}", devices=()), "here", embedded=False)
    job = log.add_job(SPEC, "here", embedded=False, parts=PARTS)
    assert (job.spec, job.state) == (SPEC, JobState.QUEUED)
    assert [(one.job_id, one.parent_id, one.spec) for one in job.parts] == [
        (f"{job.job_id}.{number}", job.job_id, spec) for number, spec in enumerate(PARTS, 1)
    ]
    assert log.job(job.job_id) == job
    assert log.job(job.parts[1].job_id) == job.parts[1]
    assert log.jobs(limit=2) == [job, before], "parts are within theirs"
    assert log.unfinished_jobs(False) == [before, *job.parts]
    with log.reading() as connection:
        assert [(user.name, user.jobs) for user in known(connection)] == [("ada", 2)]
        assert stats(connection).jobs == {"QUEUED": 2}
        assert find(connection, job.job_id[:7]).key in (job.job_id, before.job_id)
        assert find(connection, job.parts[0].job_id).key == job.parts[0].job_id


def test_the_state_of_the_whole_is_written_with_its_parts(log: TuningLog) -> None:
    job = log.add_job(SPEC, "here", embedded=False, parts=PARTS)
    for state, joint in ((R, "RUNNING"), (D, "QUEUED"), (F, "QUEUED")):
        log.save_job(replace(job.parts[0], state=state))
        with log.reading() as connection:
            assert stats(connection).jobs == {joint: 1}
    log.save_job(replace(job.parts[1], state=D))
    assert log.job(job.job_id).state is F
    with log.reading() as connection:
        assert stats(connection).jobs == {"FAILED": 1}
    assert log.unfinished_jobs(False) == []


def test_a_job_that_waited_for_any_device_gets_its_target_or_its_parts(log: TuningLog) -> None:
    asked = replace(SPEC, devices=())
    one, two = (log.add_job(asked, "here", embedded=False) for _ in range(2))
    settled = log.settle_job(one.job_id, PARTS[:1])
    assert (settled.job_id, settled.spec, settled.parts) == (one.job_id, PARTS[0], ())
    assert [part.spec for part in log.settle_job(two.job_id, PARTS).parts] == PARTS
    with pytest.raises(NotFound):
        log.settle_job("j-none", PARTS)


def test_time_that_was_spent_on_another_kind_is_not_counted(log: TuningLog) -> None:
    job = log.add_job(SPEC, "here", embedded=False, parts=PARTS)
    first, second = job.parts
    assert first.spec.identity == second.spec.identity, "the same target"
    for one, elapsed_s in ((first, 3.0), (second, 5.0)):
        log.save_job(replace(one, elapsed_s=elapsed_s))
    again = log.add_job(PARTS[0], "here", embedded=False)
    identity = again.spec.identity
    assert log.spent_s(identity, again.job_id, again.spec.devices) == 3.0
    assert log.spent_s(identity, again.job_id) == 8.0
    assert log.spent_s(identity, first.job_id, first.spec.devices) == 0.0


def test_a_priority_is_kept_for_each(log: TuningLog) -> None:
    job = log.add_job(replace(SPEC, exclusive=True), "here", embedded=False, parts=PARTS)
    log.set_priority(job.parts[0].job_id, Priority.HIGH)
    now = log.job(job.job_id)
    assert [part.spec.priority for part in now.parts] == [Priority.HIGH, Priority.NORMAL]
    assert (now.spec.exclusive, now.parts[0].spec.exclusive) == (True, False)


# ------------------------------------------------------------------------------- shown


def done_and_failed() -> Job:
    done = part(1, D, tasks=JOB.tasks, result=JOB.result, trials=JOB.trials)
    return whole(Job("j-1", SPEC, Q), [done, part(2, F, error="no <b>compiler</b>")])


def test_a_report_compares_the_kinds_and_has_each_ones_own() -> None:
    assert JOB.result is not None
    text = whole_text(done_and_failed(), {"j-1.1": "out/1a2b3c4d/cls.whl"}, "log")
    assert f"{JOB.result.tuned_ms:.3f}" in text.partition("Fused operators")[0]
    assert "j-1.1 (kind 1a2b3c4d), done" in text
    assert "out/1a2b3c4d/cls.whl" in text
    assert "j-1.2 (kind 5e6f7a8b), failed: no <b>compiler</b>" in text
    found = whole_json(done_and_failed(), {}, "log")
    assert (found["job"], found["state"]) == ("j-1", "failed")
    assert [one["state"] for one in found["parts"]] == ["done", "failed"]
    assert found["parts"][0]["latency_ms"]["tuned"] == JOB.result.tuned_ms
    assert found["parts"][1]["error"] == "no <b>compiler</b>"


def test_a_page_has_the_sections_of_each_part_under_names_of_their_own() -> None:
    data = ReportData.of(done_and_failed(), "log", lambda _job: JobMeasurements(History()))
    page = html_report(data, 0.0)
    names = [name.split('"')[0] for name in page.split(' id="')[1:]]
    assert len(names) == len(set(names))
    assert "part-1-latency" in names
    assert "kind 1a2b3c4d: " in page
    assert "no &lt;b&gt;compiler" in page
    assert "<b>compiler" not in page


def test_jobs_are_listed_with_their_parts(capsys: pytest.CaptureFixture[str]) -> None:
    jobs_table([done_and_failed()])
    lines = capsys.readouterr().out.splitlines()
    ids = [line.split()[0] for line in lines if line.lstrip().startswith("j-1")]
    assert ids == ["j-1", "j-1.1", "j-1.2"]
