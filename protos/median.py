"""The confidence interval of a median: what the agent stops by and what a report tells."""

from __future__ import annotations

import math
from collections.abc import Sequence

CONFIDENCE = 0.95


def median_interval(
    samples: Sequence[float], confidence: float = CONFIDENCE
) -> tuple[float, float] | None:
    """The two samples between which the median lies with at least this confidence.

    None if there are too few samples for any such pair (under six for 95 %). Nothing is assumed of
    the distribution but that the samples are independent: each is below the median with
    probability ½, so the k-th smallest and the k-th largest of n miss it with probability
    2 P(B < k), B binomial with n and ½ (H. A. David and H. N. Nagaraja, Order Statistics, 3rd
    edition, 2003, section 7.1; for benchmarks T. Hoefler and R. Belli, Scientific Benchmarking of
    Parallel Computing Systems, SC 2015, section 3.1.3). The narrowest such pair is given.
    """
    ordered = sorted(samples)
    rank = _rank(len(ordered), confidence)
    return None if rank == 0 else (ordered[rank - 1], ordered[-rank])


def _rank(count: int, confidence: float) -> int:
    """The largest k whose pair has the confidence; 0 if there is none."""
    below = 0
    for rank in range(count // 2):
        below += math.comb(count, rank)  # of 2^count ways, those with at most rank samples below
        if 2 * below / 2**count > 1.0 - confidence:
            return rank
    return count // 2
