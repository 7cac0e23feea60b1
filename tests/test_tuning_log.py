"""The contract of the tuning log, the same over SQLite and PostgreSQL."""

from __future__ import annotations

import dataclasses
import math
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from coordinator.tuning_log import (
    BestRecord,
    Evidence,
    RankingRecord,
    TuningLog,
    tool_versions_key,
)
from coordinator.tuning_log.blobs import CHUNK_BYTES
from coordinator.tuning_log.schema import imports, measurements
from protos.errors import BadRequest, Conflict, LogUnavailable, NotFound
from protos.records import (
    UNTUNED_TRACE,
    Candidate,
    Circumstances,
    Device,
    EngineResult,
    EvaluatorConfig,
    Job,
    JobSpec,
    JobState,
    Measurement,
    MeasurementStatus,
    ModelResult,
    RankingQuality,
    Shape,
    Task,
    TaskProgress,
    Telemetry,
    TensorSpec,
    TrialCounts,
    sha256_hex,
)

pytest_plugins = ("tests.postgres",)

KIND = "kind-a"
TOOLS = {"tvm": "0.27.0", "gcc": "12.2"}
ENGINES = (EngineResult("onnxruntime", "1.31.1", 2.5, 2.4, 2.6, 1e-6, 2e-4),)
RESULT = ModelResult(
    12.5, 1.25, 1e-6, 2e-4, "m-1-py3-none-any.whl", "ab" * 32, 1234, 1.2, 1.3, ENGINES
)


def spec(name: str = "cls", **changes: object) -> JobSpec:
    plain = JobSpec(name, sha256_hex(name.encode()), '{"kind":"llvm"}', 64)
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def task(key: str = "w1", weight: int = 2) -> Task:
    args = (TensorSpec((1, 3, 48, 192), "float32"), TensorSpec((), "int64"))
    return Task(f"fused_{key}", key, '{"root":1}', weight, args, 1, 2.5e9)


def new_job(log: TuningLog, *keys: str) -> str:
    job = log.add_job(spec(), "here:1", embedded=True)
    log.set_tasks(job.job_id, [task(key) for key in keys or ("w1",)])
    return job.job_id


def circumstances(
    device: str = "d1", tools: dict[str, str] = TOOLS, cold_cache: bool = False
) -> Circumstances:
    before = Telemetry(41.5, 2400.0, "performance", 0.25, "none")
    after = Telemetry(temperature_c=55.0)
    evaluator = EvaluatorConfig(number=3, repeat=7, cold_cache=cold_cache)
    return Circumstances(device, tools, evaluator, 2, (0, 3), True, before, after, 0.5, 1.5)


def ok(candidate: Candidate, lease: str, *repeats_s: float, **changes: object) -> Measurement:
    measurement = Measurement(
        workload_key=candidate.workload_key,
        candidate_key=candidate.key,
        status=MeasurementStatus.OK,
        lease_id=lease,
        artifact_sha256=sha256_hex(candidate.key.encode()),
        repeats_s=repeats_s or (1e-3, 3e-3, 2e-3),
        max_abs_error=1e-7,
        circumstances=circumstances(),
    )
    return dataclasses.replace(measurement, **changes)  # type: ignore[arg-type]


def failed(candidate: Candidate, lease: str, status: MeasurementStatus) -> Measurement:
    return ok(candidate, lease, status=status, repeats_s=(), error="it said no")


# ---------------------------------------------------------------------------------- blobs


def test_blobs_come_back_and_are_stored_once(log: TuningLog) -> None:
    data = random.Random(0).randbytes(2 * CHUNK_BYTES + 1)
    sha256 = log.put_blob(data)
    assert sha256 == sha256_hex(data)
    assert log.put_blob(data) == sha256
    assert log.get_blob(sha256) == data
    assert log.get_blob(log.put_blob(b"")) == b""
    assert log.has_blob(sha256)
    assert not log.has_blob("0" * 64)
    with pytest.raises(NotFound, match="submit"):
        log.get_blob("0" * 64)


# ---------------------------------------------------------------------------------- jobs


