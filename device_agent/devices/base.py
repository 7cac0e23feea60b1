"""What a kind of device is to the agent: something that checks and times candidates."""

from __future__ import annotations

from typing import Protocol

from device_agent.kernel_runner import Loaded, Outcome
from device_agent.timing import Plan
from protos.records import KernelWork


class Runner(Protocol):
    """Runs kernels for one device. One thread uses it; ``close`` may come from another.

    Several candidates may be loaded at a time, each in a process of its own.
    """

    def prepare(self, work: KernelWork, reference: bytes) -> None:
        """Get ready for a workload; raises LeaseFailedError if that can't be done."""

    def is_prepared(self, work: KernelWork) -> bool:
        """Whether ``load`` may follow for this workload."""

    def load(self, work: KernelWork, artifact: bytes) -> Loaded | None:
        """Load a candidate; None if ``prepare`` must come first (again)."""

    def check(self, child: int, timeout_s: float) -> Outcome:
        """Run a loaded candidate and compare its outputs; its ``repeats_s`` is that run. Raises
        ChildLostError if it was lost through no fault of its own. If the outcome is not OK, its
        process has ended."""

    def sample(self, child: int, plan: Plan, timeout_s: float) -> Outcome:
        """Time a candidate that was right, by a plan; the same holds as for ``check``."""

    def end(self, child: int) -> None:
        """End the process of a loaded candidate, if there is one."""

    def close(self) -> None:
        """End what runs; nothing is measured after that."""
