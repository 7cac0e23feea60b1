"""What a kernel's process is kept from, tried in processes of the test's own."""

from __future__ import annotations

import os
import subprocess
import sys

from device_agent import containment


def tried(script: str) -> str:
    """What a process prints that has made itself a kernel's."""
    code = f"import os, resource, socket\nfrom device_agent import containment\n{script}\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_the_system_refuses_is_known_by_name() -> None:
    known = {
        "the network",
        "being root",
        "using much memory",
        "using much CPU time",
        "writing large files",
        "making many processes",
        "gaining rights",
    }
    before = os.geteuid()
    found = containment.not_enforced()
    assert set(found) <= known
    assert len(found) == len(set(found))
    # Nothing that any Linux allows; and the process that asked is as it was.
    assert not {"using much CPU time", "writing large files", "gaining rights"} & set(found)
    assert os.geteuid() == before


def test_what_is_refused_is_said() -> None:
    """As on a system that allows no namespaces and no new limits (fakes: this one does)."""
    script = (
        "containment.leave_network = lambda: False\n"
        "containment.resource.setrlimit = lambda *_: (_ for _ in ()).throw(OSError())\n"
        "print(*containment.not_enforced(), sep=', ')"
    )
    said = tried(script).split(", ")
    assert {"the network", "using much memory", "making many processes"} <= set(said)
    assert "gaining rights" not in said


def test_a_kernels_process_is_nobodys_or_the_users_and_never_root() -> None:
    script = (
        "assert containment.leave_root()\n"
        "print(os.getuid(), os.geteuid())\n"
        "try:\n"
        "    os.setuid(0)\n"
        "except PermissionError:\n"
        "    print('stays')"
    )
    user = containment.UNPRIVILEGED if os.geteuid() == 0 else os.geteuid()
    assert tried(script).splitlines() == [f"{user} {user}", "stays"]


def test_a_limited_process_makes_few_processes() -> None:
    script = (
        "containment.leave_root()\n"
        "containment.limit_this_process(10.0)\n"
        "print(resource.getrlimit(resource.RLIMIT_NPROC)[0])"
    )
    assert int(tried(script)) <= containment.MAX_PROCESSES
