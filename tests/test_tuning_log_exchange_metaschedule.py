"""Records as stock MetaSchedule's database: written for it, and read from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import te, topi
from tvm.target import Target

from coordinator.cli.main import main
from coordinator.tuning_log import TuningLog
from coordinator.tuning_log.exchange.metaschedule_export import export_metaschedule
from coordinator.tuning_log.exchange.metaschedule_files import RECORDS, WORKLOADS
from coordinator.tuning_log.exchange.metaschedule_import import import_metaschedule
from coordinator.tuning_log.exchange.report import ImportReport
from coordinator.tuning_log.exchange.selection import Filters
from coordinator.tuning_log.exchange.tvm_process import TvmProcess
from coordinator.tuning_log.schema import candidates, measurements, workloads
from device_agent.build import build_kernel, register_intrinsics
from protos.errors import BadRequest
from protos.records import UNTUNED_TRACE, Candidate, MeasurementStatus
from tests.exchange import KIND, TARGET, fill, operator, reordered, untuned
from tests.test_tuning_log import failed, ok

register_intrinsics(TARGET)  # before MetaSchedule imports all of them
from tvm.s_tir import meta_schedule as ms  # noqa: E402

pytest_plugins = ("tests.postgres",)

SIZE = 32


@pytest.fixture
def here(tmp_path: Path) -> Iterator[TuningLog]:
    opened = TuningLog.open(str(tmp_path / "here.db"))
    fill(opened)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def process() -> Iterator[TvmProcess]:
    with TvmProcess() as opened:
        yield opened


def stock(folder: Path) -> Any:
    return ms.database.JSONDatabase(str(folder / WORKLOADS), str(folder / RECORDS))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stock MetaSchedule writes of a search over a kernel with names of its own."""
    folder = tmp_path_factory.mktemp("stock")
    a, b = (te.placeholder((SIZE, SIZE), name=name) for name in "XY")
    kernel = te.create_prim_func([a, b, topi.nn.relu(topi.nn.matmul(a, b))])
    mod, target = tvm.IRModule({"main": kernel}), Target(json.loads(TARGET))
    database = stock(folder)
    workload = database.commit_workload(mod)
    context = ms.TuneContext(
        mod=mod,
        target=target,
        space_generator="post-order-apply",
        search_strategy=ms.search_strategy.ReplayTrace(),
        task_name="t",
        num_threads=1,
        rand_state=3,
    )
    spaces = context.generate_design_space()
    context.pre_tuning(8, 8, spaces, database, ms.cost_model.RandomModel())
    found = context.generate_measure_candidates()
    assert len(found) >= 4
    for number, each in enumerate(found):
        run_s = [1e-3 + number * 1e-4, 2e-3] if number else [1e10]
        record = ms.database.TuningRecord(each.sch.trace, workload, run_s, target, each.args_info)
        database.commit_tuning_record(record)
    return folder


def read(log: TuningLog, path: Path, process: TvmProcess) -> ImportReport:
    report = ImportReport()
    import_metaschedule(log, path, "ann", report, process)
    return report


def write(log: TuningLog, folder: Path, process: TvmProcess, **filters: Any) -> dict[str, int]:
    return export_metaschedule(log, folder, Filters(**filters), process, force=True).records


def all_of(log: TuningLog, table: Any) -> list[Any]:
    with log.reading() as connection:
        return list(connection.execute(table.select()).all())


# ---------------------------------------------------------------------------------- written


def test_stock_metaschedule_compiles_the_best_of_a_log(
    log: TuningLog, process: TvmProcess, tmp_path: Path
) -> None:
    fill(log)
    assert write(log, tmp_path / "out", process) == {"records": 3, "workloads": 2}
    database = stock(tmp_path / "out")
    assert len(database) == 3
    module = tvm.ir.load_json(operator().workload_json)
    assert database.has_workload(module)
    best, untuned_record = database.get_top_k(database.commit_workload(module), 5)
    assert [float(run_s) for run_s in best.run_secs] == [1.25e-3, 1.5e-3]
    assert [float(run_s) for run_s in untuned_record.run_secs] == [4e-3, 5e-3]
    target = Target(json.loads(TARGET))
    assert str(best.target) == str(target)
    assert [list(map(int, info.shape)) for info in best.args_info] == [[16, 16]] * 3
    schedule = database.query_schedule(module, target, "main")
    assert "reorder" in "\n".join(schedule.trace.as_python())
    rng = np.random.default_rng(0)
    x, y = (rng.random((16, 16), "float32") for _ in range(2))
    for record in (best, untuned_record):
        again = tvm.s_tir.Schedule(module)
        record.trace.apply_to_schedule(again, remove_postproc=False)
        out = tvm.runtime.tensor(np.zeros((16, 16), "float32"))
        kernel = tvm.compile(again.mod, target=target)
        kernel["main"](tvm.runtime.tensor(x), tvm.runtime.tensor(y), out)
        np.testing.assert_allclose(out.numpy(), x @ y, rtol=1e-5)