def test_jobs_are_found_by_their_project(log: TuningLog) -> None:
    first = log.add_job(spec(project="vision", submitted_by="ada"), "here:1", embedded=True)
    log.add_job(spec(), "here:1", embedded=True)
    second = log.add_job(spec(project="vision"), "here:1", embedded=True)
    assert [job.job_id for job in log.jobs(project="vision")] == [second.job_id, first.job_id]
    assert log.jobs(project="none") == []
    assert log.job(first.job_id).spec.submitted_by == "ada"
    assert first.spec.identity == second.spec.identity
    # What an older client leaves out has a name.
    bare = log.add_job(spec(project="", submitted_by=""), "here:1", embedded=True)
    assert (bare.spec.project, bare.spec.submitted_by) == ("default", "unknown")


def test_a_job_is_kept_as_it_was_asked_for(log: TuningLog) -> None:
    asked = spec(shapes={"x": Shape((1, 3)), "y": Shape(())}, time_limit_s=600.0, seed=7)
    job = log.add_job(asked, "here:1", embedded=True)
    assert job.spec == asked
    assert job.spec.identity == asked.identity
    assert job.state is JobState.QUEUED
    assert abs(job.submitted_at - time.time()) < 60
    assert log.job(job.job_id) == job
    with pytest.raises(NotFound, match="tunefarm jobs list"):
        log.job("j-nothere")


def test_progress_and_result_come_back(log: TuningLog) -> None:
    job = log.add_job(spec(), "here:1", embedded=False)
    progressed = dataclasses.replace(
        job,
        state=JobState.DONE,
        stage="packaging",
        error="none",
        trials=TrialCounts(10, 7, 3, 2),
        tasks=(TaskProgress("f", "w1", 3, 10.0, None, 5), TaskProgress("g", "w2", 1)),
        ranking=RankingQuality(0.75, 0.5, 1.0, 4),
        elapsed_s=12.5,
        remaining_s=0.25,
        result=RESULT,
    )
    log.save_job(progressed)
    assert log.job(job.job_id) == progressed
    with pytest.raises(NotFound):
        log.save_job(dataclasses.replace(progressed, job_id="j-nothere"))


def test_the_interval_of_a_result_comes_back_with_its_package(log: TuningLog) -> None:
    job = log.add_job(spec(), "here:1", embedded=False)
    sure = dataclasses.replace(
        RESULT, package_sha256=sha256_hex(b"wheel"), tuned_low_ms=1.2, tuned_high_ms=1.3
    )
    log.save_job(dataclasses.replace(job, result=sure))
    log.add_package("key", job.job_id, sure, b"wheel")
    assert log.job(job.job_id).result == sure


def test_what_is_not_finite_and_too_long_is_kept_within_bounds(log: TuningLog) -> None:
    job = log.add_job(spec(), "here:1", embedded=False)
    ranking = RankingQuality(math.nan, math.inf, 0.5, 1)
    log.save_job(dataclasses.replace(job, error="é\0" * 9000, ranking=ranking))
    kept = log.job(job.job_id)
    assert len(kept.error.encode()) <= 4096
    assert kept.error.startswith("é�é")
    assert kept.ranking is not None
    assert math.isnan(kept.ranking.pairwise)
    assert kept.ranking.peak_at_5 == 0.5


def test_jobs_are_listed_newest_first(log: TuningLog) -> None:
    ids = [log.add_job(spec(), "here:1", embedded=False).job_id for _ in range(4)]
    assert [job.job_id for job in log.jobs()] == ids[::-1]
    assert [job.job_id for job in log.jobs(limit=2)] == ids[:1:-1]


def test_unfinished_jobs(log: TuningLog) -> None:
    jobs = [log.add_job(spec(), "here:1", embedded=bool(i % 2)) for i in range(4)]
    ids = [job.job_id for job in jobs]
    log.save_job(dataclasses.replace(jobs[0], state=JobState.RUNNING))
    log.save_job(dataclasses.replace(jobs[3], state=JobState.CANCELLED))
    assert [job.job_id for job in log.unfinished_jobs(None)] == ids[:3]
    assert [job.job_id for job in log.unfinished_jobs(embedded=True)] == [ids[1]]
    assert [job.job_id for job in log.unfinished_jobs(embedded=False)] == [ids[0], ids[2]]


