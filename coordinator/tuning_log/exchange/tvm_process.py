"""TVM in a process of its own, which may die of what it is given to read."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from typing import Any

from protos.errors import BadRequest

from .report import Damaged

ANSWER_TIMEOUT_S = 60.0
"""The largest workload is read in a second."""

MAX_DEATHS = 20
"""Whoever wrote more lines that kill TVM did not mean them to be read."""


class TvmProcess:
    """Asks a child one thing after the other; it starts with the first question and again after
    it died. Use as a context manager; for one thread."""

    def __init__(self, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._child: subprocess.Popen[bytes] | None = None
        self._deaths = 0

    def __enter__(self) -> TvmProcess:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._end()

    def ask(self, operation: str, **arguments: object) -> dict[str, Any]:
        """The answer of ``tvm_worker``'s function of that name; raises Damaged if it refuses or
        does not survive."""
        child = self._child or self._start()
        assert child.stdin is not None
        assert child.stdout is not None
        # A watch that ends the child also ends the wait for its answer.
        watch = threading.Timer(self._timeout_s, child.kill)
        watch.start()
        try:
            child.stdin.write(json.dumps([operation, arguments]).encode() + b"\n")
            child.stdin.flush()
            line = child.stdout.readline()
        except BrokenPipeError:
            line = b""
        finally:
            watch.cancel()
        if not line.endswith(b"\n"):
            self._deaths += 1
            if self._deaths > MAX_DEATHS:
                raise BadRequest(f"TVM has died of {self._deaths} lines; no more are read")
            raise Damaged(f"TVM {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "refused" in answer:
            raise Damaged(answer["refused"])
        return answer

    def _start(self) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C on the terminal is for this process, which ends the child.
        self._child = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.tvm_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "TVM_NUM_THREADS": "1"},
        )
        return self._child

    def _last_words(self) -> str:
        code = self._end()
        if code == -signal.SIGKILL:
            return f"took longer than {self._timeout_s:.0f} s or more memory than there is"
        return f"crashed ({signal.Signals(-code).name})" if code < 0 else f"ended with code {code}"

    def _end(self) -> int:
        child, self._child = self._child, None
        if child is None:
            return 0
        assert child.stdin is not None
        assert child.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
        try:
            return child.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()
        finally:
            child.stdout.close()
