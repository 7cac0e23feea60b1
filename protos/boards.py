"""Targets of boards by name, for those who have no compiler that could tell.

TVM has a tag for the Raspberry Pi 4 only; that one is the same here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from .errors import BadTarget
from .records import canonical_json


def _raspberry_pi(cpu: str) -> dict[str, object]:
    return {
        "kind": "llvm",
        "mtriple": "aarch64-linux-gnu",
        "mcpu": cpu,
        "mattr": ["+neon"],
        "num-cores": 4,
    }


BOARDS: Mapping[str, Mapping[str, object]] = {
    "raspberry-pi/3b-aarch64": _raspberry_pi("cortex-a53"),
    "raspberry-pi/4b-aarch64": _raspberry_pi("cortex-a72"),
    "raspberry-pi/5-aarch64": _raspberry_pi("cortex-a76"),
}
"""What an agent on such a board with a 64-bit system says of itself, too."""


def canonical_target(text: str) -> str:
    """A target, or the board that is named, as agents and jobs write it: devices are found by this
    text, so spaces and the order of keys must not matter. Raises BadTarget for what is no JSON."""
    try:
        return canonical_json(json.loads(target_text(text)))
    except ValueError as error:
        raise BadTarget(
            f"the target {text!r} is not valid JSON: {error}. Copy one from `tunefarm devices`, or "
            "name a board, or a device with --device"
        ) from error


def target_text(text: str) -> str:
    """The JSON of the board that ``text`` names; what is no board's name stays as it is."""
    board = BOARDS.get(text.strip())
    return text if board is None else canonical_json(board)