def test_only_silent_embedded_unfinished_jobs_are_marked_interrupted(log: TuningLog) -> None:
    jobs = [log.add_job(spec(), "here:1", embedded=i < 3) for i in range(4)]
    log.save_job(dataclasses.replace(jobs[1], state=JobState.RUNNING))
    log.save_job(dataclasses.replace(jobs[2], state=JobState.FAILED))
    assert log.mark_interrupted(older_than_s=30.0) == 0
    log.touch_job(jobs[0].job_id)
    assert log.mark_interrupted(older_than_s=0.0) == 2
    states = [log.job(job.job_id).state for job in jobs]
    interrupted = JobState.INTERRUPTED
    assert states == [interrupted, interrupted, JobState.FAILED, JobState.QUEUED]
    assert log.mark_interrupted(older_than_s=0.0) == 0


def test_a_heartbeat_keeps_a_job_alive(log: TuningLog) -> None:
    silent, beating = (log.add_job(spec(), "here:1", embedded=True) for _ in range(2))
    time.sleep(0.3)
    log.touch_job(beating.job_id)
    assert log.mark_interrupted(older_than_s=0.2) == 1
    assert log.job(silent.job_id).state is JobState.INTERRUPTED
    with pytest.raises(NotFound):
        log.touch_job("j-nothere")


def test_time_spent_is_that_of_the_same_identity(log: TuningLog) -> None:
    def spend(name: str, elapsed_s: float) -> Job:
        job = log.add_job(spec(name), "here:1", embedded=True)
        log.save_job(dataclasses.replace(job, elapsed_s=elapsed_s))
        return job

    this = spend("a", 100.0)
    spend("a", 2.5)
    spend("a", 4.0)
    spend("b", 1000.0)
    assert log.spent_s(this.spec.identity, this.job_id) == 6.5
    assert log.spent_s("nobody", this.job_id) == 0.0


def test_tasks_come_back_in_order_and_can_be_set_again(log: TuningLog) -> None:
    job_id = log.add_job(spec(), "here:1", embedded=True).job_id
    log.set_tasks(job_id, [task("w2"), task("w1")])
    assert log.tasks(job_id) == [task("w2"), task("w1")]
    log.set_tasks(job_id, [task("w1", 9), task("w3"), task("w2")])
    assert log.tasks(job_id) == [task("w1", 9), task("w3"), task("w2")]
    log.set_tasks(job_id, [])
    assert log.tasks(job_id) == []
    with pytest.raises(NotFound):
        log.set_tasks("j-nothere", [task()])


# ---------------------------------------------------------------------------------- recording


def test_a_measurement_comes_back_with_its_circumstances(log: TuningLog) -> None:
    job_id = new_job(log)
    candidate = Candidate("w1", "[trace]")
    measurement = ok(candidate, "lease-1")
    assert log.record(job_id, KIND, candidate, measurement, predicted_score=0.5)
    assert log.measured(KIND, measurement.artifact_sha256) == measurement
    assert log.measured("another kind", measurement.artifact_sha256) is None
    assert log.measured(KIND, sha256_hex(b"other bytes")) is None
    (outcome,) = log.outcomes("w1", KIND)
    assert outcome.candidate == candidate
    assert outcome.status is MeasurementStatus.OK
    assert outcome.latency_us == pytest.approx(1000.0)
    assert outcome.artifact_sha256 == measurement.artifact_sha256
    assert outcome.tool_versions_key == tool_versions_key(TOOLS)


def test_a_result_that_comes_twice_is_kept_once(log: TuningLog) -> None:
    job_id = new_job(log)
    a, b = Candidate("w1", "a"), Candidate("w1", "b")
    assert log.record(job_id, KIND, a, ok(a, "lease-1"))
    assert not log.record(job_id, KIND, a, ok(a, "lease-1", 9e-3))
    assert log.record(job_id, KIND, b, ok(b, "lease-1"))
    assert log.record(job_id, KIND, a, ok(a, "lease-2"))
    assert len(log.outcomes("w1", KIND)) == 3


