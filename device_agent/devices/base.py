"""What a kind of device is to the agent: something that checks and times candidates."""

from __future__ import annotations

from typing import Protocol

from device_agent.kernel_runner import Outcome
from protos.records import KernelWork


class Runner(Protocol):
    """Runs kernels for one device. One thread uses it; ``close`` may come from another."""

    def prepare(self, work: KernelWork, reference: bytes) -> None:
        """Get ready for a workload; raises LeaseFailedError if that can't be done."""

    def is_prepared(self, work: KernelWork) -> bool:
        """Whether ``measure`` may follow for this workload."""

    def measure(self, work: KernelWork, artifact: bytes) -> Outcome | None:
        """Check and time a candidate; None if ``prepare`` must come first (again)."""

    def close(self) -> None:
        """End what runs; nothing is measured after that."""
