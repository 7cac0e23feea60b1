"""One contained child per measurement: limits, one answer, a time-out, nothing left behind."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from device_agent import containment

ANSWER_DESCRIPTOR = 3
MAX_ANSWER_BYTES = 1 << 20
QUOTED_CHARACTERS = 140
"""Of the beginning and of the end: a dump names the fault first, a traceback last."""
FAILED_EXIT_CODE = 70
CPU_ALLOWANCE_S = 5.0


class HangUpError(Exception):
    """The one who asked is gone; the child has been killed."""


@dataclass(frozen=True)
class ChildOutcome:
    """How a child ended: its answer as it came, and what it wrote to stdout and stderr.

    ``babbled``: it was killed because it answered without end.
    """

    answer: bytes
    timed_out: bool
    babbled: bool
    exit_code: int
    signal_number: int
    words: str

    @property
    def how(self) -> str:
        """The end in words; quotes what the child wrote last."""
        if self.signal_number:
            text = f"was killed by {signal_name(self.signal_number)}"
        else:
            text = f"exited with code {self.exit_code}"
        return f"{text}, saying: {self.words}" if self.words else text


def signal_name(number: int) -> str:
    """SIGSEGV for 11, and so on; a real-time signal by its number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def run_child(
    body: Callable[[], Mapping[str, Any]],
    timeout_s: float,
    threads: int,
    scratch: Path,
    hang_up: int,
    started: Callable[[int], None],
) -> ChildOutcome:
    """Fork, run ``body`` in the child, and collect what it returns (as one line of JSON).

    The child's working directory is a new one under ``scratch``, removed afterwards.

    ``started`` is told the child's pid, which is also its process group. When the peer closes the
    pipe ``hang_up``, the child is killed and HangUpError raised. The calling process must have one
    thread and no other children.
    """
    deadline = time.monotonic() + timeout_s
    directory = tempfile.mkdtemp(dir=scratch)
    words = os.memfd_create("words")
    reader, writer = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _be_the_child(body, parent, directory, words, writer, timeout_s * threads)
    try:
        os.close(writer)
        started(pid)
        answer, timed_out = _collect(pid, reader, deadline, hang_up)
        containment.kill_group(pid)
        _pid, status = os.waitpid(pid, 0)
        return ChildOutcome(
            answer,
            timed_out,
            len(answer) > MAX_ANSWER_BYTES,
            os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0,
            os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
            quote(words),
        )
    finally:
        containment.kill_group(pid)
        containment.kill_strays()
        os.close(reader)
        os.close(words)
        shutil.rmtree(directory, ignore_errors=True)


def _collect(pid: int, reader: int, deadline: float, hang_up: int) -> tuple[bytes, bool]:
    """The child's answer once it has ended, and whether it had to be stopped for its time."""
    os.set_blocking(reader, False)
    ended = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(reader, select.POLLIN)
    poll.register(hang_up, 0)  # errors and hang-ups only
    answer = bytearray()
    try:
        while True:
            left_ms = (deadline - time.monotonic()) * 1e3
            ready = {descriptor for descriptor, _event in poll.poll(max(left_ms, 0))}
            if hang_up in ready:
                raise HangUpError
            if reader in ready and _drain(reader, answer):
                poll.unregister(reader)
            if len(answer) > MAX_ANSWER_BYTES:
                return bytes(answer), False  # junk; the caller kills the child
            if ended in ready:
                _drain(reader, answer)
                return bytes(answer), False
            if left_ms <= 0:
                return bytes(answer), True
    finally:
        os.close(ended)


def _drain(reader: int, answer: bytearray) -> bool:
    """Append what is there; True at the end of the stream."""
    while len(answer) <= MAX_ANSWER_BYTES:
        try:
            piece = os.read(reader, 1 << 16)
        except BlockingIOError:
            return False
        if not piece:
            return True
        answer += piece
    return False


def quote(words: int) -> str:
    """What a process wrote into this file, shortened to one line for people."""
    size = os.fstat(words).st_size
    most = 8 * QUOTED_CHARACTERS
    if size <= 2 * most:
        text = _one_line(os.pread(words, size, 0))
        if len(text) <= 2 * QUOTED_CHARACTERS:
            return text
    head = _one_line(os.pread(words, most, 0))[:QUOTED_CHARACTERS]
    tail = _one_line(os.pread(words, most, max(0, size - most)))[-QUOTED_CHARACTERS:]
    return f"{head} … {tail}"


def _one_line(data: bytes) -> str:
    return " ".join(data.decode(errors="replace").split())


def _be_the_child(
    body: Callable[[], Mapping[str, Any]],
    parent: int,
    directory: str,
    words: int,
    writer: int,
    cpu_s: float,
) -> NoReturn:
    """Never returns: the parent's Python frames are below us."""
    code = FAILED_EXIT_CODE
    try:
        os.setsid()
        containment.die_with_parent(parent)
        os.chdir(directory)
        writer = fcntl.fcntl(writer, fcntl.F_DUPFD, 10)
        words = fcntl.fcntl(words, fcntl.F_DUPFD, 10)
        null = fcntl.fcntl(os.open(os.devnull, os.O_RDWR), fcntl.F_DUPFD, 10)
        for source, target in ((null, 0), (words, 1), (words, 2), (writer, ANSWER_DESCRIPTOR)):
            os.dup2(source, target)
        os.closerange(ANSWER_DESCRIPTOR + 1, os.sysconf("SC_OPEN_MAX"))
        # TVM's handler would take half a second to print a stack that says nothing of the kernel.
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        containment.limit_this_process(cpu_s + CPU_ALLOWANCE_S)
        line = json.dumps(dict(body())).encode() + b"\n"
        while line:
            line = line[os.write(ANSWER_DESCRIPTOR, line) :]
        code = 0
    except BaseException:
        with contextlib.suppress(OSError):
            os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)
