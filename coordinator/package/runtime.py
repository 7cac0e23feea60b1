"""The model in this package: parts that run one after the other, each in what is fastest at it.

``Model().run({"input": array})`` returns a dictionary of arrays. Needs NumPy, and what the wheel
requires: ``manifest.json`` says which part runs in what.

This file is copied into packages, beside those of the parts, and imports nothing else of
tunefarm's.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent

Array = np.ndarray[Any, Any]
Specs = dict[str, tuple[tuple[int, ...], str]]
Call = Callable[[Sequence[Array]], Sequence[Array]]
"""A part: arrays for its inputs, arrays for its outputs, which its next run may overwrite."""


class Model:
    """The model. Calls from several threads are safe; they run one after the other."""

    def __init__(self, num_threads: int | None = None) -> None:
        """Load the model.

        ``num_threads`` is how many threads it uses; by default what it was tuned with, or
        ``TVM_NUM_THREADS`` for what tunefarm compiled. Those threads are the process's, not the
        model's: the first model that is loaded decides. Raises ValueError if ``num_threads`` is
        below 1, RuntimeError if this CPU can't run the code, or if an engine is not installed.
        """
        self._manifest: dict[str, Any] = json.loads(
            (HERE / "manifest.json").read_text(encoding="utf-8")
        )
        if num_threads is not None and num_threads < 1:
            raise ValueError(f"num_threads is {num_threads}; it must be 1 or more")
        self._lock = threading.Lock()
        self._inputs = _specs(self._manifest["inputs"])
        self._outputs = _specs(self._manifest["outputs"])
        self._parts = [
            (part["inputs"], part["outputs"], _load(self._manifest, part, num_threads))
            for part in self._manifest["parts"]
        ]

    @property
    def manifest(self) -> Mapping[str, Any]:
        """Where the package comes from: model, parts, target, tools, records, latencies."""
        return self._manifest

    @property
    def inputs(self) -> Specs:
        """Shape and dtype of each input, by its name in the ONNX model."""
        return dict(self._inputs)

    @property
    def outputs(self) -> Specs:
        """Shape and dtype of each output, by its name in the ONNX model."""
        return dict(self._outputs)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs for these inputs, as new arrays; raises ValueError for unfit inputs."""
        values = _checked(inputs, self._inputs)
        with self._lock:
            for read, written, call in self._parts:
                values.update(zip(written, call([values[name] for name in read]), strict=True))
            # Copies, because the next run may write into the same memory.
            return {name: np.array(values[name]) for name in self._outputs}

    def part_times(self, inputs: Mapping[str, Array]) -> list[float]:
        """Seconds that each part takes in a run with these inputs, in the manifest's order."""
        values = _checked(inputs, self._inputs)
        seconds = []
        with self._lock:
            for read, written, call in self._parts:
                started = time.perf_counter()
                results = call([values[name] for name in read])
                seconds.append(time.perf_counter() - started)
                values.update(zip(written, results, strict=True))
        return seconds


def _load(manifest: Mapping[str, Any], part: Mapping[str, Any], num_threads: int | None) -> Call:
    """The part, ready to be called."""
    if part["engine"] == "tunefarm":
        from .compiled_part import CompiledPart

        return CompiledPart(part, manifest, num_threads)
    from .engine_part import load_engine

    return load_engine(part, manifest, num_threads)


def _specs(entries: list[dict[str, Any]]) -> Specs:
    return {entry["name"]: (tuple(entry["shape"]), entry["dtype"]) for entry in entries}


def _checked(inputs: Mapping[str, Array], specs: Specs) -> dict[str, Array]:
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
