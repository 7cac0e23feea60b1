"""The model in this package, run by another engine, which was the fastest on the device.

``Model().run({"input": array})`` returns a dictionary of arrays. Needs NumPy and the engine that
``manifest.json`` names; the model is in the package.

This file is copied into packages, beside ``_tensors.py``, and imports nothing else of tunefarm's.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ._tensors import checked, specs

Arrays = Mapping[str, np.ndarray[Any, Any]]

_HERE = Path(__file__).resolve().parent


class Model:
    """The model. Calls from several threads are safe; they run one after the other."""

    def __init__(self, num_threads: int | None = None) -> None:
        """Load the model; ``num_threads`` is by default what it was timed with.

        Raises RuntimeError if the engine is not installed.
        """
        self._manifest: dict[str, Any] = json.loads(
            (_HERE / "manifest.json").read_text(encoding="utf-8")
        )
        if num_threads is not None and num_threads < 1:
            raise ValueError(f"num_threads is {num_threads}; it must be 1 or more")
        self._inputs = specs(self._manifest["inputs"])
        self._outputs = specs(self._manifest["outputs"])
        self._lock = threading.Lock()
        engine = self._manifest["engine"]["name"]
        try:
            load = {"onnxruntime": _onnxruntime, "openvino": _openvino}[engine]
            self._run = load(
                _HERE / "model.onnx",
                num_threads or int(self._manifest["num_threads"]),
                list(self._outputs),
            )
        except ImportError as error:
            raise RuntimeError(
                f"{self._manifest['model']['name']} runs in {engine}, which is not installed: "
                f"pip install {engine}=={self._manifest['engine']['version']}"
            ) from error

    @property
    def manifest(self) -> Mapping[str, Any]:
        """Where the package comes from: model, engine, target, tool versions, latencies."""
        return self._manifest

    @property
    def inputs(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and dtype of each input, by its name in the ONNX model."""
        return dict(self._inputs)

    @property
    def outputs(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and dtype of each output, by its name in the ONNX model."""
        return dict(self._outputs)

    def run(self, inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        """The outputs for these inputs, as new arrays; raises ValueError for unfit inputs."""
        arrays = checked(inputs, self._inputs)
        with self._lock:
            return dict(zip(self._outputs, self._run(arrays), strict=True))


def _onnxruntime(path: Path, num_threads: int, outputs: list[str]) -> Callable[[Arrays], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(path), sess_options=options, providers=["CPUExecutionProvider"]
    )
    return lambda arrays: session.run(outputs, arrays)


def _openvino(path: Path, num_threads: int, outputs: list[str]) -> Callable[[Arrays], Any]:
    import openvino

    core = openvino.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": num_threads,
        "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the CPU has it
    }
    request = core.compile_model(core.read_model(path), "CPU", settings).create_infer_request()

    def run(arrays: Arrays) -> list[np.ndarray[Any, Any]]:
        results = request.infer(arrays, share_inputs=True)
        return [np.array(results[name]) for name in outputs]

    return run
