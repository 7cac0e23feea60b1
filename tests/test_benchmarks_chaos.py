"""The farm while everything around it breaks, and the parts of the benchmark that breaks it."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.chaos import clock, ledger
from benchmarks.chaos.__main__ import CANT_RUN, MUST_BE_ZERO
from benchmarks.chaos.ledger import Row
from benchmarks.chaos.links import CUT, GOOD, Link, NoNamespaces, Quality, links
from benchmarks.chaos.miscompiler import Defect, broken_program, defect_of
from benchmarks.chaos.schedule import Kind, schedule
from coordinator.limit_kernels import PEAK
from device_agent.build import build_kernel
from protos.records import UNTUNED_TRACE, Candidate, EvaluatorConfig, MeasurementStatus, Task
from tests.kernels import matmul, matmul_args, matmul_trace, target_json, workload_json

SECONDS = 60


@pytest.mark.timeout(400)
def test_a_minute_in_which_everything_breaks() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.chaos", "--minutes", str(SECONDS / 60)),
            *("--seed", "11", "--without-undisturbed"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    said = f"{done.stderr[-8000:]}\n{done.stdout}"
    if done.returncode == CANT_RUN:
        pytest.skip(done.stderr.splitlines()[-1])
    figures = json.loads(done.stdout.splitlines()[-1])["figures"]
    assert {name: figures[name] for name in MUST_BE_ZERO} == dict.fromkeys(MUST_BE_ZERO, 0), said
    assert done.returncode == 0, said
    assert figures["acknowledged"] > 0, said
    # The job ends before its time only if there was nothing more to find.
    assert figures["faults"] >= len(Kind) // 2, said


# ------------------------------------------------------------------------------------- schedule


def test_the_same_seed_has_the_same_faults() -> None:
    assert schedule(3, 300, 6, 4) == schedule(3, 300, 6, 4) != schedule(4, 300, 6, 4)


@pytest.mark.parametrize("seed", range(20))
def test_every_kind_of_fault_happens_and_no_agent_has_two_at_once(seed: int) -> None:
    faults = schedule(seed, 300, 6, 4)
    assert {fault.kind for fault in faults} == set(Kind)
    assert all(0 < fault.at_s < 300 for fault in faults)
    for fault in faults:
        assert fault.agent < (4 if fault.kind.of_link else 6)
        assert (fault.agent >= 0) == (fault.kind.of_agent or fault.kind.of_link)
    assert all(one.kind is not after.kind for one, after in itertools.pairwise(faults))
    for agent in range(6):
        its = [fault for fault in faults if fault.agent == agent]
        for one, next_one in itertools.pairwise(its):
            assert one.at_s + one.lasts_s < next_one.at_s


def test_what_can_not_be_had_is_left_out() -> None:
    assert Kind.CLOCK_MOVED not in {
        fault.kind for fault in schedule(0, 300, 6, 4, [Kind.CLOCK_MOVED])
    }


# ------------------------------------------------------------------------------------- ledger

ROW = Row("lease", "a" * 64, "OK", "chaos-0", "[0.1,0.2,0.3]", "a trace")


def _traces(defect: Defect) -> list[str]:
    return [text for i in range(1000) if defect_of(text := f"trace {i}") is defect]


def test_an_honest_log_is_clear() -> None:
    right, crashing = _traces(Defect.NONE)[0], _traces(Defect.CRASHES)[0]
    measured = [
        replace(ROW, trace_json=right),
        replace(ROW, lease_id="another", trace_json=right, repeats_s_json="[0.1,0.2,0.4]"),
        Row("lease", "b" * 64, "CRASHED", "chaos-1", "[]", crashing),
        # Not measured: the same bytes as another's.
        replace(ROW, lease_id="same-1", candidate_key="c" * 64, trace_json=right),
    ]
    found = ledger.settle([("lease", "a" * 64), ("lease", "b" * 64)], measured)
    assert (found.lost, found.doubled, found.wrong_wins) == ((), (), ())
    assert (found.acknowledged, found.measurements) == (2, 4)
    assert found.defects == {"crashes: CRASHED": 1}


def test_what_must_not_be_is_found() -> None:
    wrong, right = _traces(Defect.WRONG)[0], _traces(Defect.NONE)[0]
    measured = [
        replace(ROW, trace_json=right),
        replace(ROW, lease_id="sent again under another lease", trace_json=right),
        replace(ROW, lease_id="fast", candidate_key="d" * 64, trace_json=wrong),
    ]
    found = ledger.settle([("lease", "a" * 64), ("lease", "e" * 64)], measured)
    assert found.lost == (f"lease lease candidate {'e' * 64}",)
    assert len(found.doubled) == 1
    assert found.wrong_wins == (f"lease fast candidate {'d' * 64}",)
    twice = ledger.settle([], [ROW, replace(ROW, repeats_s_json="[]")])
    assert len(twice.doubled) == 1


def test_what_agents_were_told_is_read_from_what_they_say(tmp_path: Path) -> None:
    log, limit = tmp_path / "agent.log", Candidate(f"limit-{PEAK}", UNTUNED_TRACE).key
    log.write_text(
        f"12:00 DEBUG device_agent.agent: acknowledged: lease abc candidate {'f' * 64}\n"
        f"12:01 DEBUG device_agent.agent: acknowledged: lease def candidate {limit}\n"
        "12:02 DEBUG device_agent.agent: acknowledged: lease of-a-model candidate \n"
        f"12:03 DEBUG x: job health check lease ok candidate {'f' * 12}: OK \n"
        f"12:03 DEBUG device_agent.agent: acknowledged: lease ok candidate {'f' * 64}\n"
        f"12:03 DEBUG device_agent.agent: acknowledged: lease cut-off candidate {'f' * 30}"
    )
    assert ledger.acknowledged([log]) == [("abc", "f" * 64)]


# ------------------------------------------------------------------------------------- faults


def test_miscompiled_programs_fail_as_their_defects_say() -> None:
    from benchmarks.lone_device import LoneDevice
    from benchmarks.timing import Contender

    workload = workload_json(matmul())
    task = Task("matmul", "k" * 32, workload, 1, matmul_args(), 1, 1.0)
    reference = build_kernel(workload, UNTUNED_TRACE, target_json()).artifact
    assert reference is not None
    kernels = []
    broken_by = (Defect.CRASHES, Defect.HANGS, Defect.WRONG, Defect.BABBLES)
    for defect in (*broken_by, Defect.NOT_TO_BE_LOADED):
        broken = broken_program(workload, matmul_trace(), defect)
        built = build_kernel(broken, UNTUNED_TRACE, target_json())
        assert built.artifact is not None, built.error
        kernels.append(Contender(defect.value, built.artifact.data, built.args))
    with LoneDevice(target_json(), EvaluatorConfig(timeout_s=2.0)) as device:
        found = device.measure(task, reference, kernels)
    assert [measurement.status for measurement in found if measurement] == [
        MeasurementStatus.CRASHED,
        MeasurementStatus.TIMED_OUT,
        MeasurementStatus.WRONG_OUTPUT,
        MeasurementStatus.GARBAGE,
        MeasurementStatus.LOAD_ERROR,
    ]


def _gets_through(link: Link, seconds: float) -> bool:
    """Whether a message from inside arrives within this time."""
    with socket.create_server((link.host, 0)) as server:
        server.settimeout(seconds)
        address = f"/dev/tcp/{link.host}/{server.getsockname()[1]}"
        sender = subprocess.Popen(
            link.command(["bash", "-c", f"exec 3<>{address}; echo hello >&3"]),
            stderr=subprocess.DEVNULL,
        )
        try:
            with server.accept()[0] as connection:
                connection.settimeout(seconds)
                return connection.recv(100) == b"hello\n"
        except TimeoutError:
            return False
        finally:
            sender.kill()
            sender.wait()


def test_links_are_cut_delayed_and_lossy() -> None:
    try:
        with links(2, f"t{os.getpid() % 100_000}x") as (one, other):
            assert _gets_through(one, 10)
            one.quality = CUT
            assert not _gets_through(one, 0.5)
            assert _gets_through(other, 10), "another's link is not cut"
            one.quality = Quality(delay_s=0.2)
            started = time.monotonic()
            assert _gets_through(one, 10)
            assert time.monotonic() - started > 0.4, "there and back, and there"
            one.quality = Quality(loss=0.3)
            assert any(_gets_through(one, 10) for _ in range(3)), "TCP sends it again"
            one.quality = GOOD
            assert _gets_through(one, 10)
    except NoNamespaces as error:
        pytest.skip(str(error))


CLOCKS = """
import sys, time
while sys.stdin.readline():
    print(time.time(), time.monotonic(), flush=True)
"""


def test_a_clock_is_moved_and_no_other(tmp_path: Path) -> None:
    try:
        library = clock.build(tmp_path)
    except clock.NoCompiler as error:
        pytest.skip(str(error))
    its = clock.Clock(library, tmp_path / "clock")
    with subprocess.Popen(
        [sys.executable, "-c", CLOCKS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **its.environment},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for offset_s in (0, 3600, -3 * 86_400, 0):
            its.move(offset_s)
            process.stdin.write("\n")
            process.stdin.flush()
            real, monotonic = map(float, process.stdout.readline().split())
            assert abs(real - offset_s - time.time()) < 60
            assert abs(monotonic - time.monotonic()) < 60
