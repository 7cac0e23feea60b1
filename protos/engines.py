"""The engines, beside the farm's own code, that a package may run a model or parts of it in.

A package with such a part holds it as an ONNX model, or for a library of kernels as a program that
calls them, and a few lines that run it (``coordinator/package``); the device must have the engine
installed, or is not asked.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import PurePath


@dataclass(frozen=True)
class Engine:
    """``distribution`` is its name on PyPI, ``licence`` in SPDX; ``module`` is what to import, or
    ``library`` the shared library of a distribution that has nothing to import. ``suffix`` is what
    the file of a part that it runs ends in."""

    name: str
    title: str
    distribution: str
    licence: str
    module: str = ""
    library: str = ""
    suffix: str = ".onnx"


ONNX_RUNTIME = Engine("onnxruntime", "ONNX Runtime", "onnxruntime", "MIT", "onnxruntime")
OPENVINO = Engine("openvino", "OpenVINO", "openvino", "Apache-2.0", "openvino")
ONEDNN = Engine(
    *("onednn", "oneDNN", "onednn-cpu-gomp", "Apache-2.0"), library="libdnnl.so.3", suffix=".npz"
)

ENGINES = (ONNX_RUNTIME, OPENVINO, ONEDNN)

REFERENCE_ENGINE = ONNX_RUNTIME.name
"""The engine that every output is compared with, and that runs what can't be imported."""


def engine(name: str) -> Engine | None:
    """The engine of this name, if there is one."""
    return next((one for one in ENGINES if one.name == name), None)


def installed() -> dict[str, str]:
    """Versions of the engines in this environment, by name; nothing is imported."""
    return {one.name: version for one in ENGINES if (version := _version(one))}


def _version(one: Engine) -> str:
    try:
        if one.module:
            found = importlib.util.find_spec(one.module) is not None
        else:
            files = importlib.metadata.files(one.distribution) or ()
            found = any(PurePath(file).name == one.library for file in files)
        return importlib.metadata.version(one.distribution) if found else ""
    except (ImportError, ValueError):  # a distribution that is not there is an ImportError, too
        return ""
