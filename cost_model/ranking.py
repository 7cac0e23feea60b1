"""How well predicted scores order candidates (pure).

A better candidate has a higher score and a lower latency; a failed one has an infinite latency.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from protos.records import RankingQuality


def pairwise_accuracy(scores: Sequence[float], latencies: Sequence[float]) -> float | None:
    """Share of the pairs with different latencies that the scores order right; ties count half.

    None where no pair differs.
    """
    score, latency = np.asarray(scores, dtype=float), np.asarray(latencies, dtype=float)
    first, second = np.triu_indices(len(score), 1)
    differs = latency[first] != latency[second]
    first, second = first[differs], second[differs]
    if not len(first):
        return None
    agreement = np.sign(score[first] - score[second]) * np.sign(latency[second] - latency[first])
    return float(np.mean((agreement + 1) / 2))


def peak_at(k: int, scores: Sequence[float], latencies: Sequence[float]) -> float | None:
    """Best latency of all over the best among the ``k`` highest scored, in [0, 1].

    None where every candidate failed.
    """
    latency = np.asarray(latencies, dtype=float)
    if not np.isfinite(latency).any():
        return None
    chosen = latency[np.argsort(-np.asarray(scores, dtype=float), kind="stable")[:k]]
    return float(latency.min() / chosen.min())


def batch_quality(scores: Sequence[float], latencies: Sequence[float]) -> RankingQuality | None:
    """The quality of one measured batch; None if it says nothing about the ranking."""
    pairwise = pairwise_accuracy(scores, latencies)
    at_1, at_5 = peak_at(1, scores, latencies), peak_at(5, scores, latencies)
    if pairwise is None or at_1 is None or at_5 is None:
        return None
    return RankingQuality(pairwise, at_1, at_5, batches=1)


def average(batches: Sequence[RankingQuality]) -> RankingQuality | None:
    """The mean over batches; None for none."""
    if not batches:
        return None
    rows = np.array([(b.pairwise, b.peak_at_1, b.peak_at_5) for b in batches])
    pairwise, at_1, at_5 = rows.mean(axis=0).tolist()
    return RankingQuality(pairwise, at_1, at_5, batches=len(batches))
