"""What `tunefarm log stats`, `top` and `show` ask of the log, over SQLite and PostgreSQL."""

from __future__ import annotations

import dataclasses
import json

import pytest
import sqlalchemy as sa

from coordinator.cli.log_show import _print_entry
from coordinator.tuning_log import TuningLog
from coordinator.tuning_log.browse import top_job, top_model, top_workload
from coordinator.tuning_log.entries import Entry, entry, trace_text, workload_json
from coordinator.tuning_log.naming import Named, device_kind, find
from coordinator.tuning_log.schema import imports, measurements
from coordinator.tuning_log.stats import stats
from protos.errors import BadRequest, NotFound
from protos.records import (
    UNTUNED_TRACE,
    Candidate,
    Device,
    EvaluatorConfig,
    JobState,
    MeasurementStatus,
    TaskProgress,
)
from tests.test_tuning_log import (
    KIND,
    RESULT,
    circumstances,
    failed,
    ok,
    spec,
    task,
)

pytest_plugins = ("tests.postgres",)

KEY, OTHER = "ab12cd" + "0" * 26, "ab12ce" + "0" * 26
UNTUNED = Candidate(KEY, UNTUNED_TRACE)
DEVICE = Device("d1", "{}", "one CPU", (0,), 1)
FINALS = EvaluatorConfig(number=1, repeat=2, hopeless_ratio=0.0, precision=0.0)


def new_job(log: TuningLog, name: str = "cls") -> str:
    job = log.add_job(spec(name), "here:1", embedded=True)
    log.set_tasks(job.job_id, [task(KEY, 2), task(OTHER, 1)])
    return job.job_id


def candidate(number: int, key: str = KEY) -> Candidate:
    return Candidate(key, f"[trace {number}]")


def record(log: TuningLog, job_id: str, one: Candidate, *times_us: float, kind: str = KIND) -> None:
    """A measurement of a search for each time."""
    for time_us in times_us:
        lease = f"{kind}-{one.key}-{time_us}"
        assert log.record(job_id, kind, one, ok(one, lease, time_us * 1e-6))


def play(log: TuningLog, job_id: str, one: Candidate, *turns_us: float) -> None:
    """Finals of a candidate: a round of two turns."""
    known = dataclasses.replace(circumstances(), evaluator=FINALS)
    repeats_s = [turn_us * 1e-6 for turn_us in turns_us for _ in range(FINALS.repeat)]
    played = ok(one, f"final-{one.key}", *repeats_s, circumstances=known)
    assert log.record(job_id, KIND, one, played)


def named(log: TuningLog, text: str) -> Named:
    with log.reading() as connection:
        return find(connection, text)


def shown(log: TuningLog, text: str) -> Entry:
    with log.reading() as connection:
        found = entry(connection, find(connection, text))
    json.dumps([found.fields, found.parts, found.texts])
    return found


# ---------------------------------------------------------------------------------- stats


def test_stats_of_an_empty_log(log: TuningLog) -> None:
    with log.reading() as connection:
        found = stats(connection)
    assert (found.jobs, found.measurements, found.kinds) == ({}, {}, ())
    assert (found.workloads, found.candidates, found.files, found.file_bytes) == (0, 0, 0, 0)


def test_stats_count_what_there_is(log: TuningLog) -> None:
    job_id = new_job(log)
    new_job(log, "det")
    log.save_job(dataclasses.replace(log.job(job_id), state=JobState.DONE))
    log.upsert_device(DEVICE)
    log.upsert_device(dataclasses.replace(DEVICE, name="d2"))
    kind = DEVICE.kind
    record(log, job_id, candidate(1), 10.0, 12.0, kind=kind)
    record(log, job_id, candidate(2), 10.0, kind="z")
    wrong = failed(candidate(3), "l", MeasurementStatus.WRONG_OUTPUT)
    log.record(job_id, kind, candidate(3), wrong)
    # What repeats another record took no time of the device.
    same = ok(candidate(4), "same-1", 1e-5)
    log.record(job_id, kind, candidate(4), same)
    log.add_cost_model(KIND, "tree", 3, {})
    log.add_package("key", job_id, RESULT, b"wheel")
    with log.reading() as connection:
        found = stats(connection)
    assert found.jobs == {"DONE": 1, "QUEUED": 1}
    assert found.measurements == {"OK": 4, "WRONG_OUTPUT": 1}
    assert (found.models, found.workloads, found.candidates) == (2, 2, 4)
    assert (found.cost_models, found.packages, found.files, found.file_bytes) == (1, 1, 1, 5)
    one, other = found.kinds
    assert (one.kind, one.measurements, one.failed, one.devices) == (kind, 4, 1, 2)
    assert one.cpu_models == ("one CPU",)
    assert one.device_s == pytest.approx(3 * 1.5)
    assert one.first_at <= one.last_at
    assert (other.kind, other.measurements, other.failed, other.devices) == ("z", 1, 0, 0)


