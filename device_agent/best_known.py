"""How fast the best candidate of each workload was, as far as a device knows."""

from __future__ import annotations

from dataclasses import dataclass, field

from protos.records import KernelWork


@dataclass
class BestKnown:
    """The best latency of each workload that this device saw for one job, microseconds.

    A lease says what was known when its batch was made; the device knows what came since.
    """

    job_id: str = ""
    by_workload: dict[str, float] = field(default_factory=dict)

    def known(self, job_id: str, work: KernelWork) -> float:
        """The best that is known now; 0 if nothing is."""
        if job_id != self.job_id:
            self.job_id, self.by_workload = job_id, {}
        both = (self.by_workload.get(work.workload_key, 0.0), work.best_us)
        return min((us for us in both if us > 0), default=0.0)

    def forget(self, work: KernelWork) -> None:
        """What was noted of this workload has turned out to be suspect."""
        self.by_workload.pop(work.workload_key, None)

    def note(self, work: KernelWork, latency_us: float) -> None:
        """Take a time of this work into account."""
        known = self.by_workload.get(work.workload_key, latency_us)
        self.by_workload[work.workload_key] = min(known, latency_us)
