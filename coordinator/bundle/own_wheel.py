"""tunefarm itself as a wheel, made of what is installed: equal sources give equal bytes."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
from collections.abc import Iterator
from importlib.resources.abc import Traversable

from coordinator.package.wheel import pack

PACKAGES = ("coordinator", "cost_model", "device_agent", "protos")
_PAPERS = {
    "METADATA": ("METADATA", "PKG-INFO"),  # of what is installed, or of a clone that is worked on
    "entry_points.txt": ("entry_points.txt",),
    "top_level.txt": ("top_level.txt",),
}
_TAG = "py3-none-any"


def own_wheel() -> tuple[str, bytes]:
    """Its file's name and bytes."""
    distribution = importlib.metadata.distribution("tunefarm")
    name = f"tunefarm-{distribution.version}"
    members = {
        path: data
        for package in PACKAGES
        for path, data in _files(importlib.resources.files(package), package)
    }
    for paper, places in _PAPERS.items():
        text = next(text for place in places if (text := distribution.read_text(place)))
        members[f"{name}.dist-info/{paper}"] = text.encode()
    members[f"{name}.dist-info/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: tunefarm {distribution.version}\n"
        f"Root-Is-Purelib: true\nTag: {_TAG}\n"
    ).encode()
    filename = f"{name}-{_TAG}.whl"
    return filename, pack(filename, members)


def _files(folder: Traversable, path: str) -> Iterator[tuple[str, bytes]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name == "__pycache__" or entry.name.startswith("."):
            continue
        below = f"{path}/{entry.name}"
        if entry.is_dir():
            yield from _files(entry, below)
        else:
            yield below, entry.read_bytes()
