"""The workloads that a zygote keeps ready: seeded inputs and the reference's outputs."""

from __future__ import annotations

import json
import mmap
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from device_agent import inputs
from device_agent.runtime import ALIGNMENT_BYTES
from device_agent.workload_spec import WorkloadSpec
from protos.records import TensorSpec

Array = np.ndarray[Any, Any]

MAX_WORKLOADS = 8
MAX_CACHED_BYTES = 256 << 20
MAX_MOVED_BYTES = 64 << 20
MAX_GAP_PAGES = 64


@dataclass(frozen=True)
class Workload:
    """Ready to check candidates: private memory, so that no child can change it.

    Only ``outputs`` are shared with the children, which write them one after the other.
    """

    spec: WorkloadSpec
    inputs: tuple[Array, ...]
    reference: tuple[Array, ...]
    outputs: Sequence[Array]

    @property
    def size_bytes(self) -> int:
        """Memory it holds."""
        return sum(array.nbytes for array in (*self.inputs, *self.reference, *self.outputs))


def seeded_inputs(spec: WorkloadSpec) -> tuple[Array, ...]:
    """The inputs, aligned for TVM's code."""
    made = (
        inputs.make_input(tensor, spec.input_seed, index)
        for index, tensor in enumerate(spec.input_specs)
    )
    return tuple(private_copy(array) for array in made)


def moved(workload: Workload) -> Workload:
    """The same with inputs and outputs elsewhere in memory.

    Where arrays lie beside each other decides which of them compete for a place in a cache, and so
    is worth some hundredths of a kernel's time, for one kernel more than for another. What was
    measured several times was measured at several places.
    """
    if workload.size_bytes > MAX_MOVED_BYTES:
        return workload
    return replace(
        workload,
        inputs=tuple(private_copy(array) for array in workload.inputs),
        outputs=shared_outputs(workload.spec.output_specs),
    )


def somewhere(spec: TensorSpec, flags: int = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) -> Array:
    """An array of zeros where an allocator would put a large one, but in a random page.

    That is ALIGNMENT_BYTES into a page, behind the allocator's notes: what is written at an address
    and read at another one that differs in the pages alone gets into each other's way, which is
    worth up to a factor of three, and so must be here as it is in a model.
    """
    dtype = np.dtype(spec.dtype)
    count = int(np.prod(spec.shape, dtype=np.int64))
    start = secrets.randbelow(MAX_GAP_PAGES) * mmap.PAGESIZE + ALIGNMENT_BYTES
    memory = mmap.mmap(-1, start + max(count * dtype.itemsize, 1), flags)
    return np.frombuffer(memory, dtype, count, start).reshape(spec.shape)


def private_copy(array: Array) -> Array:
    """The same values elsewhere, where children can't write."""
    copy = somewhere(TensorSpec(array.shape, array.dtype.name))
    np.copyto(copy, array)
    return copy


def shared_outputs(specs: Sequence[TensorSpec]) -> list[Array]:
    """Arrays that a forked child writes and the parent reads."""
    return [somewhere(spec, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS) for spec in specs]


class WorkloadCache:
    """The least recently used goes first; the newest stays, however large it is."""

    def __init__(
        self, max_workloads: int = MAX_WORKLOADS, max_bytes: int = MAX_CACHED_BYTES
    ) -> None:
        self._max_workloads = max_workloads
        self._max_bytes = max_bytes
        self._workloads: OrderedDict[str, Workload] = OrderedDict()

    def get(self, key: str) -> Workload | None:
        """The workload, which is then the most recently used one."""
        workload = self._workloads.get(key)
        if workload is not None:
            self._workloads.move_to_end(key)
        return workload

    def move(self, key: str) -> Workload | None:
        """The workload, at another place in memory from now on."""
        workload = self.get(key)
        if workload is not None:
            workload = self._workloads[key] = moved(workload)
        return workload

    def add(self, workload: Workload) -> None:
        """Keep it, and drop others to make room."""
        self._workloads[workload.spec.key] = workload
        self._workloads.move_to_end(workload.spec.key)
        while len(self._workloads) > 1 and (
            len(self._workloads) > self._max_workloads
            or sum(kept.size_bytes for kept in self._workloads.values()) > self._max_bytes
        ):
            self._workloads.popitem(last=False)


def first_wrong(reference: Sequence[Array], outputs: Sequence[Array]) -> tuple[float, str]:
    """Largest absolute error over all outputs, and what is wrong (empty if nothing is)."""
    largest, wrong = 0.0, ""
    for index, (expected, output) in enumerate(zip(reference, outputs, strict=True)):
        comparison = inputs.compare(expected, output)
        largest = max(largest, comparison.max_abs_error)
        if not comparison.ok and not wrong:
            wrong = (
                f"output {index} ({expected.dtype.name}{list(expected.shape)}) differs from the "
                f"reference by up to {comparison.max_abs_error:.3g}"
            )
    return largest, wrong


def decode_line(answer: bytes, parse: Callable[[Any], Any]) -> Any:
    """Parse the one line of JSON that a child answers; raises ValueError for anything else."""
    if not answer.endswith(b"\n") or answer.count(b"\n") != 1:
        raise ValueError("not one line")
    return parse(json.loads(answer))
