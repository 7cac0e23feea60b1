"""Processes that are started again when they end, as systemd does with the units of ``deploy``; and
what is left of a run's processes when it is over."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

RESTART_S = 1.0
"""The units say five seconds; a run is short."""

STOP_S = 60.0
"""What the units allow."""

RUN_ENVIRONMENT = "CHAOS_RUN"
"""Inherited by all that a run starts, so that orphans are found, too."""


class DidNotStop(Exception):
    """A process that was told to end did not."""


class Supervised:
    """A process that runs again soon after it ended, whoever ended it.

    ``stays_down`` are exit codes after which it is left alone. Its words are appended to ``said``.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        said: Path,
        note: Callable[[str], None],
        stays_down: Collection[int] = (),
    ) -> None:
        self.name = name
        self.command = list(command)
        self._environment = dict(environment)
        self.said = said
        self._note = note
        self._stays_down = stays_down
        self._process: subprocess.Popen[bytes] | None = None
        self._start_at = 0.0
        self._frozen: list[psutil.Process] = []
        self._wanted = False

    @property
    def pid(self) -> int | None:
        """Of the process that runs, if one does."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it if it does not run, and keep it up from now on."""
        self._wanted = True
        if self._process is not None:
            return
        with self.said.open("ab") as said:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env={**os.environ, **self._environment},
                start_new_session=True,  # Ctrl-C is the harness's
            )

    def tend(self) -> None:
        """Start it again if it has ended; to be called now and then."""
        if self._process is not None and (code := self._process.poll()) is not None:
            self._process = None
            if code in self._stays_down:
                self._wanted = False
            self._note(f"{self.name} ended by itself with {code}; see {self.said}")
            self._start_at = time.monotonic() + RESTART_S
        if self._process is None and self._wanted and time.monotonic() >= self._start_at:
            self.start()

    def kill(self) -> None:
        """kill -9; it stays down until ``start``."""
        self._wanted = False
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Stop it and all that it has started, as if the machine hung."""
        if self._process is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self._process.pid)
            for process in (root, *root.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if process.status() != psutil.STATUS_STOPPED:  # by the agent itself
                        process.send_signal(signal.SIGSTOP)
                        self._frozen.append(process)

    def thaw(self) -> None:
        """Let what was frozen go on."""
        for process in self._frozen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)
        self._frozen = []

    def stop(self) -> None:
        """End it as systemd does; raises DidNotStop, and kills it then."""
        self._wanted = False
        self.thaw()
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired as error:
            self._process.kill()
            self._process.wait()
            raise DidNotStop(f"{self.name} had not ended {STOP_S:.0f} s after SIGTERM") from error
        finally:
            self._process = None


@contextlib.contextmanager
def marked() -> Iterator[str]:
    """While the block runs, what this process starts is marked as this run's."""
    before, mark = os.environ.get(RUN_ENVIRONMENT), uuid.uuid4().hex
    os.environ[RUN_ENVIRONMENT] = mark
    try:
        yield mark
    finally:
        if before is None:
            del os.environ[RUN_ENVIRONMENT]
        else:
            os.environ[RUN_ENVIRONMENT] = before


def left_behind(mark: str, grace_s: float) -> list[str]:
    """The processes of a run that still live ``grace_s`` seconds later, for people."""
    deadline = time.monotonic() + grace_s
    while (found := _of_run(mark)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def _of_run(mark: str) -> list[str]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            is_ours = process.environ().get(RUN_ENVIRONMENT) == mark
            if is_ours and process.pid != os.getpid() and not _has_ended(process):
                found.append(f"process {process.pid}: {' '.join(process.cmdline())}")
    return found


def _has_ended(process: psutil.Process) -> bool:
    # Python's resource tracker, one for this process, ends with it.
    tracker = "multiprocessing.resource_tracker" in " ".join(process.cmdline())
    return tracker or bool(process.status() == psutil.STATUS_ZOMBIE)


def ray_workers() -> list[psutil.Process]:
    """The actors' processes on this machine's Ray, which this process has started: builders,
    search, training."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if " ".join(process.cmdline()).startswith("ray::_Host"):
                found.append(process)
    return sorted(found, key=lambda process: int(process.pid))