# ---------------------------------------------------------------------------------- top


def test_the_fastest_candidates_of_a_workload_by_kind(log: TuningLog) -> None:
    job_id = new_job(log)
    record(log, job_id, UNTUNED, 100.0)
    for number in range(1, 6):
        record(log, job_id, candidate(number), 10.0 * number, 10.0 * number + 1)
    record(log, job_id, candidate(1), 70.0, kind="kind-b")
    log.record(job_id, KIND, candidate(2), failed(candidate(2), "l", MeasurementStatus.CRASHED))
    with log.reading() as connection:
        one, other = top_workload(connection, KEY, 3)
        (only,) = top_workload(connection, KEY, 3, "kind-b")
        assert top_workload(connection, OTHER, 3) == []
    best = [candidate(number).key for number in (1, 3, 4)]  # number 2 has crashed once
    assert [found.candidate_key for found in one.candidates] == best
    assert [found.latency_us for found in one.candidates] == pytest.approx([10.0, 30.0, 40.0])
    first = one.candidates[0]
    assert (first.right, first.final, first.untuned) == (2, False, False)
    assert first.over_untuned == pytest.approx(10.0)
    assert one.untuned_us == pytest.approx(100.0)
    assert other == only
    assert other.candidates[0].over_untuned is None


def test_cold_caches_never_answer_for_warm_ones(log: TuningLog) -> None:
    job_id = new_job(log)
    record(log, job_id, candidate(1), 10.0)
    cold = ok(candidate(2), "l", 5e-6, circumstances=circumstances(cold_cache=True))
    log.record(job_id, KIND, candidate(2), cold)
    with log.reading() as connection:
        found = top_workload(connection, KEY, 10)
    keys = [(one.cold_cache, [c.candidate_key for c in one.candidates]) for one in found]
    assert keys == [(False, [candidate(1).key]), (True, [candidate(2).key])]


def test_finalists_come_before_those_they_have_beaten(log: TuningLog) -> None:
    job_id = new_job(log)
    record(log, job_id, candidate(1), 10.0)
    play(log, job_id, candidate(1), 13.0, 13.5)
    record(log, job_id, candidate(2), 11.0)  # no finals: 10.0 was faster in the search
    record(log, job_id, candidate(3), 9.0)  # came later
    with log.reading() as connection:
        (found,) = top_workload(connection, KEY, 10)
    assert [(one.candidate_key, one.final) for one in found.candidates] == [
        (candidate(3).key, False),
        (candidate(1).key, True),
        (candidate(2).key, False),
    ]
    assert found.candidates[1].latency_us == pytest.approx(13.25)
    pooled = {item.candidate.key: item.pooled_us for item in log.evidence(KEY, KIND)}
    assert {one.candidate_key: one.latency_us for one in found.candidates} == pooled


def test_what_others_have_measured_is_marked(log: TuningLog) -> None:
    job_id = new_job(log)
    for number in (1, 2):
        record(log, job_id, candidate(number), 10.0 * number)
    suspect = failed(candidate(1), "l", MeasurementStatus.SUSPECT)
    with log.writing() as connection:
        found = {"source": "f", "format": "parquet", "imported_by": "unknown", "imported_at": 0.0}
        connection.execute(sa.insert(imports).values(import_id=1, records=2, **found))
        connection.execute(sa.update(measurements).values(import_id=1, job_id=None))
    record(log, job_id, candidate(2), 21.0)
    log.record(job_id, KIND, candidate(1), suspect)
    with log.reading() as connection:
        (top,) = top_workload(connection, KEY, 10)
        (model,) = top_job(connection, job_id)
    assert [one.imported for one in top.candidates] == [True, False]
    assert [one.imported for one in model.tasks] == [True, False]