def test_a_candidate_that_was_never_leased_fails_once_for_each_job_and_kind(
    log: TuningLog,
) -> None:
    first, second = new_job(log), new_job(log)
    candidate = Candidate("w1", "a")
    unbuilt = Measurement("w1", candidate.key, MeasurementStatus.BUILD_ERROR, error="no")
    assert log.record(first, KIND, candidate, unbuilt)
    assert not log.record(first, KIND, candidate, unbuilt)
    assert log.record(first, "kind-b", candidate, unbuilt)
    assert log.record(second, KIND, candidate, unbuilt)
    outcomes = log.outcomes("w1", KIND)
    assert [(o.status, o.latency_us, o.artifact_sha256) for o in outcomes] == [
        (MeasurementStatus.BUILD_ERROR, None, "")
    ] * 2
    assert log.measured(KIND, "") is None


def test_many_are_recorded_together_in_their_order(log: TuningLog) -> None:
    job_id = new_job(log)
    tried = [Candidate("w1", str(i)) for i in range(20)]
    log.record(job_id, KIND, tried[3], ok(tried[3], "lease-1"))
    rows = [(job_id, KIND, c, ok(c, "lease-1"), None) for c in (*tried, tried[5])]
    new = log.record_many(rows)
    assert new == [i != 3 for i in range(20)] + [False]
    assert log.record_many([]) == []


def test_many_are_recorded_all_or_none(log: TuningLog) -> None:
    job_id = new_job(log)
    good, bad = Candidate("w1", "good"), Candidate("an unknown workload", "bad")
    rows = [(job_id, KIND, c, ok(c, "lease-1"), None) for c in (good, bad)]
    with pytest.raises(Conflict):
        log.record_many(rows)
    assert log.outcomes("w1", KIND) == []
    with pytest.raises(Conflict):
        log.record("j-nothere", KIND, good, ok(good, "lease-1"))


def test_a_measurement_of_another_candidate_is_refused(log: TuningLog) -> None:
    job_id = new_job(log)
    a, b = Candidate("w1", "a"), Candidate("w1", "b")
    with pytest.raises(BadRequest, match="lease-1"):
        log.record(job_id, KIND, a, ok(b, "lease-1"))


@pytest.mark.parametrize("status", MeasurementStatus)
def test_every_status_is_kept(log: TuningLog, status: MeasurementStatus) -> None:
    job_id = new_job(log)
    candidate = Candidate("w1", "a")
    log.record(job_id, KIND, candidate, ok(candidate, "lease-1", status=status))
    (outcome,) = log.outcomes("w1", KIND)
    assert outcome.status is status
    assert (outcome.latency_us is None) == (status is not MeasurementStatus.OK)


def test_what_a_device_says_is_bounded(log: TuningLog) -> None:
    job_id = new_job(log)
    candidate = Candidate("w1", "a")
    said = ok(
        candidate,
        "lease-1",
        status=MeasurementStatus.GARBAGE,
        error="\0\ud800é" * 100_000,
        repeats_s=(math.nan, 1.0, math.inf) * 5000,
        max_abs_error=math.nan,
        circumstances=circumstances("d\0" * 500, {f"tool{i}": "v" * 999 for i in range(500)}),
    )
    log.record(job_id, KIND, candidate, said)
    kept = log.measured(KIND, said.artifact_sha256)
    assert kept is not None
    assert kept.circumstances is not None
    assert len(kept.error.encode()) <= 4096
    assert len(kept.circumstances.device.encode()) <= 256
    assert len(str(kept.circumstances.tool_versions)) < 20_000
    assert len(kept.repeats_s) <= 4096
    assert math.isnan(kept.repeats_s[0])
    assert math.isnan(kept.max_abs_error)


