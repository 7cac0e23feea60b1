"""Real kernels with real faults in the zygote's children."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import psutil
import pytest

from device_agent import kernel_run
from device_agent.devices.cpu import describe_cpu
from device_agent.kernel_runner import ChildLostError, KernelRunner, LeaseFailedError, Outcome
from device_agent.timing import Plan
from protos.records import Artifact, EvaluatorConfig, KernelWork, MeasurementStatus, TensorSpec

from . import kernels

FAST = EvaluatorConfig(repeat=3, min_repeat_ms=1, timeout_s=20.0)
IMPATIENT = EvaluatorConfig(repeat=3, min_repeat_ms=1, timeout_s=1.0)
CPUS = sorted(os.sched_getaffinity(0))


def work_on(
    reference: Artifact,
    args: tuple[TensorSpec, ...] = kernels.VECTORS,
    evaluator: EvaluatorConfig = FAST,
    best_us: float = 0.0,
) -> KernelWork:
    return KernelWork("workload", args, 1, 7, reference, evaluator, (), best_us)


def measure(runner: KernelRunner, work: KernelWork, artifact: Artifact) -> Outcome:
    for _attempt in range(2):  # the zygote drops what it has not used for long
        runner.prepare(work, work.reference.data)
        loaded = runner.load(work, artifact.data)
        if loaded is not None:
            return kernel_run.measure(runner, work, loaded)
    raise AssertionError("the zygote does not keep what it was given")


def runner_with(num_threads: int, cpus: list[int] | None = None) -> KernelRunner:
    target = kernels.target_json(num_threads)
    return KernelRunner(describe_cpu("test", target, cpus, emulated=False))


@pytest.fixture(scope="module")
def runner() -> Iterator[KernelRunner]:
    one = runner_with(1)
    with contextlib.closing(one):
        yield one


def test_a_contender_is_sampled_until_the_cap_and_a_loser_is_not(runner: KernelRunner) -> None:
    """No interval is narrower than nothing: only the cap ends the contender."""
    config = EvaluatorConfig(
        repeat=6, min_repeat_ms=1, timeout_s=20.0, max_repeat=17, contender_ratio=1.05
    )
    reference = kernels.built(kernels.matmul())
    contender = measure(runner, work_on(reference, kernels.matmul_args(), config), reference)
    assert contender.status is MeasurementStatus.OK, contender.error
    assert len(contender.repeats_s) == 17
    best_us = min(contender.repeats_s) * 1e6 / 2
    loser = measure(runner, work_on(reference, kernels.matmul_args(), config, best_us), reference)
    assert len(loser.repeats_s) == 6


def test_a_right_kernel_is_timed_in_every_repeat(runner: KernelRunner) -> None:
    reference = kernels.built(kernels.matmul())
    work = work_on(reference, kernels.matmul_args())
    outcome = measure(runner, work, kernels.built(kernels.matmul(), kernels.matmul_trace()))
    assert outcome.status is MeasurementStatus.OK, outcome.error
    assert len(outcome.repeats_s) == 3
    assert all(repeat_s > 0 for repeat_s in outcome.repeats_s)
    parts = outcome.parts
    assert min(parts.load_s, parts.check_s, parts.time_s) > 0
    assert parts.load_s + parts.check_s + parts.time_s <= outcome.busy_s


FAULTS = [
    ("wrong", MeasurementStatus.WRONG_OUTPUT, "output 0"),
    ("silent", MeasurementStatus.WRONG_OUTPUT, "output 0"),
    ("scribbles", MeasurementStatus.WRONG_OUTPUT, "output 0"),
    ("segfault", MeasurementStatus.CRASHED, "SIGSEGV"),
    ("aborts", MeasurementStatus.CRASHED, "SIGABRT"),
    ("exits", MeasurementStatus.CRASHED, "code 3"),
    ("babbles", MeasurementStatus.GARBAGE, "answered"),
    ("endless", MeasurementStatus.TIMED_OUT, "killed after 1 s"),
    ("forks", MeasurementStatus.TIMED_OUT, "killed after 1 s"),
]


@pytest.mark.parametrize(("name", "status", "words"), FAULTS)
def test_a_fault_is_a_measurement_and_the_next_kernel_runs(
    runner: KernelRunner, name: str, status: MeasurementStatus, words: str
) -> None:
    slow = status is MeasurementStatus.TIMED_OUT
    work = work_on(kernels.kernel("doubled"), evaluator=IMPATIENT if slow else FAST)
    outcome = measure(runner, work, kernels.kernel(name))
    assert outcome.status is status, outcome.error
    assert words in outcome.error
    assert not outcome.repeats_s
    assert runner.zygote_pid is not None
    assert not psutil.Process(runner.zygote_pid).children(recursive=True)
    again = measure(runner, work_on(kernels.kernel("doubled")), kernels.kernel("doubled"))
    assert again.status is MeasurementStatus.OK, again.error


def test_a_wrong_number_is_told_by_how_much(runner: KernelRunner) -> None:
    outcome = measure(runner, work_on(kernels.kernel("doubled")), kernels.kernel("wrong"))
    assert outcome.max_abs_error == pytest.approx(0.25)


@pytest.mark.parametrize("data", [b"", b"no object file", kernels.kernel("doubled").data[:900]])
def test_what_can_not_be_loaded(runner: KernelRunner, data: bytes) -> None:
    outcome = measure(runner, work_on(kernels.kernel("doubled")), Artifact.of(data))
    assert outcome.status is MeasurementStatus.LOAD_ERROR, outcome.error
    assert outcome.error


@pytest.mark.parametrize("size", [32, 1024])
def test_a_kernel_for_other_shapes_is_found_out(runner: KernelRunner, size: int) -> None:
    """Kernels don't check their arguments: the output gives it away, or the memory."""
    other = kernels.built(kernels.matmul(size))
    reference = kernels.built(kernels.matmul(64))
    work = work_on(reference, kernels.matmul_args(64))
    outcome = measure(runner, work, other)
    assert outcome.status in (MeasurementStatus.CRASHED, MeasurementStatus.WRONG_OUTPUT)
    assert outcome.error
    assert measure(runner, work, reference).status is MeasurementStatus.OK


