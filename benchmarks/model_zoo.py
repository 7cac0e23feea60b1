"""The models of ``benchmarks.models``, out of installed packages; nothing is downloaded.

PP-OCR's detector and Magika are trained models inside packages (``examples.demo_model``). The
others are architectures, pytorchcv's and a ViT of our own (``benchmarks.vit``), with seeded random
weights and exported by PyTorch: an operator's speed does not depend on its weights. Batch norms get
the statistics that seeded pictures give them, so that no activation dies or explodes on its way.

Files are made once and kept in a cache folder: ``NAME.onnx``, and ``NAME.pt`` with the weights of
an architecture, for PyTorch itself.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from examples.demo_model import find
from protos.records import Shape

if TYPE_CHECKING:
    from torch import nn

RECIPE = 1
"""Raised when the same name stands for other bytes; files of older recipes are not used."""

SEED = 0
OPSET = 17
INPUT, OUTPUT = "x", "logits"
PICTURE = Shape((1, 3, 224, 224))
CALIBRATION_BATCH = 8

INSTALL = "pip install '.[benchmarks]' && pip install --no-deps -r benchmark-models.txt"


class ModelMissing(Exception):
    """A model can't be had here; the message says what to install."""


@dataclass(frozen=True)
class ZooModel:
    """One model: ``demo`` is its name in ``examples.demo_model``; or ``module`` and ``function``
    make its architecture."""

    name: str
    shapes: Mapping[str, Shape]
    module: str = ""
    function: str = ""
    demo: str = ""


def _architecture(name: str, module: str, function: str) -> ZooModel:
    return ZooModel(name, {INPUT: PICTURE}, module, function)


ZOO = (
    _architecture("squeezenet", "pytorchcv.models.squeezenet", "squeezenet_v1_0"),
    _architecture("mobilenet_v2", "pytorchcv.models.mobilenetv2", "mobilenetv2_w1"),
    _architecture("mobilenet_v3_large", "pytorchcv.models.mobilenetv3", "mobilenetv3_large_w1"),
    _architecture("resnet18", "pytorchcv.models.resnet", "resnet18"),
    _architecture("efficientnet_b0", "pytorchcv.models.efficientnet", "efficientnet_b0"),
    ZooModel("ppocr_v4_det", {"x": Shape((1, 3, 320, 320))}, demo="det"),
    _architecture("vit_tiny", "benchmarks.vit", "VisionTransformer"),
    ZooModel("magika", {"bytes": Shape((1, 2048))}, demo="magika"),
)


@dataclass(frozen=True)
class ModelFiles:
    """Where a model lies; ``weights`` is None if PyTorch doesn't have its architecture."""

    onnx: Path
    weights: Path | None = None


def choose(names: Sequence[str]) -> list[ZooModel]:
    """The models of these names, all if there are none; raises LookupError for an unknown one."""
    by_name = {model.name: model for model in ZOO}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise LookupError(f"no model {unknown[0]!r} in the zoo; there are {', '.join(by_name)}")
    return [by_name[name] for name in names] or list(ZOO)


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/tunefarm``, or ``~/.cache/tunefarm``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tunefarm"


def files(model: ZooModel, cache: Path) -> ModelFiles:
    """The model's files, made if the cache has none; raises ModelMissing."""
    folder = cache / f"zoo-{RECIPE}"
    folder.mkdir(parents=True, exist_ok=True)
    onnx = folder / f"{model.name}.onnx"
    if model.demo:
        if not onnx.exists():
            _write(onnx, lambda path: path.write_bytes(_demo(model.demo)))
        return ModelFiles(onnx)
    weights = folder / f"{model.name}.pt"
    if not (onnx.exists() and weights.exists()):
        _export(model, onnx, weights)
    return ModelFiles(onnx, weights)


def architecture(model: ZooModel) -> nn.Module:
    """The network as its package initialises it; raises ModelMissing."""
    try:
        module = importlib.import_module(model.module)
        network: nn.Module = getattr(module, model.function)()
    except ImportError as error:
        raise ModelMissing(f"{model.name} needs {error.name}: {INSTALL}") from error
    return _with_torchs_activations(network)


def network(model: ZooModel) -> nn.Module:
    """The network with its seeded weights, in evaluation mode; raises ModelMissing."""
    torch = _torch(model)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums are the same on every machine of a kind
    try:
        return _seeded(model, torch)
    finally:
        torch.set_num_threads(threads)


def _seeded(model: ZooModel, torch: Any) -> nn.Module:
    torch.manual_seed(SEED)
    made = architecture(model)
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for layer in made.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.weight.uniform_(0.5, 1.5, generator=generator)
                layer.bias.normal_(0.0, 0.1, generator=generator)
                layer.momentum = None  # statistics of all that it sees, not a moving average
            elif isinstance(layer, torch.nn.Conv2d | torch.nn.Linear) and layer.bias is not None:
                layer.bias.normal_(0.0, 0.1, generator=generator)
        made.train()(_pictures(torch, generator))
    return made.eval()


def _pictures(torch: Any, generator: Any) -> Any:
    """From noise alone to patches alone, each lighter or darker as a whole.

    Statistics of only one kind of picture let another kind grow a hundredfold on its way, and then
    ONNX Runtime itself is wrong by more than is tolerated.
    """
    count, (_, channels, height, width) = CALIBRATION_BATCH, PICTURE.dims
    patches = torch.randn((count, channels, 7, 7), generator=generator)
    large = torch.nn.functional.interpolate(patches, size=(height, width), mode="nearest")
    noise = torch.randn(large.shape, generator=generator)
    each = (count, 1, 1, 1)
    light = torch.linspace(-1.5, 1.5, count)[torch.randperm(count, generator=generator)]
    return torch.lerp(noise, large, torch.linspace(0, 1, count).reshape(each)) + light.reshape(each)


def _with_torchs_activations(network: nn.Module) -> nn.Module:
    """pytorchcv spells h-swish out; PyTorch's own is exported as the one operator that it is, which
    is what a user's model has, and what every engine is good at."""
    from torch import nn

    own = {"HSwish": nn.Hardswish, "HSigmoid": nn.Hardsigmoid}
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child).__name__ in own:
                setattr(parent, name, own[type(child).__name__]())
    return network


def _torch(model: ZooModel) -> Any:
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise ModelMissing(f"{model.name} needs PyTorch: {INSTALL}") from error


def _export(model: ZooModel, onnx: Path, weights: Path) -> None:
    torch = _torch(model)
    made = network(model)
    _write(weights, lambda path: torch.save(made.state_dict(), path))

    def export(path: Path) -> None:
        with warnings.catch_warnings():
            # The newer exporter needs another package.
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.onnx.export(
                made,
                (torch.zeros(PICTURE.dims),),
                str(path),
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
            )

    _write(onnx, export)


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Whole or not at all, whoever else writes it."""
    part = path.with_suffix(f".part{os.getpid()}")
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _demo(name: str) -> bytes:
    try:
        return find(name).read_bytes()
    except LookupError as error:
        raise ModelMissing(str(error)) from error
