"""Start and end the processes that do what the agent itself must not."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from device_agent import forking
from device_agent.frames import Frame, FrameError, FrameTimeoutError, read_frame, write_frame

EXIT_GRACE_S = 0.5
LOCK_TIMEOUT_S = 0.1


class HelperDiedError(Exception):
    """The process ended, or stopped making sense; the message says how."""


class HelperTimeoutError(Exception):
    """No answer in time."""


def environment(num_threads: int, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a helper needs to find our packages and to use the right number of threads.

    On x86 TVM takes half of the CPUs that it sees unless it is told.
    """
    root = str(Path(__file__).resolve().parent.parent)
    path = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": f"{root}{os.pathsep}{path}" if path else root,
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": str(num_threads),
        "TVM_NUM_THREADS": str(num_threads),
        "TVM_BIND_THREADS": "1",
        **(extra or {}),
    }


class HelperProcess:
    """One module of ours in a process and a process group of its own, spoken to in frames."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        num_threads: int,
        *,
        directory: Path | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> None:
        # A file, so that nobody has to read a pipe; unlinked, so that nothing stays behind.
        self._words: Any = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            cwd=directory or tempfile.gettempdir(),
            env=environment(num_threads, extra),
            start_new_session=True,
            bufsize=0,
        )

    @property
    def pid(self) -> int:
        """Its process, and its process group."""
        return self._process.pid

    def send(self, header: dict[str, Any], blobs: Sequence[bytes] = ()) -> None:
        """Ask something; raises HelperDiedError."""
        try:
            with self._writing:
                write_frame(self._descriptor(self._process.stdin), header, blobs)
        except (OSError, ValueError) as error:
            raise HelperDiedError(self.how_it_ended()) from error

    def receive(self, timeout_s: float) -> Frame:
        """The next frame; raises HelperDiedError, HelperTimeoutError, or FrameError for junk."""
        try:
            with self._reading:
                deadline = time.monotonic() + timeout_s
                frame = read_frame(self._descriptor(self._process.stdout), deadline)
        except FrameTimeoutError as error:
            raise HelperTimeoutError(f"no answer in {timeout_s:g} s") from error
        except (OSError, ValueError) as error:
            raise HelperDiedError(self.how_it_ended()) from error
        except FrameError:
            if self._ended_by_a_signal():
                raise HelperDiedError(self.how_it_ended()) from None
            raise
        if frame is None:
            raise HelperDiedError(self.how_it_ended())
        return frame

    @staticmethod
    def _descriptor(stream: Any) -> int:
        return int(stream.fileno())

    def _ended_by_a_signal(self) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(EXIT_GRACE_S) < 0
        return False

    def how_it_ended(self) -> str:
        """In words, with the last it wrote; for a process that has ended."""
        try:
            code = self._process.wait(EXIT_GRACE_S)
        except subprocess.TimeoutExpired:
            return "closed its pipe"
        how = (
            f"was killed by {forking.signal_name(-code)}"
            if code < 0
            else f"exited with code {code}"
        )
        words = self.words()
        return f"{how}, saying: {words}" if words else how

    def freeze(self) -> None:
        """Take it off the CPUs until ``thaw``; its threads may spin while they wait for work."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it run again."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._process.poll() is None:  # its end is noticed by whoever asks next
            os.killpg(self._process.pid, number)

    def words(self) -> str:
        """What it wrote to its standard error, shortened."""
        try:
            return forking.quote(self._words.fileno())
        except (OSError, ValueError):  # closed already
            return ""

    def close(self, grace_s: float = EXIT_GRACE_S) -> None:
        """End it: by closing its pipe, then by SIGKILL. May be called twice and from any thread."""
        # The thread that speaks to it has the descriptors in use; another must not close them
        # under its hands, where they could become those of another file.
        if self._writing.acquire(timeout=LOCK_TIMEOUT_S):
            self._close_stdin()
            self._writing.release()
        if grace_s > 0:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)  # whoever of the group is left
        self._process.wait()
        with self._writing, self._reading:  # both threads see the end now
            self._close_stdin()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._words.close()

    def _close_stdin(self) -> None:
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
