"""One contained child per candidate: limits, an answer a question, time-outs, nothing left."""

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
from typing import Any, Literal, NoReturn

from device_agent import containment

ANSWERS, QUESTIONS = 3, 4
"""Descriptors of the child."""

MAX_ANSWER_BYTES = 1 << 20
QUOTED_CHARACTERS = 140
"""Of the beginning and of the end: a dump names the fault first, a traceback last."""
FAILED_EXIT_CODE = 70
CPU_ALLOWANCE_S = 5.0


class HangUpError(Exception):
    """The one who asked is gone; the child has been killed."""


@dataclass(frozen=True)
class ChildOutcome:
    """What a child answered, as it came, and how it ended if it did.

    ``words`` are what it wrote to stdout and stderr. ``babbled``: it was killed because it answered
    without end.
    """

    answer: bytes
    timed_out: bool
    babbled: bool
    exit_code: int
    signal_number: int
    words: str
    alive: bool = False

    @property
    def how(self) -> str:
        """The end in words; quotes what the child wrote last."""
        if self.alive:
            text = "waited for more"
        elif self.signal_number:
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


class Child:
    """A contained process that answers questions: one line of JSON for each.

    It is stopped while it is not asked, its threads too, so that several can wait while one is
    timed. The calling process must have one thread and no other children than these. ``children``
    are those of them that live; it adds and removes itself.
    """

    def __init__(
        self,
        answer: Callable[[dict[str, Any]], Mapping[str, Any]],
        cpu_s: float,
        scratch: Path,
        children: set[int],
    ) -> None:
        """Fork; ``answer`` is called in the child, which may use ``cpu_s`` seconds of CPU.

        Its working directory is a new one under ``scratch``, removed at the end.
        """
        self._children = children
        self._quoted = ""
        self._directory = tempfile.mkdtemp(dir=scratch)
        self._words = os.memfd_create("words")
        self._reader, answers = os.pipe()
        questions, self._writer = os.pipe()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _be_the_child(answer, parent, self._directory, self._words, (questions, answers), cpu_s)
        os.close(questions)
        os.close(answers)
        os.set_blocking(self._reader, False)
        children.add(self.pid)

    def ask(self, question: Mapping[str, Any], timeout_s: float, hang_up: int) -> ChildOutcome:
        """What it answers; whatever is no single line in time is its end.

        When the peer closes the pipe ``hang_up``, HangUpError is raised.
        """
        deadline = time.monotonic() + timeout_s
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):  # it has ended: that is found out below
            os.write(self._writer, json.dumps(dict(question)).encode() + b"\n")
        answer, ending = _collect(self.pid, self._reader, deadline, hang_up)
        if ending is None:
            os.killpg(self.pid, signal.SIGSTOP)
            return ChildOutcome(answer, False, False, 0, 0, "", alive=True)
        status = self.end()
        return ChildOutcome(
            answer,
            ending == "timed out",
            ending == "babbled",
            os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0,
            os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
            self._quoted,
        )

    def end(self) -> int:
        """Kill it and all that it left behind; its exit status. May be called again."""
        if self.pid not in self._children:
            return 0
        try:
            containment.kill_group(self.pid)
            _pid, status = os.waitpid(self.pid, 0)
            self._quoted = quote(self._words)
            return status
        finally:
            self._children.discard(self.pid)
            containment.kill_group(self.pid)
            containment.kill_strays(self._children)
            for descriptor in (self._reader, self._writer, self._words):
                os.close(descriptor)
            shutil.rmtree(self._directory, ignore_errors=True)


def _collect(
    pid: int, reader: int, deadline: float, hang_up: int
) -> tuple[bytes, Literal["ended", "timed out", "babbled"] | None]:
    """What the child wrote up to the end of a line, and how it came to an end if it did."""
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
                return bytes(answer), "babbled"
            if answer.endswith(b"\n"):
                return bytes(answer), None
            if ended in ready:
                _drain(reader, answer)
                return bytes(answer), "ended"
            if left_ms <= 0:
                return bytes(answer), "timed out"
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
    answer: Callable[[dict[str, Any]], Mapping[str, Any]],
    parent: int,
    directory: str,
    words: int,
    pipes: tuple[int, int],
    cpu_s: float,
) -> NoReturn:
    """Never returns: the parent's Python frames are below us."""
    code = FAILED_EXIT_CODE
    try:
        os.setsid()
        os.chdir(directory)
        containment.leave_root()
        containment.die_with_parent(parent)
        null = os.open(os.devnull, os.O_RDWR)
        places = {null: (0,), words: (1, 2), pipes[1]: (ANSWERS,), pipes[0]: (QUESTIONS,)}
        high = {fcntl.fcntl(old, fcntl.F_DUPFD, 10): new for old, new in places.items()}
        for source, targets in high.items():
            for target in targets:
                os.dup2(source, target)
        os.closerange(QUESTIONS + 1, os.sysconf("SC_OPEN_MAX"))
        # TVM's handler would take half a second to print a stack that says nothing of the kernel.
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        containment.limit_this_process(cpu_s + CPU_ALLOWANCE_S)
        with os.fdopen(QUESTIONS, "rb", buffering=0) as questions:
            while question := questions.readline():
                line = json.dumps(dict(answer(json.loads(question)))).encode() + b"\n"
                while line:
                    line = line[os.write(ANSWERS, line) :]
        code = 0
    except BaseException:
        with contextlib.suppress(OSError):
            os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)
