"""The bundle: one tar with all that a device needs to be an agent, but for Python itself."""

from __future__ import annotations

import hashlib
import importlib.resources
import io
import tarfile
from collections.abc import Mapping

from coordinator.bundle.own_wheel import own_wheel
from coordinator.bundle.pins import COMPILER, INSTALLER, pins, wheels
from coordinator.package.runtimes import LIBRARY, runtime_for

_TIME = 315_532_800
"""1980, the first moment that every archive format can express: equal content, equal bytes."""

_SCRIPT = "install.sh"
_UNITS = ("tunefarm-agent.service", "tunefarm.sysusers", "tunefarm.tmpfiles")
SUMS = "SHA256SUMS"


def folder_name(architecture: str) -> str:
    """What the tar unpacks to."""
    return f"tunefarm-agent-{architecture}"


def bundle(architecture: str) -> bytes:
    """The tar, the same for the same tunefarm.

    Raises BadRequest for an architecture that there is no agent for, Unavailable if the pinned
    wheels are neither in the cache nor to be downloaded.
    """
    files: dict[str, bytes] = {}
    wanted = [pin.name for pin in pins(architecture) if pin.name != COMPILER]
    for name, path in wheels(architecture, wanted).items():
        folder = "installer" if name == INSTALLER else "wheels"
        files[f"{folder}/{path.name}"] = path.read_bytes()
    filename, data = own_wheel()
    files[f"wheels/{filename}"] = data
    runtime = runtime_for(architecture)
    files[f"lib/{LIBRARY}"] = runtime.data
    files |= {f"lib/{paper}.tvm": text for paper, text in runtime.licenses.items()}
    files |= {f"systemd/{name}": _own(name) for name in _UNITS}
    files["ARCHITECTURE"] = f"{architecture}\n".encode()
    files[_SCRIPT] = _own(_SCRIPT)
    files[SUMS] = _sums(files)
    return _tar(folder_name(architecture), files)


def _own(name: str) -> bytes:
    return importlib.resources.files(__package__).joinpath(f"files/{name}").read_bytes()


def _sums(files: Mapping[str, bytes]) -> bytes:
    lines = (f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))
    return "".join(lines).encode()


def _tar(folder: str, files: Mapping[str, bytes]) -> bytes:
    """Not compressed: wheels are."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in sorted(files):
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size, info.mtime = len(files[name]), _TIME
            info.mode = 0o755 if name == _SCRIPT else 0o644
            archive.addfile(info, io.BytesIO(files[name]))
    return buffer.getvalue()
