"""Whole models, timed in turn, with real faults."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from device_agent.devices.cpu import describe_cpu
from device_agent.kernel_runner import LeaseFailedError
from device_agent.model_child import peak_resident_bytes
from device_agent.model_runner import ENOUGH_ROUNDS, ModelRunner
from protos.records import (
    Artifact,
    EvaluatorConfig,
    MeasurementStatus,
    ModelVariant,
    ModelWork,
    VariantResult,
)

CONFIG = EvaluatorConfig(repeat=3, min_repeat_ms=1, timeout_s=30.0)
IMPATIENT = EvaluatorConfig(repeat=2, min_repeat_ms=1, timeout_s=1.0)

X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)


def examples(scale: float = 2.0) -> Artifact:
    file = io.BytesIO()
    arrays = {"in0/x": X, "out0/y": X * np.float32(scale), "in1/x": -X, "out1/y": -X * 2}
    np.savez(file, **arrays)
    return Artifact.of(file.getvalue())


def package(
    body: str, prelude: str = "", top_level: str = "doubler", part_times: str = "return [1.0]"
) -> Artifact:
    """A wheel whose model's ``run`` is ``body``."""
    source = f"""
import os, signal, time, numpy as np
{prelude}
class Model:
    def __init__(self, num_threads):
        self.num_threads = num_threads
    def run(self, inputs):
        {body}
    def part_times(self, inputs):
        {part_times}
"""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr("doubler/__init__.py", source)
        wheel.writestr("doubler-1.0.dist-info/top_level.txt", top_level + "\n")
    return Artifact.of(file.getvalue())


GOOD = "return {'y': inputs['x'] * 2}"


@pytest.fixture
def runner() -> Iterator[ModelRunner]:
    cpus = sorted(os.sched_getaffinity(0))
    with contextlib.closing(ModelRunner(describe_cpu("test", None, cpus[-1:], False))) as one:
        yield one


def run(
    runner: ModelRunner,
    *variants: Artifact,
    config: EvaluatorConfig = CONFIG,
    data: Artifact | None = None,
    time_parts: bool = False,
) -> list[VariantResult]:
    named = tuple(
        ModelVariant(f"variant{number}", artifact) for number, artifact in enumerate(variants)
    )
    work = ModelWork(named, data or examples(), config, 1, time_parts)
    done = runner.run(work, lambda artifact: artifact.data)
    assert done.busy_s > 0
    assert [result.name for result in done.variants] == [variant.name for variant in named]
    return list(done.variants)


def test_variants_are_checked_and_timed(runner: ModelRunner) -> None:
    results = run(runner, package(GOOD), package("return {'y': inputs['x'] + inputs['x']}"))
    for result in results:
        assert result.status is MeasurementStatus.OK, result.error
        assert len(result.repeats_s) == 3
        assert result.max_rel_error < 1e-6
        (output,) = result.outputs
        assert (output.name, output.max_rel_error) == ("y", result.max_rel_error)
        assert result.resident_bytes > 10 << 20, "Python and NumPy alone take more"


def test_one_that_is_far_behind_is_timed_in_fewer_rounds(runner: ModelRunner) -> None:
    slow = package("time.sleep(0.05); return {'y': inputs['x'] * 2}")
    config = replace(CONFIG, repeat=ENOUGH_ROUNDS + 2)
    behind, first, second = run(runner, slow, package(GOOD), package(GOOD), config=config)
    assert len(behind.repeats_s) == ENOUGH_ROUNDS
    assert len(first.repeats_s) == len(second.repeats_s) == ENOUGH_ROUNDS + 2


@pytest.mark.parametrize("cold_cache", [False, True])
def test_parts_are_timed_where_they_are_asked_for(runner: ModelRunner, cold_cache: bool) -> None:
    config = replace(CONFIG, cold_cache=cold_cache)
    parts = package(GOOD, part_times="return [0.25, 0.5]")
    (timed,) = run(runner, parts, config=config, time_parts=True)
    assert timed.part_s == (0.25, 0.5)
    assert timed.repeats_s == (0.75,) * 3
    (whole,) = run(runner, parts, config=config)
    assert whole.part_s == ()


