"""The processes that are fuzzed: started as a user starts them, and watched."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

TUNEFARM = (sys.executable, "-m", "coordinator.cli.main")
PATIENCE_S = 120.0
STOP_S = 30.0

_DEFECT = re.compile(r"^(Traceback \(most recent|\d{4}-.* (ERROR|CRITICAL) |Fatal Python error)")


@dataclass(frozen=True)
class Footprint:
    """What a process holds: resident bytes, open file descriptors, threads."""

    rss_bytes: int
    descriptors: int
    threads: int


class Watched:
    """A process with a file of what it says."""

    def __init__(self, name: str, arguments: Sequence[str], folder: Path) -> None:
        self.name = name
        self.said_file = folder / f"{name}.err"
        with self.said_file.open("w") as said:
            self._process = subprocess.Popen(
                [*TUNEFARM, "-v", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd=folder,
            )

    def said(self) -> str:
        """All that it has said so far."""
        return self.said_file.read_text(errors="replace")

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Return when it has said this; raises RuntimeError if it ends or says nothing."""
        deadline = time.monotonic() + PATIENCE_S
        while (found := re.search(pattern, self.said())) is None:
            if not self.alive or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not say {pattern!r}:\n{self.said()[-4000:]}")
            time.sleep(0.1)
        return found

    @property
    def alive(self) -> bool:
        """Whether it is the process that was started, and runs."""
        return self._process.poll() is None

    @property
    def status(self) -> int | None:
        """Its exit status; None if it runs."""
        return self._process.poll()

    def footprint(self) -> Footprint:
        """What it holds now; its children don't count."""
        process = psutil.Process(self._process.pid)
        with process.oneshot():
            return Footprint(process.memory_info().rss, process.num_fds(), process.num_threads())

    def defects(self) -> list[str]:
        """Lines of what it said that tell of a defect, with what follows them."""
        lines = self.said().splitlines()
        return [
            f"{self.name}: " + " | ".join(lines[i : i + 12])[:1500]
            for i, line in enumerate(lines)
            if _DEFECT.match(line)
        ]

    def stop(self) -> None:
        """As systemd does it."""
        if self.alive:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()


def run(*arguments: str) -> str:
    """One command to its end; what it printed. Raises RuntimeError if it fails."""
    done = subprocess.run(
        [*TUNEFARM, *arguments], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    if done.returncode:
        raise RuntimeError(f"tunefarm {' '.join(arguments)}: {done.stderr}")
    return done.stdout.strip()


@dataclass(frozen=True)
class Ports:
    """Where a coordinator listens, HOST:PORT each."""

    plain: str
    secure: str
    enrolment: str


@contextlib.contextmanager
def coordinator(folder: Path) -> Iterator[tuple[Watched, Ports]]:
    """`tunefarm serve` with all its ports, on a new log."""
    run("ca", "init", "--ca", str(folder / "ca.pem"))
    served = Watched(
        "coordinator",
        [
            *("serve", "--listen", "127.0.0.1:0", "--listen-tls", "127.0.0.1:0"),
            *("--log", str(folder / "log.db"), "--ca", str(folder / "ca.pem")),
        ],
        folder,
    )
    try:
        found = served.wait_for(
            r"coordinator on 127.0.0.1:(\d+),.*\n.*TLS on port (\d+), enrolments on port (\d+)"
        )
        yield served, Ports(*(f"127.0.0.1:{port}" for port in found.groups()))
    finally:
        served.stop()


@contextlib.contextmanager
def agent(folder: Path, name: str, coordinator_at: str, *more: str) -> Iterator[Watched]:
    """`tunefarm agent`."""
    arguments = ["agent", "--coordinator", coordinator_at, "--name", name]
    arguments += ["--state", str(folder / f"{name}.state"), *more]
    watched = Watched(name, arguments, folder)
    try:
        yield watched
    finally:
        watched.stop()
