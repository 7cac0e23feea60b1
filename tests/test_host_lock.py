"""The host-wide lock, between real processes that are led step by step over pipes."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from protos import host_lock

ROOT = Path(__file__).resolve().parent.parent

ANSWER_TIMEOUT_S = 30.0
"""For what must happen; only a failing test waits that long."""

SILENCE_S = 0.3
"""How long to listen for what must not happen."""

HOLDER = """
import sys
from protos import host_lock

def say(word):
    print(word, flush=True)

say("ready")
for line in sys.stdin:
    kind, *cpus = line.split()
    lock = host_lock.working() if kind == "working" else host_lock.timing(map(int, cpus))
    say("asking")
    with lock as waited_s:
        say("holding")
        if not sys.stdin.readline():
            break
    say(f"released {waited_s}")
"""

STREAM = """
import time
from protos import host_lock

print("ready", flush=True)
while True:
    with host_lock.working():
        time.sleep(0.02)
"""


class Process:
    """A process that says what it does and asks for one lock at a time."""

    def __init__(self, script: str) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-u", "-c", script],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self.expect("ready")

    def _pipes(self) -> tuple[Any, Any]:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        return self._popen.stdin, self._popen.stdout

    def _hears(self, timeout_s: float) -> bool:
        return bool(select.select([self._pipes()[1]], [], [], timeout_s)[0])

    def expect(self, word: str) -> list[str]:
        assert self._hears(ANSWER_TIMEOUT_S), f"no {word!r} in {ANSWER_TIMEOUT_S} s"
        said, *more = self._pipes()[1].readline().decode().split() or [""]
        assert said == word
        return more

    def asks(self, request: str) -> Process:
        self._pipes()[0].write(f"{request}\n".encode())
        self.expect("asking")
        return self

    def takes(self, request: str) -> Process:
        self.asks(request)
        self.expect("holding")
        return self

    def waits(self) -> None:
        assert not self._hears(SILENCE_S), "it did not wait"

    def releases(self) -> float:
        """Seconds that it had waited for the lock, as the lock says."""
        self._pipes()[0].write(b"\n")
        (waited_s,) = self.expect("released")
        return float(waited_s)

    def kill(self) -> None:
        self._popen.send_signal(signal.SIGKILL)
        self._popen.wait(ANSWER_TIMEOUT_S)

    def close(self) -> None:
        self._popen.kill()
        self._popen.wait(ANSWER_TIMEOUT_S)
        for pipe in self._pipes():
            pipe.close()


@pytest.fixture(autouse=True)
def _own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEFARM_LOCK_DIR", str(tmp_path / "locks"))


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def three(stack: contextlib.ExitStack) -> list[Process]:
    return [stack.enter_context(contextlib.closing(Process(HOLDER))) for _ in range(3)]


def test_timing_waits_for_work_and_work_for_timing(three: list[Process]) -> None:
    worker, timer, _ = three
    worker.takes("working")
    timer.asks("timing 0").waits()
    worker.releases()
    timer.expect("holding")
    worker.asks("working").waits()
    timer.releases()
    worker.expect("holding")


def test_timings_on_one_cpu_exclude_each_other(three: list[Process]) -> None:
    first, second, _ = three
    first.takes("timing 0")
    second.asks("timing 0").waits()
    first.releases()
    second.expect("holding")


def test_timing_on_several_cpus_excludes_timing_on_each(three: list[Process]) -> None:
    both, first, second = three
    both.takes("timing 1 0")
    first.asks("timing 0").waits()
    second.asks("timing 1").waits()
    both.releases()
    first.expect("holding")
    second.expect("holding")


def test_timings_on_different_cpus_run_together(three: list[Process]) -> None:
    first, second, _ = three
    first.takes("timing 0")
    second.takes("timing 1")


def test_work_runs_beside_work(three: list[Process]) -> None:
    for worker in three:
        worker.takes("working")


def test_the_wait_is_told(three: list[Process]) -> None:
    worker, timer, _ = three
    worker.takes("working")
    timer.asks("timing 0").waits()
    assert worker.releases() < SILENCE_S
    timer.expect("holding")
    assert timer.releases() >= SILENCE_S


def test_later_workers_queue_behind_a_waiting_timer(three: list[Process]) -> None:
    early, timer, late = three
    early.takes("working")
    timer.asks("timing 0").waits()
    late.asks("working").waits()  # it could share with the early one, but the timer was first
    early.releases()
    timer.expect("holding")
    late.waits()
    timer.releases()
    late.expect("holding")


def test_later_timers_queue_behind_a_waiting_worker(three: list[Process]) -> None:
    early, worker, late = three
    early.takes("timing 0")
    worker.asks("working").waits()
    late.asks("timing 0").waits()
    early.releases()
    worker.expect("holding")
    late.waits()
    worker.releases()
    late.expect("holding")


def test_a_stream_of_workers_does_not_keep_a_timer_out(stack: contextlib.ExitStack) -> None:
    for _ in range(3):
        stack.enter_context(contextlib.closing(Process(STREAM)))
    timer = stack.enter_context(contextlib.closing(Process(HOLDER)))
    for _ in range(3):
        timer.takes("timing 0")
        timer.releases()


@pytest.mark.parametrize(("held", "wanted"), [("timing 0", "working"), ("working", "timing 0")])
def test_a_killed_holder_releases(three: list[Process], held: str, wanted: str) -> None:
    victim, heir, _ = three
    victim.takes(held)
    heir.asks(wanted).waits()
    victim.kill()
    heir.expect("holding")


def test_a_killed_waiter_lets_the_queue_pass(three: list[Process]) -> None:
    holder, victim, heir = three
    holder.takes("working")
    victim.asks("timing 0").waits()
    heir.asks("working").waits()
    victim.kill()
    heir.expect("holding")


def test_an_error_inside_releases(three: list[Process]) -> None:
    with pytest.raises(ZeroDivisionError), host_lock.timing([0]):
        raise ZeroDivisionError
    three[0].takes("working")


def _open_descriptors() -> int:
    return psutil.Process().num_fds()


def test_no_descriptor_is_left_open() -> None:
    before = _open_descriptors()
    with host_lock.working():
        pass
    with host_lock.timing([0, 1]):
        pass
    assert _open_descriptors() == before


def test_the_directory_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEFARM_LOCK_DIR", str(tmp_path / "elsewhere"))
    with host_lock.timing([0]):
        assert (tmp_path / "elsewhere" / "cpu0.lock").exists()


def test_other_users_can_share_the_lock_whatever_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(host_lock.LOCK_DIR_ENVIRONMENT, str(tmp_path / "locks"))
    before = os.umask(0o077)
    try:
        with host_lock.timing([0]):
            pass
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "locks").iterdir()}
    assert modes == {"cpu0.gate": 0o644, "cpu0.lock": 0o644}