@pytest.mark.parametrize(
    ("part_times", "status", "words"),
    [
        ("raise KeyError('oops')", MeasurementStatus.CRASHED, "oops"),
        ("return [-1.0, 2.0]", MeasurementStatus.GARBAGE, "are no times"),
        ("CALLS.append(1.0); return CALLS", MeasurementStatus.GARBAGE, "2 parts, and 1 before"),
    ],
)
def test_times_of_parts_that_can_not_be(
    runner: ModelRunner, part_times: str, status: MeasurementStatus, words: str
) -> None:
    bad = package(GOOD, prelude="CALLS = []", part_times=part_times)
    (result,) = run(runner, bad, time_parts=True)
    assert result.status is status, result.error
    assert words in result.error
    assert result.part_s == result.repeats_s == ()


FAULTS = {
    "wrong": ("return {'y': inputs['x'] * 2.1}", MeasurementStatus.WRONG_OUTPUT, "'y'"),
    "missing": ("return {}", MeasurementStatus.WRONG_OUTPUT, "missing"),
    "raises": ("raise KeyError('oops')", MeasurementStatus.CRASHED, "oops"),
    "segfault": ("os.kill(os.getpid(), signal.SIGSEGV)", MeasurementStatus.CRASHED, "SIGSEGV"),
    "exits": ("os._exit(4)", MeasurementStatus.CRASHED, "code 4"),
    "hangs": ("time.sleep(600)", MeasurementStatus.TIMED_OUT, "no answer in 2 s"),
    "object": ("return {'y': object()}", MeasurementStatus.GARBAGE, "OBJECT"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_variant_does_not_disturb_the_other(runner: ModelRunner, fault: str) -> None:
    body, status, words = FAULTS[fault]
    config = IMPATIENT if fault == "hangs" else CONFIG
    bad, good = run(runner, package(body), package(GOOD), config=config)
    assert bad.status is status, bad.error
    assert words in bad.error
    assert not bad.repeats_s
    assert good.status is MeasurementStatus.OK, good.error


def test_what_a_model_prints_is_not_its_answer(runner: ModelRunner) -> None:
    loud = package(f"os.write(1, b'x' * 100); print('hello'); {GOOD}")
    (result,) = run(runner, loud)
    assert result.status is MeasurementStatus.OK, result.error


def test_junk_in_the_pipe_is_garbage(runner: ModelRunner) -> None:
    body = "[os.write(fd, b'junk' * 9) for fd in range(3, 9) if _pipe(fd)]; return {}"
    prelude = """
import stat
def _pipe(fd):
    try:
        return stat.S_ISFIFO(os.fstat(fd).st_mode) and os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return False
_write = os.write
def write(fd, data):
    try:
        return _write(fd, data)
    except OSError:
        return 0
os.write = write
"""
    (result,) = run(runner, package(body, prelude))
    assert result.status is MeasurementStatus.GARBAGE, result.error


@pytest.mark.parametrize(
    ("artifact", "words"),
    [
        (Artifact.of(b"no wheel"), "no wheel"),
        (package(GOOD, prelude="import not_there"), "not_there"),
        (package(GOOD, top_level="one\ntwo"), "top-level"),
    ],
)
def test_what_can_not_be_loaded(runner: ModelRunner, artifact: Artifact, words: str) -> None:
    (result,) = run(runner, artifact)
    assert result.status is MeasurementStatus.LOAD_ERROR, result.error
    assert words in result.error


def test_unusable_examples_fail_the_lease(runner: ModelRunner) -> None:
    with pytest.raises(LeaseFailedError, match="npz"):
        run(runner, package(GOOD), data=Artifact.of(b"junk"))


def test_closing_ends_what_runs(runner: ModelRunner) -> None:
    reader, writer = os.pipe()
    hangs = package(
        "os.write(_signal, b'!'); time.sleep(600)",
        f"_signal = os.open('/proc/{os.getpid()}/fd/{writer}', os.O_WRONLY)",
    )
    caught: list[Exception] = []

    def work() -> None:
        try:
            run(runner, hangs)
        except LeaseFailedError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert os.read(reader, 1) == b"!"
        runner.close()
        thread.join()
        assert [str(error) for error in caught] == ["the agent is shutting down"]
        assert not [
            child
            for child in psutil.Process().children(recursive=True)
            if "model_child" in " ".join(child.cmdline())
        ]
    finally:
        os.close(reader)
        os.close(writer)


def test_the_peak_of_a_process_is_what_the_system_says(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("VmPeak:\t  900 kB\nVmHWM:\t   12 kB\nVmRSS:\t    8 kB\n")
    assert peak_resident_bytes(status) == 12 << 10
    status.write_text("Name:\tkernel thread\n")
    assert peak_resident_bytes(status) == 0
    assert peak_resident_bytes(tmp_path / "nothing") == 0