@pytest.mark.parametrize("repeats_s", [(-1.0,), (0.0,), (math.nan,), (-math.inf, 1.0, 1.0)])
def test_an_impossible_time_never_wins(log: TuningLog, repeats_s: tuple[float, ...]) -> None:
    job_id = new_job(log)
    liar, honest = Candidate("w1", "liar"), Candidate("w1", "honest")
    log.record(job_id, KIND, liar, ok(liar, "lease-1", *repeats_s))
    log.record(job_id, KIND, honest, ok(honest, "lease-1"))
    assert [record.candidate for record in log.best_k("w1", KIND, 2)] == [honest]


# ---------------------------------------------------------------------------------- asking


def test_the_newest_measurement_of_the_same_bytes_answers(log: TuningLog) -> None:
    job_id = new_job(log)
    candidate = Candidate("w1", "a")
    other_tools = {"tvm": "0.26"}
    old = ok(candidate, "lease-1", 5e-3, circumstances=circumstances(tools=other_tools))
    new = ok(candidate, "lease-2", 4e-3)
    lost = failed(candidate, "lease-3", MeasurementStatus.DEVICE_LOST)
    suspect = failed(candidate, "lease-4", MeasurementStatus.SUSPECT)
    for measurement in (old, new, lost, suspect):
        assert log.record(job_id, KIND, candidate, measurement)
    sha256 = new.artifact_sha256
    assert log.measured(KIND, sha256) == new
    assert log.measured(KIND, sha256, [TOOLS]) == new
    assert log.measured(KIND, sha256, [{"tvm": "0"}, other_tools]) == old
    assert log.measured(KIND, sha256, [{"tvm": "0.1"}]) is None


def test_the_best_is_the_fastest_correct_one_of_the_kind(log: TuningLog) -> None:
    job_id = new_job(log, "w1", "w2", "w3")
    untuned, slow, fast, wrong = (Candidate("w1", t) for t in (UNTUNED_TRACE, "s", "f", "w"))
    other = Candidate("w2", UNTUNED_TRACE)
    for candidate, repeat_s in ((slow, 3e-3), (fast, 2e-3), (untuned, 1e-3), (other, 7e-3)):
        log.record(job_id, KIND, candidate, ok(candidate, "lease-1", repeat_s))
    log.record(job_id, KIND, wrong, failed(wrong, "lease-1", MeasurementStatus.WRONG_OUTPUT))
    log.record(job_id, "kind-b", slow, ok(slow, "lease-2", 1e-9))
    ids = {outcome.candidate: outcome.measurement_id for outcome in log.outcomes("w1", KIND)}

    best = log.best_k("w1", KIND, 9)
    assert best[0] == BestRecord(ids[untuned], untuned, 1000.0)
    assert [record.candidate for record in best] == [untuned, fast, slow]
    assert log.best_k("w1", KIND, 2) == best[:2]
    assert [record.candidate for record in log.best_k("w2", KIND, 9)] == [other]
    assert [record.candidate for record in log.best_k("w1", "kind-b", 9)] == [slow]
    assert log.best_k("w3", KIND, 9) == []


def test_evidence_is_of_all_records_of_a_candidate(log: TuningLog) -> None:
    job_id = new_job(log)
    finalist, once, wrong = (Candidate("w1", trace) for trace in ("f", "o", "w"))
    evaluator = EvaluatorConfig(repeat=2, hopeless_ratio=0, max_repeat=0)
    final = dataclasses.replace(circumstances(), evaluator=evaluator)
    log.record(job_id, KIND, finalist, ok(finalist, "lease-1", 1e-3, 1e-3))
    log.record(job_id, KIND, once, ok(once, "lease-1", 2e-3))
    log.record(job_id, KIND, wrong, ok(wrong, "lease-1", 1e-6))
    wrong_later = failed(wrong, "lease-2", MeasurementStatus.WRONG_OUTPUT)
    log.record(job_id, KIND, wrong, wrong_later)
    for lease, second_s in (("lease-2", 1.5e-3), ("lease-3", 1.7e-3)):
        again = ok(finalist, lease, second_s, second_s, circumstances=final)
        log.record(job_id, KIND, finalist, again)
    suspect = Candidate("w1", "s")
    log.record(job_id, KIND, suspect, failed(suspect, "lease-1", MeasurementStatus.SUSPECT))

    found = log.evidence("w1", KIND)
    assert [item.candidate for item in found] == [finalist, once, wrong]
    assert found[0].latency_us == pytest.approx(1000.0)
    assert found[0].finals_s == ((1.5e-3,), (1.7e-3,)), "two samples are a turn"
    assert found[0].pooled_us == pytest.approx(1600.0)
    assert found[0].artifact_sha256 == sha256_hex(finalist.key.encode())
    assert (found[1].pooled_us, found[1].finals_s) == (pytest.approx(2000.0), ())
    assert found[2].pooled_us is None
    assert log.evidence("w1", KIND, cold_cache=True) == []
    assert log.evidence("w1", "kind-b") == []


