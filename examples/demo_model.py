"""Print the path of a demo model: ``python -m examples.demo_model cls``.

The models are real trained ones inside packages from PyPI. The packages are installed without
their dependencies (``make setup`` does it), so they are never imported: the path comes from the
list of files that pip installed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from pathlib import Path

MODELS = {
    "cls": ("rapidocr-onnxruntime", "ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    "det": ("rapidocr-onnxruntime", "ch_PP-OCRv4_det_infer.onnx"),
    "rec": ("rapidocr-onnxruntime", "ch_PP-OCRv4_rec_infer.onnx"),
    "magika": ("magika", "model.onnx"),
}
"""Short name to distribution and file: PP-OCR's direction classifier, detector and recogniser,
and Magika's file type classifier."""


def find(name: str) -> Path:
    """The model file of that name; raises LookupError with what to do if it is not there."""
    try:
        distribution, filename = MODELS[name]
    except KeyError:
        raise LookupError(f"no demo model {name!r}; there are {', '.join(MODELS)}") from None
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == filename and (path := Path(str(file.locate()))).is_file():
            return path.resolve()
    raise LookupError(
        f"demo model {name!r}: {filename} of {distribution} is not installed in {sys.prefix}; run "
        "`make setup`, or `pip install --no-deps -r demo-models.txt`"
    )


def main() -> int:
    """Print the path; returns the process's exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo_model")
    parser.add_argument("name", help=", ".join(MODELS))
    try:
        print(find(parser.parse_args().name))
    except LookupError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
