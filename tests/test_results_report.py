"""The report of a job, for people and for programs."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from coordinator.results.report import operator_rows, report_json, report_text
from protos.records import (
    EngineResult,
    Job,
    JobSpec,
    JobState,
    ModelResult,
    RankingQuality,
    TaskProgress,
    TrialCounts,
)

TASKS = (
    TaskProgress("add", "k1", 2, untuned_us=50.0, tuned_us=25.0, trials=3),
    TaskProgress(
        "conv",
        "k2",
        3,
        untuned_us=300.0,
        tuned_us=10.0,
        trials=60,
        tuned_low_us=9.75,
        tuned_high_us=10.5,
        tied=2,
    ),
    TaskProgress("odd", "k3", 1),
)
ENGINES = (
    EngineResult("onnxruntime", "1.31.1", 0.9, 0.89, 0.92, max_rel_error=2e-3),
    EngineResult("openvino", "2026.4.1", error="it crashed"),
)
JOB = Job(
    job_id="j1",
    spec=JobSpec("cls", "abc", '{"kind":"llvm","num-cores":2}', trials=70),
    state=JobState.DONE,
    trials=TrialCounts(total=63, ok=60, failed=3, from_log=5),
    tasks=TASKS,
    ranking=RankingQuality(0.8, 0.9, 0.95, 4),
    result=ModelResult(
        untuned_ms=12.0,
        tuned_ms=1.0,
        max_abs_error=2e-7,
        max_rel_error=1e-6,
        package_filename="cls.whl",
        package_sha256="0",
        package_size_bytes=1,
        tuned_low_ms=0.98,
        tuned_high_ms=1.01,
        engines=ENGINES,
        engine="onnxruntime",
    ),
    stage_s={"build": 41.25, "device busy": 7.0},
)


def test_operators_by_their_share_of_the_untuned_model() -> None:
    rows = operator_rows(TASKS)
    assert [row.name for row in rows] == ["conv", "add", "odd"]
    assert rows[0].share_before == pytest.approx(0.9)
    assert rows[0].share_after == pytest.approx(30 / 80)
    assert rows[0].speedup == pytest.approx(30)
    assert (rows[2].share_before, rows[2].speedup) == (None, None)


def test_a_kernel_that_no_trial_improved_stays_as_it_was() -> None:
    (row,) = operator_rows([TaskProgress("f", "k", 1, untuned_us=4.0, tuned_us=5.0)])
    assert (row.tuned_us, row.speedup) == (4.0, 1.0)


def test_the_json_has_the_shape_that_the_command_promises() -> None:
    assert report_json(JOB, "out/cls.whl", "sqlite:///log.db") == {
        "job": "j1",
        "model": "cls",
        "target": {"kind": "llvm", "num-cores": 2},
        "cache": "warm",
        "trials": {"total": 63, "ok": 60, "failed": 3},
        "tasks": [
            {
                "name": task.name,
                "workload": task.workload_key,
                "weight": task.weight,
                "untuned_us": task.untuned_us,
                "tuned_us": task.tuned_us,
                "tuned_low_us": task.tuned_low_us,
                "tuned_high_us": task.tuned_high_us,
                "tied": task.tied,
                "trials": task.trials,
            }
            for task in TASKS
        ],
        "latency_ms": {
            "untuned": 12.0,
            "tuned": 1.0,
            "tuned_interval": [0.98, 1.01],
            "packaged": 0.9,
            "mixed": None,
            "onnxruntime": 0.9,
            "openvino": None,
            "onednn": None,
        },
        "engine": "onnxruntime",
        "left_to_engine": [],
        "regions": [],
        "engines": [asdict(one) for one in ENGINES],
        "threads": [],
        "outputs": [],
        "weights_bytes": 0,
        "workspace_bytes": 0,
        "labels": {},
        "efficiency": [],
        "target_latency_ms": None,
        "tuning_ended": None,
        "max_abs_error": 2e-7,
        "stage_s": {"build": 41.25, "device busy": 7.0},
        "package": "out/cls.whl",
        "log": "sqlite:///log.db",
    }


def test_the_text_has_every_operator_and_the_whole_model() -> None:
    text = report_text(JOB, "out/cls.whl", "sqlite:///log.db")
    for piece in ("conv", "30.0×", "90.0 %", "37.5 %", "12.0×", "0.900 ms", "2.00e-07"):
        assert piece in text
    assert "41.2 s build\n" in text
    assert "7.0 s device busy\n" in text
    assert "out/cls.whl" in text
    assert "\x1b" not in text
    assert "\x1b" in report_text(JOB, None, "log", color=True)


def line_of(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.strip().startswith(start))


def test_the_text_says_how_sure_it_is() -> None:
    text = report_text(JOB, None, "log")
    assert line_of(text, "conv").split()[2:5] == ["300.0", "10.0", "0.5≈"]
    assert line_of(text, "add").split()[2:5] == ["50.0", "25.0", "2.0×"]
    assert "tuned 1.000 ms [0.980 to 1.010] (12.0×)" in text
    assert "a tie" in line_of(text, "≈")
    clear = replace(JOB, tasks=(replace(TASKS[1], tied=0), TASKS[0]))
    text = report_text(clear, None, "log")
    assert "0.5" in line_of(text, "conv").split()
    assert "≈" not in text


def test_no_interval_where_the_untuned_program_is_what_the_package_runs() -> None:
    (row,) = operator_rows(
        [TaskProgress("f", "k", 1, untuned_us=4.0, tuned_us=5.0, tuned_low_us=4.9, tuned_high_us=6)]
    )
    assert (row.tuned_us, row.half_width_us) == (4.0, None)


def test_the_report_says_what_is_packaged_and_against_whom() -> None:
    def lines(job: Job) -> list[str]:
        text = report_text(job, None, "log")
        return [" ".join(s.split()) for s in text.splitlines() if s.startswith(("engine", "pack"))]

    assert lines(JOB) == [
        (
            "engine ONNX Runtime 1.31.1 0.900 ms [0.890 to 0.920]; the tuned model is 0.90× as "
            "fast; it differs by 2.00e-03 of the range"
        ),
        "engine OpenVINO 2026.4.1: it crashed",
        "engine oneDNN: not on the device (pip install onednn-cpu-gomp)",
        "packaged ONNX Runtime, faster than the tuned model: 0.900 ms",
    ]
    assert JOB.result is not None
    alone = replace(JOB, result=replace(JOB.result, engines=(), engine="tunefarm"))
    assert lines(alone) == [
        "engine ONNX Runtime: not on the device (pip install onnxruntime)",
        "engine OpenVINO: not on the device (pip install openvino)",
        "engine oneDNN: not on the device (pip install onednn-cpu-gomp)",
        "packaged the tuned model: no other engine was timed",
    ]
    first = replace(JOB, result=replace(JOB.result, engine="tunefarm"))
    assert lines(first)[-1] == "packaged the tuned model: no engine is faster"


def test_the_report_says_what_an_engine_runs_in_the_tuned_model() -> None:
    assert JOB.result is not None
    assert "parts" not in report_text(JOB, None, "log.db")
    names = tuple(f"LSTM (node 'l{number}')" for number in range(7))
    job = replace(JOB, result=replace(JOB.result, left_to_engine=names))
    line = line_of(report_text(job, None, "log.db"), "parts")
    assert line.endswith(
        f"ONNX Runtime runs what can't be imported: {', '.join(names[:5])} and 2 more"
    )
    assert report_json(job, None, "log.db")["left_to_engine"] == list(names)


@pytest.mark.parametrize(
    ("target_ms", "flops", "words"),
    [
        (0.9, 1e4, "0.9 ms: reached, 0.900 ms"),
        (0.5, 1e3, "0.5 ms: not reached, 0.900 ms; give it more trials"),
        # 10,000 operations in 10 µs at best, and 3 × 10,000 + 2 × 400,000 of them to do.
        (0.5, 4e5, "0.5 ms: not reached, 0.900 ms; it can't be: the arithmetic alone takes"),
    ],
)
def test_the_report_says_whether_the_target_was_reached(
    target_ms: float, flops: float, words: str
) -> None:
    add, conv, odd = TASKS
    tasks = (replace(add, tuned_us=None, untuned_us=5e4, flops=flops), replace(conv, flops=1e4))
    spec = replace(JOB.spec, target_latency_ms=target_ms)
    job = replace(JOB, spec=spec, tasks=(*tasks, odd), tuning_ended="all trials were made")
    text = report_text(job, None, "log.db")
    assert words in line_of(text, "target")
    assert line_of(text, "ended").endswith("all trials were made")
    assert report_json(job, None, "log.db")["target_latency_ms"] == target_ms


def test_the_report_says_what_the_caches_were() -> None:
    assert line_of(report_text(JOB, None, "log"), "caches").split() == ["caches", "warm"]
    cold = replace(JOB, spec=replace(JOB.spec, cold_cache=True))
    assert line_of(report_text(cold, None, "log"), "caches").split() == ["caches", "cold"]
    assert report_json(cold, None, "log")["cache"] == "cold"


def test_a_job_that_measured_nothing() -> None:
    job = Job("j2", JOB.spec, JobState.INTERRUPTED)
    assert report_json(job, None, "log")["latency_ms"] == {
        "untuned": None,
        "tuned": None,
        "tuned_interval": None,
        "packaged": None,
        "mixed": None,
        "onnxruntime": None,
        "openvino": None,
        "onednn": None,
    }
    assert "trials       0" in report_text(job, None, "log")