def test_records_of_other_tools_and_farms_are_doubtful(log: TuningLog) -> None:
    job_id = new_job(log)
    now, before = {"tvm": "2"}, {"tvm": "1"}
    sure, old, both, foreign, unbuilt = (Candidate("w1", trace) for trace in "sobfu")

    def made_with(tools: dict[str, str], candidate: Candidate, lease: str, s: float) -> None:
        said = ok(candidate, lease, s, circumstances=circumstances(tools=tools))
        log.record(job_id, KIND, candidate, said)

    made_with(now, sure, "lease-1", 3e-3)
    made_with(before, old, "lease-2", 1e-3)
    made_with(before, both, "lease-3", 1e-3)
    made_with(now, both, "lease-4", 4e-3)
    made_with(now, foreign, "lease-5", 5e-4)
    failure = failed(unbuilt, "build-1", MeasurementStatus.BUILD_ERROR)
    log.record(job_id, KIND, unbuilt, dataclasses.replace(failure, circumstances=None))
    with log.writing() as connection:
        imported = sa.insert(imports).values(
            source="there", format="parquet", imported_by="unknown", imported_at=0.0, records=1
        )
        import_id = connection.execute(imported.returning(imports.c.import_id)).scalar_one()
        connection.execute(
            sa.update(measurements)
            .where(measurements.c.lease_id == "lease-5")
            .values(import_id=import_id, job_id=None)
        )

    def found(items: list[Evidence]) -> dict[str, float | None]:
        return {item.candidate.trace_json: item.latency_us for item in items}

    assert found(log.evidence("w1", KIND, False, [now])) == {"s": 3000.0, "b": 4000.0, "u": None}
    assert found(log.doubtful("w1", KIND, False, [now])) == {"o": 1000.0, "f": 500.0}
    assert found(log.evidence("w1", KIND, False, [before])) == {"o": 1000.0, "b": 1000.0, "u": None}
    assert len(log.evidence("w1", KIND)) == 5
    # Two devices of a kind measure for each other, whatever tools each of them has.
    assert len(log.evidence("w1", KIND, False, [now, before])) == 4
    assert found(log.doubtful("w1", KIND, False, [now, before])) == {"f": 500.0}
    # What another farm measured does not answer in place of a device, however equal the bytes.
    assert log.measured(KIND, sha256_hex(foreign.key.encode()), [now]) is None
    assert log.measured(KIND, sha256_hex(sure.key.encode()), [now]) is not None
    assert [one.candidate for one in log.best_k("w1", KIND, 2)] == [foreign, old]
    log.record(job_id, "kind-b", sure, ok(sure, "lease-6"))
    assert log.kinds() == [KIND, "kind-b"]
    assert log.target_of("kind-b") == '{"kind":"llvm"}', "that of the job which measured on it"
    board = Device("pi", '{"kind":"llvm","mcpu":"cortex-a76"}', "Cortex-A76", (0,), 1)
    log.upsert_device(board)
    assert log.target_of(board.kind) == board.target_json
    assert log.target_of("of an import") == ""


