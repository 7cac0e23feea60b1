"""`tunefarm predict`: how long a model would take on a device, without the device."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from coordinator.cli import options as shared
from coordinator.client import FarmClient
from protos.errors import NotFound
from protos.plain_text import harmless
from protos.records import Prediction, PredictionSource, PredictionSpec

_SHOWN_OPERATORS = 5

_EPILOG = """\
examples:
  tunefarm predict model.onnx                            # for the only kind of device in the log
  tunefarm predict model.onnx --device pi-rack3-07
  tunefarm predict ocr.onnx --device 7a750563 --shape x=1,3,48,192 --json
  tunefarm predict model.onnx --device pi-rack3-07 --coordinator 127.0.0.1:7411

What is predicted is the latency of the package that the farm would make of the model: what
`tunefarm measure` would find. A model that was tuned on such a device is answered with what was
measured. Any other is put together from its operators: the times of those that the log knows, and
what their sizes say of the others. So a few other models must have been tuned on such a device.
The interval holds nine models of ten. --json prints one object on standard output:
  {"model", "device_kind", "source": "predicted" or "measured", "latency_ms", "low_ms", "high_ms",
   "coverage", "job", "learnt_operators", "learnt_models", "known_operators",
   "operators": [{"name", "kind", "latency_us", "known"}]}
"""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "predict",
        help="how long a model would take on a device, at once and without it",
        description="Predicts the latency of a tuned model with an interval, from the tuning log.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_question(parser)
    shared.add_source(parser)
    parser.set_defaults(run=run)


def add_question(parser: argparse.ArgumentParser) -> None:
    """The model, the device and how the answer is printed."""
    parser.add_argument("model", metavar="MODEL.onnx", type=Path, help="an ONNX model")
    parser.add_argument(
        "--device",
        default="",
        metavar="NAME",
        help="a device, or the first digits of a kind of device (default: the only kind)",
    )
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        type=shared.shape,
        metavar="NAME=D,D,…",
        help="fix an input's dimensions, e.g. x=1,3,48,192; needed for dynamic ones, repeatable",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Predict and print."""
    model = shared.read_model(options.model)
    spec = PredictionSpec(options.device, dict(options.shape))
    if options.coordinator:
        with FarmClient(options.coordinator, shared.credentials(options)) as farm:
            found = farm.predict(spec, model)
    else:
        found = _of_log(options.log, model, spec)
    name = options.model.stem
    print(json.dumps(_json(name, found)) if options.json else _text(name, found))
    return 0


def _of_log(url: str | None, model: bytes, spec: PredictionSpec) -> Prediction:
    from coordinator.prediction.service import Predictions
    from coordinator.tuning_log import (
        TuningLog,
        default_url,
        display_url,
        normalise_url,
        sqlite_file,
    )

    where = normalise_url(url) if url else default_url()
    file = sqlite_file(where)
    if file is not None and not file.exists():
        raise NotFound(
            f"there is no tuning log {display_url(where)}; name another one with --log, or tune a "
            "model first: tunefarm tune MODEL.onnx"
        )
    log = TuningLog.open(where)
    try:
        return Predictions(log).predict(model, spec)
    finally:
        log.close()


def _json(name: str, found: Prediction) -> dict[str, Any]:
    return {
        "model": name,
        "device_kind": found.device_kind,
        "source": found.source.name.lower(),
        "latency_ms": found.latency_ms,
        "low_ms": found.low_ms,
        "high_ms": found.high_ms,
        "coverage": found.coverage,
        "job": found.job_id or None,
        "learnt_operators": found.learnt_operators,
        "learnt_models": found.learnt_models,
        "known_operators": found.known_operators,
        "operators": [
            {"name": o.name, "kind": o.kind, "latency_us": o.latency_us, "known": o.known}
            for o in found.operators
        ],
    }


def _text(name: str, found: Prediction) -> str:
    first = (
        f"{name}: {found.latency_ms:.3f} ms ({100 * found.coverage:.0f} % interval "
        f"{found.low_ms:.3f} to {found.high_ms:.3f}) on devices of kind {found.device_kind[:8]}"
    )
    if found.source is PredictionSource.MEASURED:
        return harmless(f"{first}\nmeasured before: tunefarm report {found.job_id}")
    total_us = sum(operator.latency_us for operator in found.operators) or 1.0
    slowest = sorted(found.operators, key=lambda operator: -operator.latency_us)
    learnt = (
        f"predicted from {len(found.operators)} operators, {found.known_operators} of a shape that "
        f"was timed before; learnt from {found.learnt_operators} operators and "
        f"{found.learnt_models} models"
    )
    lines = [
        first,
        learnt,
        *(
            f"  {operator.latency_us:10.1f} us {100 * operator.latency_us / total_us:5.1f} %  "
            f"{operator.name}"
            for operator in slowest[:_SHOWN_OPERATORS]
        ),
        "the real one: tunefarm measure",
    ]
    return harmless("\n".join(lines))