def test_the_tasks_of_a_models_newest_job(log: TuningLog) -> None:
    older, newer = new_job(log), new_job(log)
    log.add_job(spec(), "here:1", embedded=True)  # has no tasks yet
    record(log, older, UNTUNED, 100.0)
    record(log, older, candidate(1), 10.0)
    record(log, older, candidate(1, OTHER), 60.0)
    with log.reading() as connection:
        (found,) = top_model(connection, "cls")
        assert top_job(connection, newer) == [found]
        assert top_model(connection, "cls", "kind-b") == []
    assert (found.job_id, found.device_kind, found.cold_cache) == (newer, KIND, False)
    slow, fast = found.tasks
    assert (slow.workload_key, slow.weight, slow.untuned_us) == (OTHER, 1, None)
    assert slow.share == pytest.approx(60 / 80)
    assert (fast.workload_key, fast.weight) == (KEY, 2)
    assert fast.speed_up == pytest.approx(10.0)
    assert fast.share == pytest.approx(20 / 80)
    assert fast.candidate_key == candidate(1).key


def test_the_tasks_are_those_of_the_tuned_model(log: TuningLog) -> None:
    job_id = new_job(log)
    record(log, job_id, candidate(1), 10.0)
    progress = (TaskProgress("chosen", KEY, 5),)
    log.save_job(dataclasses.replace(log.job(job_id), state=JobState.DONE, tasks=progress))
    with log.reading() as connection:
        (found,) = top_job(connection, job_id)
    assert [(one.name, one.weight, one.share) for one in found.tasks] == [("chosen", 5, 1.0)]


def test_top_of_a_job_without_tasks(log: TuningLog) -> None:
    job = log.add_job(spec(), "here:1", embedded=True)
    with log.reading() as connection, pytest.raises(NotFound, match="no tasks yet"):
        top_job(connection, job.job_id)


# ---------------------------------------------------------------------------------- names


def test_what_a_name_stands_for(log: TuningLog) -> None:
    job_id = new_job(log)
    one = candidate(1)
    record(log, job_id, one, 10.0)
    log.upsert_device(DEVICE)
    version = log.add_cost_model(KIND, "tree", 3, {})
    (outcome,) = log.outcomes(KEY, KIND)
    model = Named("model", "cls")
    expected = {
        job_id: Named("job", job_id),
        job_id[:6]: Named("job", job_id),
        "cls": model,
        "cls.onnx": model,
        spec().model_sha256[:6]: model,
        KEY: Named("workload", KEY),
        "ab12cd": Named("workload", KEY),
        "AB12CD00": Named("workload", KEY),
        one.key[:7]: Named("candidate", one.key),
        "d1": Named("device", "d1"),
        f"m{outcome.measurement_id}": Named("measurement", f"m{outcome.measurement_id}"),
        str(outcome.measurement_id): Named("measurement", f"m{outcome.measurement_id}"),
        f"v{version}": Named("cost model", f"v{version}"),
    }
    assert {text: named(log, text) for text in expected} == expected


@pytest.mark.parametrize("text", ["", "nothing", "ab12c", "ffffff", "m9", "v9", "j-0000", "9" * 30])
def test_a_name_of_nothing(log: TuningLog, text: str) -> None:
    new_job(log)
    with pytest.raises(NotFound, match="tunefarm log top MODEL"):
        named(log, text)


def test_a_name_of_several(log: TuningLog) -> None:
    third = "ab12cdffff"
    job = log.add_job(spec("ab12cd"), "here:1", embedded=True)
    log.set_tasks(job.job_id, [task(KEY), task(third)])
    assert named(log, "ab12cd") == Named("model", "ab12cd")  # exactly that
    with pytest.raises(BadRequest, match=f"workload {KEY}, workload {third}; write more"):
        named(log, "ab12cd".upper())


def test_a_number_that_begins_a_key_too(log: TuningLog) -> None:
    job = log.add_job(spec(), "here:1", embedded=True)
    log.set_tasks(job.job_id, [task("123456ab"), task(KEY)])
    assert named(log, "123456") == Named("workload", "123456ab")


def test_kinds_of_devices_by_how_they_begin(log: TuningLog) -> None:
    job_id = new_job(log)
    record(log, job_id, candidate(1), 1.0, kind="7a75")
    record(log, job_id, candidate(1), 1.0, kind="7a80")
    with log.reading() as connection:
        assert device_kind(connection, "7a8") == "7a80"
        assert device_kind(connection, "7a75") == "7a75"
        with pytest.raises(BadRequest, match="7a75, 7a80"):
            device_kind(connection, "7a")
        with pytest.raises(NotFound, match="tunefarm log stats"):
            device_kind(connection, "b")


# ---------------------------------------------------------------------------------- show