def test_one_kind_one_cache_and_the_right_ones_only(
    here: TuningLog, process: TvmProcess, tmp_path: Path
) -> None:
    job = here.jobs()[0].job_id
    out = tmp_path / "out"
    assert write(here, out, process, best=1) == {"records": 2, "workloads": 2}
    assert write(here, out, process, cold_cache=True) == {"records": 1, "workloads": 1}
    assert "9" in json.dumps(json.loads((out / RECORDS).read_text())[1][1])
    here.record(job, "seldom", untuned(), ok(untuned(), "lease-k", 1.0))
    with pytest.raises(BadRequest, match="--kind"):
        write(here, out, process)
    assert write(here, out, process, kind="seldom")["records"] == 1, "its job knows the target"
    wrong = failed(reordered(), "lease-wrong", MeasurementStatus.WRONG_OUTPUT)
    here.record(job, KIND, reordered(), wrong)
    assert write(here, out, process, kind=KIND) == {"records": 2, "workloads": 2}
    with pytest.raises(BadRequest, match="leave --target out"):
        export_metaschedule(here, tmp_path / "b", Filters(kind=KIND), process, TARGET)
    of = operator(24).workload_key
    with pytest.raises(BadRequest, match="nothing was written"):
        write(here, tmp_path / "b", process, kind=KIND, workload=of, cold_cache=True)
    assert not (tmp_path / "b").exists()


def test_a_trace_of_several_lines_is_one_of_the_file(
    log: TuningLog, process: TvmProcess, tmp_path: Path
) -> None:
    """The key of a candidate is of its text, so an import keeps that as it is."""
    fill(log)
    spaced = json.dumps(json.loads(reordered(unrolled=True).trace_json), indent=1)
    one = Candidate(operator().workload_key, spaced)
    log.record(log.jobs()[0].job_id, KIND, one, ok(one, "lease-spaced", 1e-4))
    write(log, tmp_path / "out", process, workload=one.workload_key, best=1)
    (line,) = (tmp_path / "out" / RECORDS).read_text().splitlines()
    assert json.loads(line)[1][0] == json.loads(spaced)
    (record,) = stock(tmp_path / "out").get_all_tuning_records()
    assert [float(run_s) for run_s in record.run_secs] == [1e-4]


def test_finalists_come_before_those_they_have_beaten(
    log: TuningLog, process: TvmProcess, tmp_path: Path
) -> None:
    fill(log)
    lucky = reordered(unrolled=True)  # slower than the finalist's search, faster than its finals
    log.record(log.jobs()[0].job_id, KIND, lucky, ok(lucky, "lease-lucky", 1.1e-3))
    of = operator().workload_key
    write(log, tmp_path / "out", process, workload=of, best=1)
    (line,) = (tmp_path / "out" / RECORDS).read_text().splitlines()
    assert json.loads(line)[1][1] == [1.25e-3, 1.5e-3]


def test_an_own_export_brings_the_same_candidates_as_seeds(
    here: TuningLog, process: TvmProcess, tmp_path: Path
) -> None:
    write(here, tmp_path / "out", process)
    before = {row.key for row in all_of(here, candidates)}
    known = here.outcomes(operator().workload_key, KIND)
    report = read(here, tmp_path / "out", process)
    assert (report.imported, report.candidates, report.workloads) == (3, 0, 0)
    assert {row.key for row in all_of(here, candidates)} == before
    assert here.outcomes(operator().workload_key, KIND) == known
    assert write(here, tmp_path / "out", process)["records"] == 3, "seeds are not the farm's own"


# ---------------------------------------------------------------------------------- read


