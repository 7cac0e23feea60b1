"""What holds for every test: nothing of the user's is touched, and no process is left behind."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator

import psutil
import pytest

SESSION_ENVIRONMENT = "TUNEFARM_TEST_SESSION"
"""Inherited by every process that a test starts, so that orphans are found too."""

EXIT_GRACE_S = 5.0
"""How long a process that was told to end may take to do it."""

_kept_alive: set[int] = set()


def keep_alive(pid: int) -> None:
    """Let this process and its descendants live until the session ends.

    For services that several modules share (PostgreSQL, Ray). The fixture that starts one has
    session scope, registers it here and stops it itself.
    """
    _kept_alive.add(pid)


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _is_of_this_session(process: psutil.Process) -> bool:
    try:
        return process.environ().get(SESSION_ENVIRONMENT) == os.environ[SESSION_ENVIRONMENT]
    except (psutil.Error, OSError):
        return False


def _command(process: psutil.Process) -> str:
    try:
        return f"{process.pid} (child of {process.ppid()}): {' '.join(process.cmdline())}"
    except psutil.Error:
        return f"{process.pid}: gone"


def left_behind(kept_alive: set[int]) -> list[psutil.Process]:
    """Living processes that this one has started, directly or not, and that nobody vouches for."""
    allowed = {os.getpid()} | kept_alive
    for pid in kept_alive:
        allowed |= {process.pid for process in _descendants(pid)}
    suspects = {process.pid: process for process in _descendants(os.getpid())}
    for process in psutil.process_iter():
        if process.pid not in suspects and _is_of_this_session(process):
            suspects[process.pid] = process
    found = []
    for pid, process in suspects.items():
        with contextlib.suppress(psutil.NoSuchProcess):
            ended = process.status() == psutil.STATUS_ZOMBIE
            # Python's own, one per process, lives as long as its parent.
            tracker = "multiprocessing.resource_tracker" in " ".join(process.cmdline())
            if pid not in allowed and not ended and not tracker:
                found.append(process)
    return found


def fail_if_left_behind(where: str, kept_alive: set[int]) -> None:
    """Kill what is left behind and fail with the command lines."""
    suspects = left_behind(kept_alive)
    if not suspects:
        return
    psutil.wait_procs(suspects, timeout=EXIT_GRACE_S)
    leaked = left_behind(kept_alive)
    commands = [_command(process) for process in leaked]
    for process in leaked:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(leaked, timeout=EXIT_GRACE_S)
    if leaked:
        pytest.fail(f"{where} left processes behind:\n  " + "\n  ".join(commands), pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def _nothing_of_the_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEFARM_LOCK_DIR", str(tmp_path_factory.mktemp("locks")))
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.delenv("TUNEFARM_LOG", raising=False)
        patch.setenv(SESSION_ENVIRONMENT, uuid.uuid4().hex)
        yield
        fail_if_left_behind("the test session", kept_alive=set())


@pytest.fixture(scope="module", autouse=True)
def _no_process_left_behind(
    _nothing_of_the_users: None, request: pytest.FixtureRequest
) -> Iterator[None]:
    yield
    fail_if_left_behind(request.node.nodeid, _kept_alive)
