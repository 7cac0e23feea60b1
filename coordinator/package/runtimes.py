"""TVM's runtime library for this machine and, out of its pinned wheels, for others."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from coordinator.bundle.pins import ARCHITECTURES, COMPILER, wheels
from protos.errors import BadTarget, Unavailable

LIBRARY = "libtvm_runtime.so"
_PAPERS = ("LICENSE", "NOTICE")


@dataclass(frozen=True)
class RuntimeLibrary:
    """TVM's runtime for one platform, and the papers that go with it (file name to content)."""

    data: bytes
    platform_tag: str
    licenses: Mapping[str, bytes]


def installed_runtime() -> RuntimeLibrary:
    """That of the TVM wheel in this environment."""
    distribution = importlib.metadata.distribution(COMPILER)
    root = Path(str(distribution.locate_file("tvm")))
    return RuntimeLibrary(
        data=(root / "lib" / LIBRARY).read_bytes(),
        platform_tag=_platforms(distribution.read_text("WHEEL") or ""),
        licenses={name: (root / name).read_bytes() for name in _PAPERS},
    )


@functools.cache
def runtime_for(architecture: str) -> RuntimeLibrary:
    """That for an architecture as the kernel calls it.

    Raises BadTarget if there is none for it, Unavailable if its wheel is neither in the cache nor
    to be downloaded.
    """
    if architecture == platform.machine():
        return installed_runtime()
    if architecture not in ARCHITECTURES:
        raise BadTarget(
            f"there is no TVM runtime for {architecture}, only for {', '.join(ARCHITECTURES)}: "
            "packages for it can't be written"
        )
    path = wheels(architecture, (COMPILER,))[COMPILER]
    try:
        with zipfile.ZipFile(path) as wheel:
            papers = [n for n in wheel.namelist() if re.fullmatch(r"[^/]+\.dist-info/WHEEL", n)]
            return RuntimeLibrary(
                data=wheel.read(f"tvm/lib/{LIBRARY}"),
                platform_tag=_platforms(wheel.read(papers[0]).decode()),
                licenses={name: wheel.read(f"tvm/{name}") for name in _PAPERS},
            )
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise Unavailable(f"TVM's runtime can't be read from {path}: {error}") from error


def _platforms(wheel_file: str) -> str:
    tags = re.findall(r"^Tag: \S+-\S+-(\S+)$", wheel_file, re.MULTILINE)
    return ".".join(sorted(tags))
