"""What a model takes and gives: specs out of the manifest, and inputs that are held to them.

This file stands alone: it is copied into every package and imports nothing of tunefarm's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def specs(entries: list[dict[str, Any]]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype by name."""
    return {entry["name"]: (tuple(entry["shape"]), entry["dtype"]) for entry in entries}


def checked(
    inputs: Mapping[str, np.ndarray[Any, Any]], specs: Mapping[str, tuple[tuple[int, ...], str]]
) -> dict[str, np.ndarray[Any, Any]]:
    """The inputs as arrays; raises ValueError if they are not what the model takes."""
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