@pytest.mark.parametrize("dtype", ["float64", "float16", "int8", "uint8", "int32", "int64", "bool"])
def test_dtypes(runner: KernelRunner, dtype: str) -> None:
    reference = kernels.built(kernels.copy(dtype))
    work = work_on(reference, (TensorSpec((kernels.N,), dtype),) * 2)
    outcome = measure(runner, work, reference)
    assert outcome.status is MeasurementStatus.OK, outcome.error
    assert outcome.max_abs_error == 0.0


def test_a_hopeless_kernel_is_run_no_more_than_needed(runner: KernelRunner) -> None:
    size = 128
    reference = kernels.built(kernels.matmul(size))
    work = work_on(reference, kernels.matmul_args(size), best_us=0.01)
    outcome = measure(runner, work, reference)
    assert outcome.status is MeasurementStatus.OK, outcome.error
    assert len(outcome.repeats_s) == 1


@pytest.mark.parametrize(
    ("name", "words"), [("segfault", "SIGSEGV"), ("endless", "killed after"), ("exits", "code 3")]
)
def test_a_reference_that_fails_fails_the_lease(
    runner: KernelRunner, name: str, words: str
) -> None:
    config = EvaluatorConfig(timeout_s=0.5)
    work = work_on(kernels.kernel(name), evaluator=config)
    with pytest.raises(LeaseFailedError, match=words):
        runner.prepare(work, kernels.kernel(name).data)
    good = measure(runner, work_on(kernels.kernel("doubled")), kernels.kernel("doubled"))
    assert good.status is MeasurementStatus.OK


def test_a_dtype_that_can_not_be_made_fails_the_lease(runner: KernelRunner) -> None:
    work = work_on(kernels.kernel("ones"), (TensorSpec((kernels.N,), "bfloat16"),) * 2)
    with pytest.raises(LeaseFailedError, match="bfloat16"):
        runner.prepare(work, kernels.kernel("ones").data)


def test_a_workload_that_was_dropped_is_asked_for_again(runner: KernelRunner) -> None:
    work = work_on(kernels.kernel("ones"), kernels.INTEGERS)
    unknown = KernelWork("w", work.args, 1, 4711, work.reference, FAST, ())
    assert runner.load(unknown, kernels.kernel("ones").data) is None
    assert measure(runner, unknown, kernels.kernel("ones")).status is MeasurementStatus.OK


