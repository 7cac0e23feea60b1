"""A part of the model, or all of it, that another engine runs, which is the faster one there.

Needs the engine that the manifest names; the part is in the package. This file is copied into
packages and imports nothing of tunefarm's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent

Array = np.ndarray[Any, Any]
Call = Callable[[Sequence[Array]], Sequence[Array]]


def load_engine(
    part: Mapping[str, Any], manifest: Mapping[str, Any], num_threads: int | None
) -> Call:
    """The part's function: arrays in, arrays out.

    Beside parts that tunefarm compiled it does not wait actively for its next run: two thread pools
    that do so take each other's CPUs. Raises RuntimeError if the engine is not installed.
    """
    engine = part["engine"]
    load, distribution = _ENGINES[engine]
    threads = num_threads or int(manifest["num_threads"])
    alone = len(manifest["parts"]) == 1
    try:
        return load(HERE / part["files"], threads, part["inputs"], part["outputs"], alone)
    except ImportError as error:
        versions = {used["name"]: used["version"] for used in manifest["engines"]}
        raise RuntimeError(
            f"{manifest['model']['name']} runs in {engine}, which is not installed: "
            f"pip install {distribution}=={versions[engine]} ({error})"
        ) from error


def _onnxruntime(
    path: Path, num_threads: int, inputs: list[str], outputs: list[str], alone: bool
) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    # On x86 without VNNI its quantised kernels saturate at 16 bits, unless told not to.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if not alone:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        str(path), sess_options=options, providers=["CPUExecutionProvider"]
    )
    return lambda arrays: session.run(outputs, dict(zip(inputs, arrays, strict=True)))


def _openvino(
    path: Path, num_threads: int, inputs: list[str], outputs: list[str], alone: bool
) -> Call:
    import openvino

    core = openvino.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": num_threads,
        "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the CPU has it
    }
    request = core.compile_model(core.read_model(path), "CPU", settings).create_infer_request()

    def call(arrays: Sequence[Array]) -> list[Array]:
        results = request.infer(dict(zip(inputs, arrays, strict=True)), share_inputs=True)
        return [results[name] for name in outputs]

    return call


def _onednn(
    path: Path, num_threads: int, inputs: list[str], outputs: list[str], alone: bool
) -> Call:
    from .onednn_part import load

    if not alone:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when its library is loaded
    return load(path, num_threads, inputs, outputs)


_ENGINES = {
    "onnxruntime": (_onnxruntime, "onnxruntime"),
    "openvino": (_openvino, "openvino"),
    "onednn": (_onednn, "onednn-cpu-gomp"),
}
"""What loads a part, and what to install for it."""
