"""What a finished job says of its package's latency (pure)."""

from __future__ import annotations

from protos.records import MIXED, OWN, ModelResult


def packaged_interval(result: ModelResult) -> tuple[float, float, float]:
    """Latency of what is packaged, and the 95 % interval of that median; milliseconds.

    Where no interval was kept, its bounds are the latency.
    """
    latency_ms = result.packaged_ms
    low_ms = high_ms = None
    if result.engine == MIXED and result.mixed_ms is not None:
        mixed = [one for one in result.threads if one.name == MIXED]
        most = max(mixed, key=lambda one: one.num_threads, default=None)
        if most is not None and most.latency_ms == latency_ms:
            low_ms, high_ms = most.low_ms, most.high_ms
    elif result.engine == OWN or latency_ms == result.tuned_ms:
        low_ms, high_ms = result.tuned_low_ms, result.tuned_high_ms
    else:
        for engine in result.engines:
            if engine.name == result.engine:
                low_ms, high_ms = engine.low_ms, engine.high_ms
    return latency_ms, low_ms or latency_ms, high_ms or latency_ms
