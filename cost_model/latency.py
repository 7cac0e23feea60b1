"""How long an operator takes once it is tuned, from its shape alone: nothing is built or run.

The times of a kind of device that the tuning log knows teach two things: a roofline (Williams et
al., "Roofline", CACM 2009: rates of arithmetic and of memory), which extrapolates, and LightGBM's
regression of what is left in logarithms, which knows the rest. What was tried: docs/prediction.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

DENSE, DEPTHWISE, PRODUCTS = "dense", "depthwise", "products"
POOL, REDUCE, NORMALISE = "pool", "reduce", "normalise"
ELEMENTWISE, MOVE = "elementwise", "move"
KINDS = (DENSE, DEPTHWISE, PRODUCTS, POOL, REDUCE, NORMALISE, ELEMENTWISE, MOVE)
"""Convolutions and matrix products; a convolution of each channel; Winograd's batch of products;
what is computed of windows, of whole axes, of rows (softmax); each element alone; none."""

SHORTEST_US = 0.02
"""No operator is taken to be faster: its call alone takes as long."""

_ROUNDS = 200
_PARAMETERS: dict[str, Any] = {
    "objective": "l2",
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_data_in_leaf": 4,
    "feature_fraction": 0.7,
    "max_bin": 63,
    "feature_pre_filter": False,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "seed": 0,
    "verbosity": -1,
}


@dataclass(frozen=True)
class Operator:
    """A fused operator by its shape.

    ``rows`` × ``depth`` times ``depth`` × ``width`` is the matrix product that a convolution or a
    product stands for, ``window`` the positions of its kernel (1 where there is none). ``steps``
    counts the elementwise operations that are fused into it, ``hard`` those of them that are no
    plain arithmetic (exponentials, roots). ``second_bytes`` are of the weights, or of a product's
    second factor; ``other_bytes`` of all other inputs.
    """

    kind: str
    macs: float = 0.0
    rows: int = 1
    depth: int = 1
    width: int = 1
    window: int = 1
    in_bytes: float = 0.0
    second_bytes: float = 0.0
    other_bytes: float = 0.0
    out_bytes: float = 0.0
    steps: int = 0
    hard: int = 0

    @property
    def moved_bytes(self) -> float:
        """What it must at least read and write."""
        return self.in_bytes + self.second_bytes + self.other_bytes + self.out_bytes

    @property
    def shape(self) -> tuple[object, ...]:
        """What two operators that take the same time have in common."""
        dims = (self.kind, self.rows, self.depth, self.width, self.window, bool(self.hard))
        return (*dims, self.in_bytes, self.second_bytes, self.other_bytes, self.out_bytes)


@dataclass(frozen=True)
class Timed:
    """An operator and its best time on one kind of device."""

    operator: Operator
    latency_us: float


class LatencyModel:
    """Trained on the timed operators of one kind of device. Immutable."""

    def __init__(self, known: Sequence[Timed]) -> None:
        """Fit to all of them; raises ValueError if there is none."""
        if not known:
            raise ValueError("no operator with a time; at least one is needed")
        operators = [one.operator for one in known]
        target = np.log([max(one.latency_us, SHORTEST_US) for one in known])
        self._roof = _fit_roof(_loads(operators), target)
        self._booster = _fit(self._features(operators), target - self._roofs(operators))

    def predict_us(self, operators: Sequence[Operator]) -> Array:
        """The best latency of each, microseconds."""
        if not operators:
            return np.zeros(0)
        rest = np.asarray(self._booster.predict(self._features(operators), num_threads=1))
        predicted: Array = np.exp(self._roofs(operators) + rest)
        return np.maximum(predicted, SHORTEST_US)

    def _roofs(self, operators: Sequence[Operator]) -> Array:
        """Logarithm of what the roofline says, microseconds."""
        roofs: Array = np.log(_loads(operators) @ np.exp(self._roof))
        return roofs

    def _features(self, operators: Sequence[Operator]) -> Array:
        rows = np.array([_row(operator) for operator in operators])
        return np.column_stack([self._roofs(operators), rows])


def _row(operator: Operator) -> list[float]:
    o = operator
    elements = o.out_bytes / 4
    sizes = [o.macs, o.rows, o.depth, o.width, o.window, o.in_bytes, o.second_bytes]
    sizes += [o.other_bytes, o.out_bytes, o.moved_bytes, o.steps * elements, o.hard * elements]
    whole = [float(o.width % lanes == 0) for lanes in (8, 16)]
    return [*(math.log(max(size, 1.0)) for size in sizes), *whole, float(KINDS.index(o.kind))]


def _loads(operators: Sequence[Operator]) -> Array:
    """What takes time, in units that a device of today does in about a microsecond: the call,
    dense arithmetic, that of depthwise convolutions, bytes, exponentials."""
    table = np.zeros((len(operators), 5))
    for row, o in zip(table, operators, strict=True):
        depthwise = o.kind == DEPTHWISE
        row[0] = SHORTEST_US
        row[1 + depthwise] = o.macs / 1e5
        row[3] = o.moved_bytes / 1e5
        row[4] = o.hard * o.out_bytes / 4e4
    return table


def _fit_roof(loads: Array, target: Array) -> Array:
    """Logarithms of the times per unit of load that fit the targets (logarithms, too) best: Gauss
    and Newton's method, held near 1 where the data say nothing."""
    rates = np.zeros(loads.shape[1])
    for _ in range(30):
        parts = loads * np.exp(rates)
        total = parts.sum(axis=1)
        slopes = parts / total[:, None]
        wrong = target - np.log(total)
        # One that is far off is not believed (Huber's weights).
        weights = 1.0 / np.maximum(1.0, np.abs(wrong) / 0.5)
        damping = np.eye(len(rates))
        left = (slopes * weights[:, None]).T @ slopes + damping
        rates = rates + np.linalg.solve(left, (slopes * weights[:, None]).T @ wrong - 0.1 * rates)
    return rates


def _fit(features: Array, target: Array) -> Any:
    import lightgbm

    data = lightgbm.Dataset(
        features, label=target, params=_PARAMETERS, categorical_feature=[features.shape[1] - 1]
    )
    return lightgbm.train(_PARAMETERS, data, _ROUNDS)
