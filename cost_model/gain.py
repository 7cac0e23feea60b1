"""What measuring a candidate is worth (pure)."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from cost_model.model import Prediction

LEAST_DEVIATION = 0.02
"""The members of an ensemble agree too well: no score is known better than times are."""


def expected_gain(prediction: Prediction, best_score: float) -> npt.NDArray[np.float64]:
    """By how much each candidate should be better than what has ``best_score``, of shape (n,).

    Expected improvement (Jones et al., "Efficient Global Optimization of Expensive Black-Box
    Functions", 1998) under a normal distribution around the score, times the chance that the
    candidate does not fail.
    """
    deviation = np.maximum(prediction.deviation, LEAST_DEVIATION)
    above = (prediction.score - best_score) / deviation
    density = np.exp(-0.5 * above**2) / math.sqrt(2 * math.pi)
    below = np.array([0.5 * math.erfc(-z / math.sqrt(2)) for z in above])
    gain: npt.NDArray[np.float64] = deviation * (above * below + density)
    return np.maximum(gain, 0.0) * (1.0 - prediction.failure)
