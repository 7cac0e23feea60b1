"""The lock between those who time kernels on a host and those who build on it (DESIGN, 9).

A contract between processes: every measurement on the host's CPUs c takes ``timing(c)``, every
build, proposal or training takes ``working()``, and an agent that loads candidates ``working(c)``.
Work runs beside work, timings run beside timings on other CPUs, and a timing never runs beside work
on its CPUs. It is a reader-writer lock per CPU (``flock`` on files that all processes of the host
share), with a gate in front of each so that neither side starves: whoever waits holds the gate, and
later arrivals queue behind it. The kernel releases the locks of a process that dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

LOCK_DIR_ENVIRONMENT = "TUNEFARM_LOCK_DIR"


def lock_directory() -> Path:
    """Where the lock files are: one place per host, ``TUNEFARM_LOCK_DIR`` to move it."""
    configured = os.environ.get(LOCK_DIR_ENVIRONMENT)
    return Path(configured) if configured else Path(tempfile.gettempdir()) / "tunefarm-locks"


def all_cpus() -> tuple[int, ...]:
    """Every CPU of the host, whatever this process is bound to."""
    return tuple(range(os.cpu_count() or 1))


def _open(name: str) -> int:
    directory = lock_directory()
    if not directory.is_dir():
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o1777)  # mkdir's mode is cut by the umask; other users' agents share it
    # Opened for reading only: flock needs no more, and so other users can share the file. Not with
    # O_CREAT at first: in a sticky directory some kernels refuse that for somebody else's file.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(directory / name, flags)
    except FileNotFoundError:
        descriptor = os.open(directory / name, flags | os.O_CREAT, 0o644)
        with contextlib.suppress(PermissionError):  # somebody else was faster: it is theirs
            os.fchmod(descriptor, 0o644)  # open's mode is cut by the umask, too
        return descriptor


@contextlib.contextmanager
def _hold(cpus: Iterable[int], mode: int) -> Iterator[float]:
    started = time.monotonic()
    held: list[int] = []
    try:
        for cpu in sorted(set(cpus)):  # in one order everywhere, so nobody deadlocks
            gate = _open(f"cpu{cpu}.gate")
            try:
                fcntl.flock(gate, fcntl.LOCK_EX)
                held.append(_open(f"cpu{cpu}.lock"))
                fcntl.flock(held[-1], mode)
            finally:
                os.close(gate)
        yield time.monotonic() - started
    finally:
        for descriptor in held:
            os.close(descriptor)


def timing(cpus: Iterable[int]) -> contextlib.AbstractContextManager[float]:
    """Have ``cpus`` to oneself; gives the seconds waited."""
    return _hold(cpus, fcntl.LOCK_EX)


def working(cpus: Iterable[int] | None = None) -> contextlib.AbstractContextManager[float]:
    """Work on these CPUs (default: any of this host) while nobody times there; gives the seconds
    waited."""
    return _hold(all_cpus() if cpus is None else cpus, fcntl.LOCK_SH)
