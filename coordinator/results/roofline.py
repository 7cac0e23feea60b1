"""Where each operator stands under its device's roof, and what is left to win (pure).

S. Williams, A. Waterman and D. Patterson, Roofline: An Insightful Visual Performance Model for
Multicore Architectures, CACM 52(4), 2009.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from coordinator.results.report import final_us
from protos.records import DeviceLimits, TaskProgress


@dataclass(frozen=True)
class Standing:
    """One operator: ``flops`` and ``moved_bytes`` of a run, and its microseconds.

    ``least_us`` is what the roof allows, by arithmetic or by the bandwidth of memory or, where
    ``cached``, of the cache next to a core.
    """

    name: str
    weight: int
    flops: float
    moved_bytes: int
    latency_us: float
    least_us: float
    cached: bool

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.flops / self.moved_bytes

    @property
    def gflops(self) -> float:
        """10^9 operations a second."""
        return self.flops / self.latency_us / 1e3

    @property
    def left_us(self) -> float:
        """Of an inference: the time above the roof."""
        return self.weight * max(self.latency_us - self.least_us, 0.0)

    @property
    def share_of_roof(self) -> float:
        """1 at the roof; above 1 if the device was faster than when its limits were measured."""
        return self.least_us / self.latency_us


def standings(
    tasks: Iterable[TaskProgress], limits: DeviceLimits, cold_cache: bool
) -> list[Standing]:
    """Every operator of which time and moved bytes are known, those first with most to win.

    With warm caches, what an operator moves comes from them if the last one holds it; how near they
    are is not asked: the roof is that of the nearest.
    """
    found = []
    for task in tasks:
        latency_us = final_us(task)
        if not latency_us or not task.moved_bytes:
            continue
        fits = not limits.cache_bytes or task.moved_bytes <= limits.cache_bytes
        cached = fits and not cold_cache
        bandwidth = limits.cache_gb_s if cached else limits.memory_gb_s
        by_arithmetic_us = task.flops / limits.peak_gflops / 1e3
        by_bandwidth_us = task.moved_bytes / bandwidth / 1e3
        found.append(
            Standing(
                task.name,
                task.weight,
                task.flops,
                task.moved_bytes,
                latency_us,
                max(by_arithmetic_us, by_bandwidth_us),
                cached,
            )
        )
    return sorted(found, key=lambda one: -one.left_us)