def test_stock_records_become_seeds(
    log: TuningLog, tuned: Path, process: TvmProcess, tmp_path: Path
) -> None:
    number = len((tuned / RECORDS).read_text().splitlines())
    report = read(log, tuned, process)
    assert (report.imported, report.left_out, report.damaged) == (number - 1, 1, 0)
    again = read(log, tuned / RECORDS, process)
    assert (again.imported, again.known, again.left_out) == (0, number - 1, 1)
    (workload,) = all_of(log, workloads)
    assert (workload.num_outputs, workload.flops > 2 * SIZE**3) == (1, True)
    assert json.loads(workload.args_json) == [{"dtype": "float32", "shape": [SIZE, SIZE]}] * 3
    found = all_of(log, measurements)
    (kind,) = {row.device_kind for row in found}
    assert kind.startswith("metaschedule-")
    assert {(row.job_id, row.device, row.status) for row in found} == {(None, None, "OK")}
    assert log.outcomes(workload.key, KIND) == []
    (best,) = log.best_k(workload.key, kind, 1)
    assert best.latency_us == pytest.approx(1100)
    assert log.measured(kind, "0" * 64) is None
    built = [
        build_kernel(workload.workload_json, row.trace_json, TARGET).status
        for row in all_of(log, candidates)[:3]
    ]
    assert built == [MeasurementStatus.OK] * 3
    with pytest.raises(BadRequest, match="--target"):
        write(log, tmp_path / "out", process)
    filters = Filters(kind=kind)
    written = export_metaschedule(log, tmp_path / "out", filters, process, TARGET)
    assert written.records == {"records": number - 1, "workloads": 1}
    theirs, ours = (
        sorted(min(map(float, r.run_secs)) for r in stock(folder).get_all_tuning_records())
        for folder in (tuned, tmp_path / "out")
    )
    assert ours == theirs[:-1]


def damage(folder: Path, tuned: Path) -> None:
    """Copy a database with a bad line of each sort."""
    folder.mkdir()
    (workload,) = (tuned / WORKLOADS).read_text().splitlines()
    structural, encoded = json.loads(workload)
    lines = [workload, "nonsense", json.dumps([str(int(structural) + 1), encoded]), '["1","AAAA"]']
    (folder / WORKLOADS).write_text("\n".join(lines) + "\n")
    records = (tuned / RECORDS).read_text().splitlines()[1:]
    good = json.loads(records[0])
    trace, run_s, target, args = good[1]
    bad = [
        [2, good[1]],
        [9, good[1]],
        [0, [trace, ["1"], target, args]],
        [0, [trace, [-1.0], target, args]],
        [0, [trace, [1e-3] * 5000, target, args]],
        [0, [trace, run_s, {"kind": "abacus"}, args]],
        [0, [[[["GetSBlock", [], ["nobody", "main"], ["b0"]]], []], run_s, target, args]],
        [0, [[[["GetSBlock"]], []], run_s, target, args]],
        [0, [[["x"], {}], run_s, target, args]],
        {"trace": []},
        [0, [trace, [-(10**400)], target, args]],
        [10**4300 - 1, good[1]],
    ]
    text = "\n".join([*map(json.dumps, bad), '[0,[[[["', "x" * (6 << 20), *records]) + "\n"
    (folder / RECORDS).write_text(text)


def test_damaged_lines_are_named_and_the_others_kept(
    tuned: Path, process: TvmProcess, tmp_path: Path
) -> None:
    damage(tmp_path / "bad", tuned)
    log = TuningLog.open(str(tmp_path / "log.db"))
    report = read(log, tmp_path / "bad", process)
    log.close()
    assert report.imported == len((tuned / RECORDS).read_text().splitlines()) - 1
    assert report.damaged == 3 + 14
    said = "\n".join(str(each) for each in report.damages)
    assert f"{WORKLOADS}:2: no JSON" in said
    assert f"{WORKLOADS}:3: ValueError: the structural hash is not" in said
    for row, words in {
        1: "its workload, line 3",
        2: "its workload, line 10",
        3: "no numbers",
        4: "no times",
        5: "at most 4096",
        7: "nobody",
        10: "no record",
        11: "too large",
        12: "no record",
        13: "no JSON",
        14: "longer than",
    }.items():
        assert any(f"{RECORDS}:{row}: " in line and words in line for line in said.splitlines())


def test_the_command(
    here: TuningLog, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, log = str(tmp_path / "out"), ["--log", str(tmp_path / "here.db")]
    assert main(["log", "export", out, "--format", "metaschedule", "-k", "1", *log]) == 0
    assert "wrote 2 records, 2 workloads" in capsys.readouterr().out
    assert main(["log", "import", str(tuned), *log]) == 0
    said = capsys.readouterr().out
    assert said.startswith("imported ")
    assert said.endswith(", known already 0, damaged 0, failed there and left out 1\n")
    assert main(["log", "import", str(tuned / RECORDS), *log, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["imported"], found["left_out"]) == (0, 1)
    assert main(["log", "import", str(tuned / WORKLOADS), *log]) == 2
    assert main(["log", "export", str(tmp_path / "p"), "--target", "{}", *log]) == 2


def test_the_untuned_program_is_known_by_what_it_does(
    here: TuningLog, process: TvmProcess, tmp_path: Path
) -> None:
    write(here, tmp_path / "out", process)
    other = TuningLog.open(str(tmp_path / "other.db"))
    read(other, tmp_path / "out", process)
    traces = {row.trace_json for row in all_of(other, candidates)}
    other.close()
    assert traces == {UNTUNED_TRACE, reordered().trace_json}
