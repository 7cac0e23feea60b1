"""ONNX Runtime's basic optimisations as a pre-pass: with all input shapes fixed it folds the shape
arithmetic that exporters write, which the importer does not understand, and batch normalisation.

ONNX Runtime is also what every output is compared with, so a model that it can't load is refused
here: without a reference nothing could be verified.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

from protos.errors import BadModel

log = logging.getLogger(__name__)

_FATAL_ONLY = 4


def fold_constants(model: Any) -> Any:
    """The ModelProto that ONNX Runtime makes of ``model``, whose shapes are fixed.

    Raises BadModel if it can't load the model.
    """
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="tunefarm-prepass-") as directory:
        path = Path(directory) / "optimised.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        options.log_severity_level = _FATAL_ONLY
        options.intra_op_num_threads = 1
        try:
            onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions have no common base of their own
            reason = str(error).strip().splitlines()[0]
            raise BadModel(
                "ONNX Runtime, which gives the reference for every output, can't load the model: "
                f"{reason}"
            ) from error
        folded = onnx.load(path)
    log.info("pre-pass: %d nodes became %d", len(model.graph.node), len(folded.graph.node))
    return folded
