"""What names a workload to the zygote. The agent itself needs no NumPy, which would be a quarter of
its memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from protos.records import KernelWork, TensorSpec, canonical_json, sha256_hex


@dataclass(frozen=True)
class WorkloadSpec:
    """What the inputs and the truth of a workload depend on."""

    args: tuple[TensorSpec, ...]
    num_outputs: int
    input_seed: int
    reference_sha256: str

    @staticmethod
    def of(work: KernelWork) -> WorkloadSpec:
        """That of a lease's work."""
        return WorkloadSpec(work.args, work.num_outputs, work.input_seed, work.reference.sha256)

    @staticmethod
    def from_header(fields: dict[str, Any]) -> WorkloadSpec:
        """Read what ``to_header`` wrote."""
        return WorkloadSpec(
            tuple(TensorSpec(tuple(shape), dtype) for shape, dtype in fields["args"]),
            int(fields["num_outputs"]),
            int(fields["input_seed"]),
            str(fields["reference_sha256"]),
        )

    def to_header(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "args": [[list(spec.shape), spec.dtype] for spec in self.args],
            "num_outputs": self.num_outputs,
            "input_seed": self.input_seed,
            "reference_sha256": self.reference_sha256,
        }

    @property
    def key(self) -> str:
        """One text per value."""
        return sha256_hex(canonical_json(self.to_header()).encode())

    @property
    def input_specs(self) -> tuple[TensorSpec, ...]:
        """Those before the outputs."""
        return self.args[: len(self.args) - self.num_outputs]

    @property
    def output_specs(self) -> tuple[TensorSpec, ...]:
        """The last ``num_outputs``."""
        return self.args[len(self.args) - self.num_outputs :]
