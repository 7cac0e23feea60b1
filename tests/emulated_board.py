"""A Raspberry Pi 4 as far as QEMU's user-mode emulation is one: Debian's Python 3.11 for aarch64.

What does not change, the files of Debian and the bundle's wheels of others, is kept in the user's
cache. The rest comes from the bundle under test.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

QEMU = "qemu-aarch64-static"
CPU = "cortex-a72"
SUITE = "bookworm"
PACKAGES = ("python3.11-minimal", "libpython3.11-stdlib", "libstdc++6", "zlib1g", "libgcc-s1")
HOSTS = ("dev", "tmp")
"""What an emulated process has of the host: what is in its own system would hide that."""

SETUP_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Board:
    """A machine with the agent installed: its Python, and the environment that this needs."""

    python: Path
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    def command(self, *arguments: str | Path) -> list[str]:
        """What runs `tunefarm` with these arguments on it."""
        return [str(self.python), "-m", "coordinator.cli.main", *map(str, arguments)]


def unpack(archive: Path, folder: Path) -> None:
    """As its users do; Debian 12's own Python 3.11.2 has no filters for what it extracts."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["tar", "-xf", archive, "-C", folder], check=True)


def board_with(bundle: Path, folder: Path) -> Board:
    """Unpack the bundle and install it in ``folder``; skips the test where that can't be done."""
    missing = [name for name in (QEMU, "mmdebstrap") if shutil.which(name) is None]
    if missing:
        pytest.skip(
            f"{' and '.join(missing)} not installed, so there is no emulated Raspberry Pi: "
            "apt-get install mmdebstrap qemu-user-static"
        )
    unpack(bundle, folder)
    (unpacked,) = folder.glob("tunefarm-agent-*")
    wheels = sorted((unpacked / "wheels").glob("*.whl"))
    own = [wheel for wheel in wheels if wheel.name.startswith("tunefarm-")]
    system = _kept("system", [SUITE, *PACKAGES, *HOSTS], _make_system)
    others = _kept(
        "packages",
        [hashlib.sha256(w.read_bytes()).hexdigest() for w in wheels if w not in own],
        lambda made: _unzip([wheel for wheel in wheels if wheel not in own], made),
    )
    return _installed(folder / "opt", system, others, own, unpacked / "lib")


def _installed(prefix: Path, system: Path, others: Path, own: list[Path], lib: Path) -> Board:
    """As ``install.sh`` does it, which would need a system of the board's own to run in."""
    packages = prefix / "lib" / "python3.11" / "site-packages"
    _unzip(own, packages)
    (packages / "others.pth").write_text(f"{others}\n")
    shutil.copy(lib / "libtvm_runtime.so", prefix / "lib")
    interpreter = system / "usr/bin/python3.11"
    (prefix / "pyvenv.cfg").write_text(f"home = {interpreter.parent}\n")
    python = prefix / "bin" / "python"
    python.parent.mkdir()
    # The agent starts Pythons, too: by this name, as the kernel does not know how to run the other.
    python.write_text(
        f'#!/bin/sh\nexec {QEMU} -cpu {CPU} -L {system} -0 {python} {interpreter} "$@"\n'
    )
    python.chmod(0o755)
    # Without what would lead the emulated Python to the host's packages.
    return Board(python, {k: v for k, v in os.environ.items() if k != "PYTHONPATH"})


def _kept(what: str, made_of: list[str], make: object) -> Path:
    """A folder in the cache with what ``make`` puts there, made once for what it is made of."""
    assert callable(make)
    key = hashlib.sha256("\n".join(made_of).encode()).hexdigest()[:16]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tunefarm-tests"
    kept = home / f"{what}-{key}"
    if not kept.exists():
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home, prefix=".unfinished-") as unfinished:
            made = Path(unfinished, "made")
            make(made)
            made.rename(kept)
    return kept


def _make_system(made: Path) -> None:
    command = [
        *("mmdebstrap", "--quiet", "--variant=extract", "--architectures=arm64"),
        *("--skip=check/qemu", f"--mode={'root' if os.geteuid() == 0 else 'unshare'}"),
        *(f"--include={','.join(PACKAGES)}", SUITE, str(made)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SETUP_TIMEOUT_S)
    if done.returncode:
        pytest.skip(f"mmdebstrap can't make a Debian for aarch64: {done.stderr[-500:]}")
    for name in HOSTS:
        shutil.rmtree(made / name, ignore_errors=True)


def _unzip(wheels: list[Path], folder: Path) -> None:
    folder.mkdir(parents=True)
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
