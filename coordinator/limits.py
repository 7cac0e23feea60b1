"""Measures what a kind of device can do at most, once, by way of ordinary leases.

The figures are no experiments on any operator: the log keeps them apart from the measurements. What
an emulated device says of them would mean nothing, so it is not asked.
"""

from __future__ import annotations

import asyncio
import logging

from coordinator.fleet.builders import Builders
from coordinator.fleet.fleet import Fleet
from coordinator.limit_kernels import CACHE, MEMORY, PEAK, LimitKernel, limit_kernels
from coordinator.stages import StageClock
from coordinator.tuning_log import TuningLog
from protos.records import (
    UNTUNED_TRACE,
    Candidate,
    Device,
    DeviceLimits,
    EvaluatorConfig,
    KernelWork,
    Measurement,
    Task,
)

log = logging.getLogger(__name__)

EVALUATOR = EvaluatorConfig(repeat=25, min_repeat_ms=4, timeout_s=60.0)
"""The fastest of the samples counts: it was disturbed least."""


PATIENCE_S = 30.0
"""How long a job waits for it: a device that is disturbed has more important things to do."""


async def measure_limits(
    job_id: str,
    device: Device,
    fleet: Fleet,
    builders: Builders,
    tuning_log: TuningLog,
    patience_s: float = PATIENCE_S,
) -> DeviceLimits | None:
    """What the log knows of the device's kind, or what is measured now and kept there.

    None, with a warning, if a kernel can't be built or run, or not soon enough: a job neither fails
    nor waits for long for its report. The next job tries again.
    """
    if device.emulated:
        return None
    known = await asyncio.to_thread(tuning_log.limits, device.kind)
    if known is not None:
        return known
    try:
        async with asyncio.timeout(patience_s):
            limits = await _limits(job_id, device, fleet, builders)
    except TimeoutError:
        log.warning("what %s can do at most was not measured in %.0f s", device.name, patience_s)
        return None
    if limits is not None:
        await asyncio.to_thread(tuning_log.set_limits, device.kind, limits)
    return limits


async def _limits(
    job_id: str, device: Device, fleet: Fleet, builders: Builders
) -> DeviceLimits | None:
    kernels = await builders.run(limit_kernels, device.target_json, device.cache_bytes)
    rates: dict[str, float] = {}
    name = device.name
    for kernel in kernels:
        measurement = await _measure(job_id, device, fleet, builders, kernel)
        latency_us = None if measurement is None else measurement.latency_us
        if measurement is None or not latency_us:
            return None
        rates[kernel.name] = kernel.amount / latency_us / 1e3
        if measurement.circumstances is not None:
            name = measurement.circumstances.device
    return DeviceLimits(name, rates[PEAK], rates[MEMORY], rates[CACHE], device.cache_bytes)


async def _measure(
    job_id: str, device: Device, fleet: Fleet, builders: Builders, kernel: LimitKernel
) -> Measurement | None:
    """Time one kernel; None, with a warning, if that can't be done."""
    key = f"limit-{kernel.name}"
    candidate = Candidate(key, UNTUNED_TRACE)
    task = Task(kernel.name, key, kernel.workload_json, 0, kernel.args, 1, 0.0)
    outcome = await builders.build(task, candidate, device.target_json)
    if outcome.artifact is None:
        log.warning("the %s kernel for %s: %s", kernel.name, device.target_json, outcome.error)
        return None
    work = KernelWork(key, kernel.args, 1, 0, outcome.artifact, EVALUATOR, ())
    trials = [(candidate, outcome.artifact, None)]
    (measurement,) = await fleet.measure(
        job_id, device.kind, work, trials, StageClock(), kept=False
    )
    if not measurement.ok:
        status = measurement.status.name
        said = measurement.error
        log.warning("the %s kernel on %s: %s: %s", kernel.name, device.name, status, said)
        return None
    return measurement
