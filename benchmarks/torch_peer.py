"""An architecture of the zoo in ``torch.compile``, as a package that the device agent can run.

The package is a zip with a few lines that come back here: it runs where this repository and
PyTorch are, which is all that a benchmark needs. TorchInductor needs a C++ compiler; what it
compiled is kept in ``torchinductor`` of the cache folder.

Inductor's "freezing" is on: weights are constants, so that batch norms are folded and convolutions
get packed weights, as PyTorch advises for inference on CPUs. Floats stay float32.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.model_zoo import INPUT, OUTPUT, architecture, choose

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, Any]

MODULE = "torch_peer_package"


def torch_package(name: str, weights: Path) -> bytes:
    """The package of a model of the zoo."""
    source = (
        "from benchmarks.torch_peer import CompiledModel\n"
        "def Model(num_threads):\n"
        f"    return CompiledModel({name!r}, {str(weights)!r}, num_threads)\n"
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"{MODULE}/__init__.py", source)
        archive.writestr(f"{MODULE}-1.dist-info/top_level.txt", f"{MODULE}\n")
    return buffer.getvalue()


class CompiledModel:
    """The model; its first run compiles it, which takes up to some minutes."""

    def __init__(self, name: str, weights: str, num_threads: int) -> None:
        """Read the weights; raises what PyTorch raises."""
        cache = Path(weights).parent / "torchinductor"
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))
        import torch
        from torch._inductor import config

        config.freezing = True  # as one of compile()'s options it comes too late for the weights
        config.compile_threads = 1  # no pool of compiling processes
        torch.set_num_threads(num_threads)
        network = architecture(choose([name])[0]).eval()
        network.load_state_dict(torch.load(weights, weights_only=True))
        self._call: Callable[[torch.Tensor], torch.Tensor] = torch.compile(
            network,
            fullgraph=True,
            dynamic=False,
        )

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """As a package of tunefarm's does it: the outputs as new arrays."""
        import torch

        with torch.inference_mode():
            output = self._call(torch.from_numpy(inputs[INPUT]))
        return {OUTPUT: np.array(output.numpy())}
