"""The wheels for an architecture that are downloaded, and nothing else: each with its SHA-256.

``files/ARCHITECTURE.txt`` lists them as pip takes them. They are kept in the user's cache; what is
found there is used only if its hash is the pinned one.
"""

from __future__ import annotations

import importlib.resources
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from protos.errors import BadRequest, Unavailable
from protos.records import sha256_hex

ARCHITECTURES = ("aarch64", "x86_64")
PYTHON = (3, 11)
"""That of Raspberry Pi OS 12 (bookworm), as of Debian 12."""

COMPILER = "apache-tvm"
"""Not installed on a device: TVM's runtime is taken out of it."""

INSTALLER = "pip"

_GLIBCS = ("2_28", "2_27", "2_26", "2_24", "2_17")
_TIMEOUT_S = 1800.0


@dataclass(frozen=True)
class Pin:
    """One wheel; ``name`` as a package index has it."""

    name: str
    version: str
    sha256: str

    @property
    def line(self) -> str:
        """As pip reads it."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"

    def pattern(self) -> str:
        """What its file's name looks like."""
        return f"{re.sub(r'[-_.]+', '_', self.name)}-{self.version}-*.whl"


def pins(architecture: str) -> tuple[Pin, ...]:
    """All of an architecture's; raises BadRequest if there are none for it."""
    if architecture not in ARCHITECTURES:
        raise BadRequest(
            f"there is no agent for {architecture!r}; there are ones for {', '.join(ARCHITECTURES)}"
        )
    text = importlib.resources.files(__package__).joinpath(f"files/{architecture}.txt").read_text()
    found = re.findall(r"^(\S+)==(\S+) --hash=sha256:([0-9a-f]{64})$", text, re.MULTILINE)
    return tuple(Pin(*parts) for parts in found)


def wheels(architecture: str, wanted: Collection[str] = ()) -> dict[str, Path]:
    """The files of an architecture's wheels (those ``wanted``, or all) by distribution.

    What the cache does not have is downloaded. Raises Unavailable if that can't be done.
    """
    needed = [pin for pin in pins(architecture) if not wanted or pin.name in wanted]
    folder = _cache() / architecture
    missing = [pin for pin in needed if _cached(folder, pin) is None]
    if missing:
        _download(architecture, missing, folder)
    found = {pin.name: _cached(folder, pin) for pin in needed}
    lost = [name for name, path in found.items() if path is None]
    if lost:
        raise Unavailable(f"{folder} lost the wheels of {', '.join(lost)}; is the disk full?")
    return {name: path for name, path in found.items() if path is not None}


def download_options(architecture: str) -> list[str]:
    """What tells pip to look for another machine's wheels."""
    version = "".join(map(str, PYTHON))
    options = ["--only-binary=:all:", "--python-version", version, "--implementation", "cp"]
    for abi in (f"cp{version}", "abi3", "none"):
        options += ["--abi", abi]
    platforms = [f"manylinux_{glibc}_{architecture}" for glibc in _GLIBCS]
    for platform in (*platforms, f"manylinux2014_{architecture}"):
        options += ["--platform", platform]
    return options


def run_pip(arguments: Sequence[str]) -> None:
    """Run pip; raises Unavailable with what it says."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"pip was not done after {_TIMEOUT_S:.0f} s") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        said = [line for line in lines if line.startswith("ERROR:")] or lines or ["nothing"]
        raise Unavailable(f"pip says: {said[0].removeprefix('ERROR: ')}")


def _download(architecture: str, missing: Sequence[Pin], folder: Path) -> None:
    names = ", ".join(pin.name for pin in missing)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as directory:
            lines = Path(directory, "wheels.txt")
            lines.write_text("".join(f"{pin.line}\n" for pin in missing))
            run_pip(
                [
                    *("download", "--quiet", "--no-deps", "--require-hashes", "--dest", directory),
                    *(*download_options(architecture), "--requirement", str(lines)),
                ]
            )
            for path in Path(directory).glob("*.whl"):
                path.replace(folder / path.name)
    except Unavailable as error:
        raise Unavailable(
            f"the wheels for {architecture} of {names} can't be downloaded: {error}. That needs a "
            "package index: run `tunefarm agent bundle` once where there is one, and copy what it "
            f"keeps there to {folder}"
        ) from error
    except OSError as error:
        raise Unavailable(f"{folder} can't be written: {error.strerror}") from error


def _cached(folder: Path, pin: Pin) -> Path | None:
    for path in sorted(folder.glob(pin.pattern())):
        if sha256_hex(path.read_bytes()) == pin.sha256:
            return path
    return None


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "tunefarm" / "wheels"