def test_warm_and_cold_caches_never_answer_for_each_other(log: TuningLog) -> None:
    warm_job = new_job(log)
    cold_job = log.add_job(spec(cold_cache=True), "here:1", embedded=True)
    log.set_tasks(cold_job.job_id, [task("w1")])
    untuned, warm, cold = (Candidate("w1", trace) for trace in (UNTUNED_TRACE, "w", "c"))
    emptied = circumstances(cold_cache=True)
    log.record(warm_job, KIND, warm, ok(warm, "lease-1", 1e-3))
    log.record(warm_job, KIND, untuned, ok(untuned, "lease-1", 2e-3))
    log.record(cold_job.job_id, KIND, cold, ok(cold, "lease-2", 5e-3, circumstances=emptied))
    log.record(cold_job.job_id, KIND, untuned, ok(untuned, "lease-2", 7e-3, circumstances=emptied))
    unbuilt = Measurement("w1", Candidate("w1", "u").key, MeasurementStatus.BUILD_ERROR)
    log.record(cold_job.job_id, KIND, Candidate("w1", "u"), unbuilt)

    assert {o.candidate for o in log.outcomes("w1", KIND)} == {untuned, warm}
    assert {o.candidate for o in log.outcomes("w1", KIND, cold_cache=True)} == {
        *(untuned, cold, Candidate("w1", "u"))
    }
    for candidate, is_cold in ((warm, False), (cold, True)):
        sha256 = ok(candidate, "").artifact_sha256
        assert log.measured(KIND, sha256, cold_cache=is_cold) is not None
        assert log.measured(KIND, sha256, cold_cache=not is_cold) is None
        best = log.best_k("w1", KIND, 9, cold_cache=is_cold)
        assert [record.candidate for record in best] == [candidate, untuned]
        assert best[1].latency_us == pytest.approx(7000.0 if is_cold else 2000.0)
    assert len(log.evidence("w1", KIND)) == 2
    assert len(log.evidence("w1", KIND, cold_cache=True)) == 3
    assert spec().identity != cold_job.spec.identity


# ---------------------------------------------------------------------------------- the rest


def test_devices(log: TuningLog) -> None:
    device = Device(
        name="d1",
        target_json='{"kind":"llvm"}',
        cpu_model="Neoverse",
        cpus=(0, 1),
        num_threads=2,
        emulated=True,
        tool_versions=TOOLS,
        engine_versions={"onnxruntime": "1.31.1"},
        host="h",
        cpu_features=("sve",),
    )
    labels = {"rack": "3", "watts": "7.5"}
    log.upsert_device(dataclasses.replace(device, cpu_model="before", labels=labels))
    log.upsert_device(dataclasses.replace(device, labels={"watts": "15"}))
    log.upsert_device(dataclasses.replace(device, name="d2", labels=labels))
    assert [known.labels for known in log.devices()] == [{"watts": "15"}, labels]
    log.upsert_device(device)
    assert log.devices() == [device, dataclasses.replace(device, name="d2", labels=labels)]
    job_id = new_job(log)
    for i, name in enumerate(("d1", "d2", "d1")):
        candidate = Candidate("w1", str(i))
        said = ok(candidate, "lease-1", circumstances=circumstances(name))
        log.record(job_id, KIND, candidate, said)
    assert log.device_measurements() == {"d1": 2, "d2": 1}


def test_cost_models_and_rankings(log: TuningLog) -> None:
    job_id = new_job(log)
    assert log.latest_cost_model(KIND) is None
    first = log.add_cost_model(KIND, "tree 1", 100, {"pairwise": 0.75, "peak_at_1": math.nan})
    second = log.add_cost_model(KIND, "tree 2", 200, {"pairwise": 0.5})
    refused = log.add_cost_model(KIND, None, 300, {"pairwise": 0.4})
    log.add_cost_model("kind-b", "tree 3", 5, {})
    trained = log.cost_models(KIND)
    assert [model.version for model in trained] == [first, second, refused]
    assert [model.promoted for model in trained] == [True, True, False]
    assert (trained[2].trained_on, trained[2].scores) == (300, {"pairwise": 0.4})
    assert first < second
    assert log.latest_cost_model(KIND) == (second, "tree 2")
    log.add_ranking(job_id, "w1", None, 0.5, 0.25, 0.75, 8)
    log.add_ranking(job_id, "w1", second, math.nan, 0.5, 1.0, 1)
    blind, seeing = log.rankings(job_id)
    assert blind == RankingRecord("w1", None, 0.5, 0.25, 0.75, 8)
    assert seeing.cost_model_version == second
    assert math.isnan(seeing.pairwise)
    with pytest.raises(Conflict):
        log.add_ranking(job_id, "w1", 999, 0.5, 0.5, 0.5, 8)


