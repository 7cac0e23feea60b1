"""A device that answers like a real one and runs nothing: for tests of a farm.

It takes leases, fetches artifacts and reports as any device does, but a measurement is a sleep, and
the latency that it reports comes from the artifact's SHA-256: the same bytes have the same latency
on every replay device. It is emulated, and its kind is no real device's, so that its times never
answer for those (decision 6). It has no CPUs, so it takes no host lock: it times nothing. It runs
no whole models either, because a package must not be called verified by a device that ran nothing.
"""

from __future__ import annotations

import itertools
import json
import platform
import threading
import time
from pathlib import Path

from device_agent.devices.cpu import CPUINFO, check_target, default_target, parse_cpuinfo
from device_agent.kernel_runner import LeaseFailedError, Loaded, Outcome
from device_agent.timing import Plan
from protos.records import Device, KernelWork, MeasurementStatus, sha256_hex

MAX_THREADS = 4096
"""More than any target asks for: threads that are not started need no CPUs."""

CANARY_S = 0.01
"""What a kernel without inputs takes, as the canary is one; its latency is always the same."""

FASTEST, SLOWEST = 0.5, 1.5
"""Reported latencies are between these, over the time that a measurement takes."""


def describe_replay(
    name: str, target_json: str | None, measurement_s: float, cpuinfo: Path = CPUINFO
) -> Device:
    """A device whose measurements take this long.

    The target defaults to what this machine's CPU is. Raises BadTarget for what is no target.
    """
    if target_json is None:
        info = parse_cpuinfo(cpuinfo.read_text(errors="replace"))
        target_json = json.dumps(default_target(platform.machine(), info, 1))
    canonical, num_threads = check_target(target_json, MAX_THREADS)
    return Device(
        name=name,
        target_json=canonical,
        cpu_model=f"replay of {measurement_s * 1e3:g} ms",
        cpus=(),
        num_threads=num_threads,
        emulated=True,
        tool_versions={"replay": "1"},
    )


def replayed_latency_s(artifact: bytes, measurement_s: float) -> float:
    """The latency of these bytes, seconds: the same everywhere, evenly spread over artifacts."""
    share = int(sha256_hex(artifact)[:13], 16) / 16**13
    return measurement_s * (FASTEST + (SLOWEST - FASTEST) * share)


class ReplayRunner:
    """A ``Runner`` that sleeps. One thread uses it; ``close`` may come from another."""

    def __init__(self, measurement_s: float) -> None:
        self._measurement_s = measurement_s
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[float, float]] = {}
        self._closed = threading.Event()

    def prepare(self, work: KernelWork, reference: bytes) -> None:
        """Nothing to get ready."""

    def is_prepared(self, work: KernelWork) -> bool:
        """Always."""
        return True

    def load(self, work: KernelWork, artifact: bytes) -> Loaded:
        """Nothing to load; nothing but the canary is without inputs."""
        inputs = len(work.args) - work.num_outputs
        takes_s = self._measurement_s if inputs else min(self._measurement_s, CANARY_S)
        child = next(self._numbers)
        self._waiting[child] = takes_s, replayed_latency_s(artifact, takes_s)
        return Loaded(child, Outcome(MeasurementStatus.OK))

    def check(self, child: int, timeout_s: float) -> Outcome:
        """Sleep for what the whole measurement takes; everything is right."""
        started = time.monotonic()
        takes_s, latency_s = self._waiting[child]
        if self._closed.wait(takes_s):
            raise LeaseFailedError("the agent is shutting down")
        busy_s = time.monotonic() - started
        return Outcome(MeasurementStatus.OK, repeats_s=(latency_s,), busy_s=busy_s)

    def sample(self, child: int, plan: Plan, timeout_s: float) -> Outcome:
        """Equal repeats, at once."""
        _takes_s, latency_s = self._waiting[child]
        return Outcome(MeasurementStatus.OK, "", (latency_s,) * max(plan.repeat, 1))

    def end(self, child: int) -> None:
        """Forget a candidate."""
        self._waiting.pop(child, None)

    def close(self) -> None:
        """Wake the sleeper; nothing is measured after that."""
        self._closed.set()
