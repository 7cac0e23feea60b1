"""The model in this package, run by another engine, which was the fastest on the device.

``Model().run({"input": array})`` returns a dictionary of arrays. Needs NumPy and the engine that
``manifest.json`` names; the model is in the package.

This file is copied into packages, beside ``_model.py``, and imports nothing else of tunefarm's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ._model import HERE, Array, PackagedModel

Run = Callable[[Mapping[str, Array]], list[Array]]


class Model(PackagedModel):
    """The model. Calls from several threads are safe; they run one after the other."""

    def __init__(self, num_threads: int | None = None) -> None:
        """Load the model; ``num_threads`` is by default what it was timed with.

        Raises RuntimeError if the engine is not installed.
        """
        super().__init__(num_threads)
        engine = self._manifest["engine"]["name"]
        load = {"onnxruntime": _onnxruntime, "openvino": _openvino}[engine]
        threads = num_threads or int(self._manifest["num_threads"])
        try:
            self._run = load(HERE / "model.onnx", threads, list(self._outputs))
        except ImportError as error:
            raise RuntimeError(
                f"{self._manifest['model']['name']} runs in {engine}, which is not installed: "
                f"pip install {engine}=={self._manifest['engine']['version']}"
            ) from error

    def _call(self, arrays: Mapping[str, Array]) -> list[Array]:
        return self._run(arrays)


def _onnxruntime(path: Path, num_threads: int, outputs: list[str]) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(path), sess_options=options, providers=["CPUExecutionProvider"]
    )
    return lambda arrays: list(session.run(outputs, arrays))


def _openvino(path: Path, num_threads: int, outputs: list[str]) -> Run:
    import openvino

    core = openvino.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": num_threads,
        "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the CPU has it
    }
    request = core.compile_model(core.read_model(path), "CPU", settings).create_infer_request()

    def run(arrays: Mapping[str, Array]) -> list[Array]:
        results = request.infer(arrays, share_inputs=True)
        return [np.array(results[name]) for name in outputs]

    return run