def test_samples_are_of_all_jobs_and_have_features(log: TuningLog) -> None:
    first, second = new_job(log), new_job(log)
    known = [Candidate("w1", str(i)) for i in range(5)]
    log.record(first, KIND, known[0], ok(known[0], "l1", 2e-3))
    log.record(second, KIND, known[1], failed(known[1], "l2", MeasurementStatus.CRASHED))
    log.record(second, KIND, known[2], failed(known[2], "l3", MeasurementStatus.SUSPECT))
    log.record(second, KIND, known[3], ok(known[3], "l4"))  # has no features
    log.record(second, "kind-b", known[4], ok(known[4], "l5"))
    log.keep_features(1, {candidate.key: b"old" for candidate in known[:3]})
    log.keep_features(2, {candidate.key: candidate.trace_json.encode() for candidate in known[:3]})
    log.keep_features(2, {known[4].key: b"4"})
    rows = log.newest_samples(KIND, False, 2, 10)
    assert [(row.candidate_key, row.latency_us, row.features) for row in rows] == [
        (known[0].key, 2000.0, b"0"),
        (known[1].key, None, b"1"),
    ]
    assert log.newest_samples(KIND, False, 2, 1) == rows[1:]
    assert log.newest_samples(KIND, False, 1, 10) == []
    assert log.newest_samples(KIND, True, 2, 10) == []
    assert log.samples_after(KIND, False, 2, rows[0].measurement_id, 10) == rows[1:]
    assert log.samples_after(KIND, False, 2, 0, 1) == rows[:1]
    with pytest.raises(Conflict):
        log.keep_features(2, {"nobody": b""})


def test_packages(log: TuningLog) -> None:
    job_id = new_job(log)
    assert log.package("key") is None
    log.add_package("key", job_id, RESULT, b"wheel")
    assert log.package("key") == (RESULT, b"wheel")
    assert log.get_blob(sha256_hex(b"wheel")) == b"wheel"
    without = dataclasses.replace(RESULT, engines=())
    log.add_package("key", job_id, without, b"better wheel")
    assert log.package("key") == (without, b"better wheel")


def test_a_closed_log_says_so(log: TuningLog) -> None:
    log.close()
    with pytest.raises(LogUnavailable, match="closed"):
        log.jobs()


def test_the_log_is_the_same_after_it_was_closed(log: TuningLog) -> None:
    job_id = new_job(log)
    log.close()
    again = TuningLog.open(log.url)
    assert [job.job_id for job in again.jobs()] == [job_id]
    again.close()


def test_threads_lose_and_double_nothing(log: TuningLog) -> None:
    job_id = new_job(log)
    tried = [Candidate("w1", str(i)) for i in range(30)]

    def write(worker: int) -> int:
        # Two workers send each lease, in opposite order, one by one and all at once.
        lease = f"lease-{worker // 2}"
        order = tried if worker % 2 else tried[::-1]
        rows = [(job_id, KIND, c, ok(c, lease), None) for c in order]
        new = sum(log.record(*row) for row in rows[:10]) + sum(log.record_many(rows))
        log.touch_job(job_id)
        return new

    with ThreadPoolExecutor(8) as pool:
        new = list(pool.map(write, range(8)))
    assert sum(new) == 4 * len(tried)
    outcomes = log.outcomes("w1", KIND)
    assert len(outcomes) == 4 * len(tried)
    assert {outcome.candidate for outcome in outcomes} == set(tried)
