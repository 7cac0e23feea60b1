"""The engines, beside the farm's own code, that a package may run a model or parts of it in.

A package with such a part holds it as an ONNX model and a few lines that run it
(``coordinator/package``); the device must have the engine installed, or is not asked.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass


@dataclass(frozen=True)
class Engine:
    """``distribution`` is its name on PyPI, ``module`` what to import; ``licence`` in SPDX."""

    name: str
    title: str
    module: str
    distribution: str
    licence: str


ENGINES = (
    Engine("onnxruntime", "ONNX Runtime", "onnxruntime", "onnxruntime", "MIT"),
    Engine("openvino", "OpenVINO", "openvino", "openvino", "Apache-2.0"),
)


REFERENCE_ENGINE = "onnxruntime"
"""The engine that every output is compared with, and that runs what can't be imported."""


def engine(name: str) -> Engine | None:
    """The engine of this name, if there is one."""
    return next((one for one in ENGINES if one.name == name), None)


def installed() -> dict[str, str]:
    """Versions of the engines in this environment, by name; nothing is imported."""
    return {one.name: version for one in ENGINES if (version := _version(one))}


def _version(one: Engine) -> str:
    try:
        found = importlib.util.find_spec(one.module) is not None
        return importlib.metadata.version(one.distribution) if found else ""
    except (ImportError, ValueError, importlib.metadata.PackageNotFoundError):
        return ""