@pytest.mark.skipif(len(CPUS) < 2, reason="needs two CPUs")
def test_a_parallel_kernel_has_the_threads_of_its_target() -> None:
    work = work_on(kernels.kernel("ones"), kernels.INTEGERS, IMPATIENT)
    with contextlib.closing(runner_with(2)) as two:
        outcome = measure(two, work, kernels.kernel("rendezvous"))
        assert outcome.status is MeasurementStatus.OK, outcome.error
        assert outcome.threads == 2
    with contextlib.closing(runner_with(1)) as one:
        outcome = measure(one, work, kernels.kernel("rendezvous"))
        assert outcome.status is MeasurementStatus.TIMED_OUT, "one thread waits for itself"


def test_a_kernel_stays_on_its_devices_cpu() -> None:
    """TVM's pool would pin itself to the machine's first CPUs."""
    last = CPUS[-1]
    work = work_on(kernels.kernel("doubled"), evaluator=EvaluatorConfig(timeout_s=30.0))
    with contextlib.closing(runner_with(1, [last])) as runner:
        runner.prepare(work, work.reference.data)
        results: list[Outcome | None] = []
        thread = threading.Thread(
            target=lambda: results.append(measure(runner, work, kernels.kernel("endless")))
        )
        thread.start()
        try:
            child = psutil.Process(await_child(runner))
            assert set(child.cpu_affinity()) == {last}
            for kernel_thread in child.threads():
                assert os.sched_getaffinity(kernel_thread.id) == {last}
        finally:
            runner.close()
            thread.join()


def await_child(runner: KernelRunner) -> int:
    """The pid of the child that runs a kernel, as soon as there is one that burns CPU."""
    pause = threading.Event()
    while True:
        pause.wait(0.01)
        for pid in runner.child_pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                if psutil.Process(pid).cpu_times().user > 0.2:
                    return pid


def await_stopped(pid: int) -> None:
    """Until the signal has arrived; for ever if the process goes on."""
    pause = threading.Event()
    while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
        pause.wait(0.01)


def _refused(runner: KernelRunner, work: KernelWork) -> None:
    """Measure without end, until the runner is closed."""
    outcome = measure(runner, work, kernels.kernel("endless"))
    assert outcome.status is MeasurementStatus.CRASHED


def test_a_zygote_that_is_killed_is_started_again() -> None:
    with contextlib.closing(runner_with(1)) as runner:
        work = work_on(kernels.kernel("doubled"))
        runner.prepare(work, work.reference.data)
        first = runner.zygote_pid
        assert first is not None
        results: list[Outcome | None] = []
        thread = threading.Thread(
            target=lambda: results.append(measure(runner, work, kernels.kernel("endless")))
        )
        thread.start()
        child = psutil.Process(await_child(runner))
        os.kill(first, signal.SIGKILL)
        thread.join()
        child.wait(timeout=10)
        (outcome,) = results
        assert outcome is not None
        assert outcome.status is MeasurementStatus.CRASHED
        assert "SIGKILL" in outcome.error
        again = measure(runner, work, kernels.kernel("doubled"))
        assert again.status is MeasurementStatus.OK
        assert runner.zygote_pid != first
    assert runner.zygote_pid is None


def test_closing_ends_the_kernel_that_runs() -> None:
    runner = runner_with(1)
    work = work_on(kernels.kernel("doubled"))
    runner.prepare(work, work.reference.data)
    thread = threading.Thread(target=lambda: _refused(runner, work))
    thread.start()
    child = psutil.Process(await_child(runner))
    runner.close()
    thread.join()
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    with pytest.raises(LeaseFailedError, match="shutting down"):
        runner.prepare(work, work.reference.data)


def test_candidates_wait_together_without_taking_the_cpu(runner: KernelRunner) -> None:
    work = work_on(kernels.kernel("doubled"))
    runner.prepare(work, work.reference.data)
    loaded = [runner.load(work, kernels.kernel(name).data) for name in ("doubled", "wrong", "ones")]
    children = [one.child for one in loaded if one is not None]
    assert len(set(children)) == 3
    for child in children:
        await_stopped(child)
    right, wrong, _ = children
    assert runner.check(wrong, 20.0).status is MeasurementStatus.WRONG_OUTPUT
    assert runner.check(right, 20.0).status is MeasurementStatus.OK, "the other left no trace"
    for _ in range(2):
        sampled = runner.sample(right, Plan(1, 4, 1), 20.0)
        assert (sampled.status, len(sampled.repeats_s)) == (MeasurementStatus.OK, 4)
    with pytest.raises(ChildLostError):
        runner.sample(wrong, Plan(1, 4, 1), 20.0)
    for child in children:
        runner.end(child)
    assert runner.zygote_pid is not None
    assert not psutil.Process(runner.zygote_pid).children(recursive=True)
