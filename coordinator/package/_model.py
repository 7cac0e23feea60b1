"""What every packaged model has, whatever runs it: its manifest, its specs, and checked inputs.

This file stands alone: it is copied into every package and imports nothing of tunefarm's.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent

Array = np.ndarray[Any, Any]


class PackagedModel:
    """A model in a package. Calls from several threads are safe; they run one after the other."""

    def __init__(self, num_threads: int | None) -> None:
        """Read the manifest; raises ValueError if ``num_threads`` is below 1."""
        self._manifest: dict[str, Any] = json.loads(
            (HERE / "manifest.json").read_text(encoding="utf-8")
        )
        if num_threads is not None and num_threads < 1:
            raise ValueError(f"num_threads is {num_threads}; it must be 1 or more")
        self._lock = threading.Lock()
        self._inputs = _specs(self._manifest["inputs"])
        self._outputs = _specs(self._manifest["outputs"])

    @property
    def manifest(self) -> Mapping[str, Any]:
        """Where the package comes from: model, engine, target, tools, records, latencies."""
        return self._manifest

    @property
    def inputs(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and dtype of each input, by its name in the ONNX model."""
        return dict(self._inputs)

    @property
    def outputs(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and dtype of each output, by its name in the ONNX model."""
        return dict(self._outputs)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs for these inputs, as new arrays; raises ValueError for unfit inputs."""
        arrays = _checked(inputs, self._inputs)
        with self._lock:
            return dict(zip(self._outputs, self._call(arrays), strict=True))

    def _call(self, arrays: Mapping[str, Array]) -> list[Array]:
        """Run the model; new arrays in the order of the outputs."""
        raise NotImplementedError


def _specs(entries: list[dict[str, Any]]) -> dict[str, tuple[tuple[int, ...], str]]:
    return {entry["name"]: (tuple(entry["shape"]), entry["dtype"]) for entry in entries}


def _checked(
    inputs: Mapping[str, np.ndarray[Any, Any]], specs: Mapping[str, tuple[tuple[int, ...], str]]
) -> dict[str, np.ndarray[Any, Any]]:
    missing = [name for name in specs if name not in inputs]
    unknown = [name for name in inputs if name not in specs]
    if missing or unknown:
        raise ValueError(
            f"the model's inputs are {list(specs)}"
            + (f"; missing: {missing}" if missing else "")
            + (f"; unknown: {unknown}" if unknown else "")
        )
    arrays = {}
    for name, (shape, dtype) in specs.items():
        array = np.asarray(inputs[name])
        if array.dtype != np.dtype(dtype):
            raise ValueError(
                f"input {name!r} must be {dtype}, not {array.dtype}: use .astype({dtype!r})"
            )
        if array.shape != shape:
            raise ValueError(f"input {name!r} must have shape {shape}, not {array.shape}")
        arrays[name] = array
    return arrays
