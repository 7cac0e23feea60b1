"""What keeps a kernel from harming more than its own process.

Some of it a system may refuse (no user namespaces, for example). That does not stop the farm: the
device says at its registration what its kernels are not kept from (``not_enforced``).
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import resource
import signal
import time
from collections.abc import Collection
from pathlib import Path

import psutil

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 1 << 20
MAX_OPEN_FILES = 64
MAX_PROCESSES = 1024
"""Threads, too, and all that the same user has on the machine."""

UNPRIVILEGED = 65534
"""The user and group that every system calls nobody."""

STRAYS_TIMEOUT_S = 2.0

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> bool:
    """Whether the system takes it."""
    taken: bool = _libc.prctl(option, value, 0, 0, 0) == 0
    if not taken:
        log.warning("prctl(%s) refused: %s", option, os.strerror(ctypes.get_errno()))
    return taken


def die_with_parent(parent: int, signal_number: int = signal.SIGKILL) -> None:
    """Have this process signalled when the thread that started it ends."""
    _prctl(_PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent:  # it ended before we asked
        os.kill(os.getpid(), signal_number)


def count_threads() -> int:
    """The threads of this process."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def become_subreaper() -> None:
    """Inherit the orphans of our descendants, so that ``kill_strays`` can find them."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def leave_network() -> bool:
    """Move this process into a network namespace without interfaces; False if not allowed.

    Must be called while the process has one thread.
    """
    uid, gid = os.getuid(), os.getgid()
    if _libc.unshare(_CLONE_NEWNET) == 0:
        return True
    if _libc.unshare(_CLONE_NEWNET | _CLONE_NEWUSER) != 0:
        return False
    with contextlib.suppress(OSError):  # only to keep our name; no right depends on it
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    return True


def leave_root() -> bool:
    """Be nobody from now on, if this process is root's; False if it is and must stay.

    Also ends what ``die_with_parent`` asked for.
    """
    if os.geteuid() != 0:
        return True
    try:
        os.setgroups([])
        os.setresgid(UNPRIVILEGED, UNPRIVILEGED, UNPRIVILEGED)
        os.setresuid(UNPRIVILEGED, UNPRIVILEGED, UNPRIVILEGED)
    except OSError:  # in a container that maps no such user
        return False
    return True


def not_enforced() -> tuple[str, ...]:
    """What kernels on this machine are not kept from, for people; tried in a child.

    Must be called while the process has one thread.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, "\n".join(_refused()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        found = answer.read().decode().splitlines()
    os.waitpid(pid, 0)
    return tuple(found)


def _refused() -> list[str]:
    tried = {
        "the network": leave_network(),
        "being root": leave_root(),
        "using much memory": _limit(resource.RLIMIT_AS, 1 << 40),
        "using much CPU time": _limit(resource.RLIMIT_CPU, 3600),
        "writing large files": _limit(resource.RLIMIT_FSIZE, MAX_FILE_BYTES),
        "making many processes": os.geteuid() != 0 and _limit(resource.RLIMIT_NPROC, MAX_PROCESSES),
        "gaining rights": _prctl(_PR_SET_NO_NEW_PRIVS, 1),
    }
    return [what for what, works in tried.items() if not works]


def limit_this_process(cpu_s: float) -> None:
    """Limits for a process that runs a kernel: small files, few of them, few processes, no more CPU
    than due."""
    _limit(resource.RLIMIT_FSIZE, MAX_FILE_BYTES)
    _limit(resource.RLIMIT_NOFILE, MAX_OPEN_FILES)
    _limit(resource.RLIMIT_NPROC, MAX_PROCESSES)
    _limit(resource.RLIMIT_CPU, max(1, int(cpu_s)))
    protect_this_process()


def protect_this_process() -> None:
    """Limits for a process that runs a whole model: no core file, no swapping, no new rights."""
    _limit(resource.RLIMIT_CORE, 0)
    # What asks for more than the machine has is refused, before the machine swaps.
    _limit(resource.RLIMIT_AS, psutil.virtual_memory().total + (1 << 30))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _limit(which: int, value: int) -> bool:
    """Whether the system takes it."""
    _soft, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    try:
        resource.setrlimit(which, (value, value))
    except (OSError, ValueError):
        return False
    return True


def kill_group(leader: int) -> None:
    """Kill a process group and its leader, whether or not the leader has made the group yet."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(leader, signal.SIGKILL)


def kill_strays(known: Collection[int] = ()) -> None:
    """Kill and reap every child of this process but those that are known.

    What these started is theirs, until they end: then it becomes a child of ours.
    """
    deadline = time.monotonic() + STRAYS_TIMEOUT_S
    while strays := [pid for pid in _children() if pid not in known]:
        if time.monotonic() > deadline:
            log.error("processes that a kernel left behind can't be killed: %s", strays)
            return
        for pid in strays:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.001)


def _children() -> list[int]:
    """Direct children of this process, which has one thread; zombies, too."""
    own = os.getpid()
    try:  # a thousand times faster than looking at every process of the machine
        return [int(pid) for pid in Path(f"/proc/{own}/task/{own}/children").read_text().split()]
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        return [child.pid for child in psutil.Process().children()]