def test_all_about_a_job_and_a_model(log: TuningLog) -> None:
    job_id = new_job(log)
    record(log, job_id, candidate(1), 10.0, 11.0)
    version = log.add_cost_model(KIND, "tree", 3, {})
    log.add_ranking(job_id, KEY, version, 0.75, 0.5, 1.0, 8)
    log.add_package("key", job_id, RESULT, b"wheel")
    found = shown(log, job_id)
    assert found.fields["target"] == {"kind": "llvm"}
    assert found.fields["state"] == "QUEUED"
    assert [one["workload_key"] for one in found.parts["tasks"]] == [KEY, OTHER]
    counted = {"device_kind": KIND, "status": "OK", "measurements": 2}
    assert found.parts["measurements by status"] == [counted]
    assert found.parts["rankings by cost model"][0]["pairwise"] == 0.75
    assert found.parts["packages"][0]["key"] == "key"
    assert shown(log, "cls.onnx") == found


def test_all_about_a_workload(log: TuningLog) -> None:
    job_id = new_job(log)
    record(log, job_id, UNTUNED, 100.0)
    record(log, job_id, candidate(1), 10.0)
    found = shown(log, KEY[:6])
    assert found.fields["args"][0] == {"shape": [1, 3, 48, 192], "dtype": "float32"}
    assert found.parts["best"][0]["candidate_key"] == candidate(1).key
    assert found.parts["tasks of jobs"][0]["job_id"] == job_id
    with log.reading() as connection:
        assert workload_json(connection, KEY) == '{"root":1}'


def test_all_about_a_candidate_and_its_measurements(log: TuningLog) -> None:
    job_id = new_job(log)
    trace = '[[["GetLoops",["b0"],[],["l1"]],["Unroll",["l1"],[],[]]],[]]'
    one = Candidate(KEY, trace)
    record(log, job_id, one, 10.0)
    log.record(job_id, "kind-b", one, failed(one, "l", MeasurementStatus.TIMED_OUT))
    found = shown(log, one.key)
    assert found.texts["trace"] == "l1 = GetLoops(b0)\nUnroll(l1)"
    statuses = [row["status"] for row in found.parts["measurements"]]
    assert statuses == ["OK", "TIMED_OUT"]
    least = [(row["device_kind"], row["latency_us"]) for row in found.parts["standing"]]
    assert least == [(KIND, pytest.approx(10.0)), ("kind-b", None)]
    measurement = shown(log, f"m{found.parts['measurements'][0]['id']}")
    assert measurement.fields["tool_versions"] == {"tvm": "0.27.0", "gcc": "12.2"}
    assert measurement.fields["candidate_key"] == one.key


def test_columns_that_the_first_row_lacks_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    parts = {"standing": [{"a": 1, "b": None}, {"a": 2, "c": "late"}]}
    _print_entry(Entry("candidate", KEY, {}, parts), {})
    said = capsys.readouterr().out.split()
    assert said[-5:] == ["a", "c", "1", "2", "late"]


def test_all_about_a_device_and_a_cost_model(log: TuningLog) -> None:
    log.upsert_device(dataclasses.replace(DEVICE, labels={"rack": "3"}))
    job_id = new_job(log)
    record(log, job_id, candidate(1), 10.0)
    version = log.add_cost_model(KIND, "tree", 3, {"pairwise": 0.5})
    log.add_ranking(job_id, KEY, version, 0.75, 0.5, 1.0, 8)
    found = shown(log, "d1")
    assert found.parts["labels"] == [{"key": "rack", "value": "3"}]
    assert found.parts["measurements by status"] == [{"status": "OK", "measurements": 1}]
    model = shown(log, f"v{version}")
    assert model.fields["scores"] == {"pairwise": 0.5}
    assert model.texts == {"model": "tree"}
    assert model.parts["rankings by job"][0]["job_id"] == job_id


@pytest.mark.parametrize(
    ("trace", "text"),
    [
        ("", "(the untuned program: nothing is scheduled)"),
        ("no JSON [", "no JSON ["),
        ('{"a":1}', '{"a":1}'),
        ("[[],[]]", ""),
        (
            '[[["SamplePerfectTile",["l1"],[2,64],["v2","v3"]]],[[0,[4,8]]]]',
            "v2, v3 = SamplePerfectTile(l1, 2, 64)  # [4, 8]",
        ),
    ],
)
def test_a_trace_as_people_read_it(trace: str, text: str) -> None:
    assert trace_text(trace) == text
