"""Kernels that show what a device can do at most: its arithmetic, its memory, its caches.

*Peak.* Each thread keeps ``ACCUMULATORS`` independent vectors in registers and repeats
``v = v * a + b`` on all of them; ``a`` and ``b`` come from memory once. Two units that take four
cycles need eight vectors under way; twelve and the two constants fit into the sixteen registers of
AVX2. The starting values differ and are inputs, so that nothing can be folded or shared.

*Streams.* Each thread adds up its part of an array, again and again, into as many independent
sums. Nothing is written, so that what is counted is what is moved (J. D. McCalpin, Memory Bandwidth
and Machine Balance in Current High Performance Computers, 1995, has kernels that write, too, and
therefore move more than they count). An array of four times the last-level cache comes from
memory, one of ``CACHED_BYTES`` for each thread from the cache next to its core.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, no_type_check

from coordinator.frontend.cpu_features import vector_lanes
from coordinator.frontend.target import num_threads
from protos.records import TensorSpec

ACCUMULATORS = 12
STEPS = 500_000
"""Two milliseconds and more, beside which starting the threads is nothing."""

SUMS = 8
"""Vectors that a stream adds to: an addition takes four cycles, and two may begin in each."""

CACHED_BYTES = 128 << 10
"""Of each thread: more than the first cache holds, less than the second."""

CACHED_PASSES = 500

USUAL_CACHE_BYTES = 32 << 20
"""The last-level cache of a device that does not say what it has."""

MAX_STREAM_BYTES = 1 << 30
"""No device is asked for more memory."""

PEAK, MEMORY, CACHE = "peak", "memory", "cache"


@dataclass(frozen=True)
class LimitKernel:
    """A kernel, and how many operations or bytes one run of it is; ``args`` end with the output."""

    name: str
    workload_json: str = field(repr=False)
    args: tuple[TensorSpec, ...]
    amount: float


def limit_kernels(target_json: str, cache_bytes: int) -> list[LimitKernel]:
    """The three kernels for a target; ``cache_bytes`` is its last-level cache, 0 if not known."""
    threads, width = num_threads(target_json), lanes(target_json)
    peak_args = tuple(
        TensorSpec((threads, columns), "float32")
        for columns in (ACCUMULATORS * width, width, width, ACCUMULATORS * width)
    )
    memory_bytes = min(4 * (cache_bytes or USUAL_CACHE_BYTES), MAX_STREAM_BYTES)
    return [
        LimitKernel(PEAK, peak_workload(target_json), peak_args, flops(target_json)),
        _stream(MEMORY, target_json, memory_bytes // threads, 1),
        _stream(CACHE, target_json, CACHED_BYTES, CACHED_PASSES),
    ]


def lanes(target_json: str) -> int:
    """float32 elements in the target's widest vector."""
    import tvm

    return vector_lanes(tvm.target.Target(json.loads(target_json)))


def flops(target_json: str, steps: int = STEPS) -> float:
    """Of one run of the peak kernel."""
    return 2.0 * steps * ACCUMULATORS * lanes(target_json) * num_threads(target_json)


def peak_workload(target_json: str, steps: int = STEPS) -> str:
    """TVM's serialised module: ``main(x, a, b, y)`` of float32.

    ``x`` and ``y`` are (threads, accumulators × lanes), ``a`` and ``b`` (threads, lanes).
    """
    return _text(_peak(num_threads(target_json), lanes(target_json), steps))


def stream_workload(target_json: str, rows: int, passes: int) -> str:
    """TVM's serialised module: ``main(x, y)`` of float32, ``y`` the sums over ``x``'s rows.

    ``x`` is (threads, rows, sums × lanes), ``y`` (threads, sums × lanes).
    """
    return _text(_sums(num_threads(target_json), rows, SUMS * lanes(target_json), passes))


def _stream(name: str, target_json: str, thread_bytes: int, passes: int) -> LimitKernel:
    threads, columns = num_threads(target_json), SUMS * lanes(target_json)
    rows = max(1, thread_bytes // (4 * columns))
    args = (
        TensorSpec((threads, rows, columns), "float32"),
        TensorSpec((threads, columns), "float32"),
    )
    workload_json = stream_workload(target_json, rows, passes)
    return LimitKernel(name, workload_json, args, float(args[0].size_bytes * passes))


def _text(function: Any) -> str:
    import tvm

    return str(tvm.ir.save_json(tvm.IRModule({"main": function})))


@no_type_check  # it is TVMScript, which mypy takes for Python
def _peak(threads: int, width: int, steps: int) -> Any:
    from tvm.script import tirx as T  # noqa: N812

    count = ACCUMULATORS

    @T.prim_func(s_tir=True)
    def main(
        x: T.Buffer((threads, count * width), "float32"),  # type: ignore[valid-type]
        a: T.Buffer((threads, width), "float32"),  # type: ignore[valid-type]
        b: T.Buffer((threads, width), "float32"),  # type: ignore[valid-type]
        y: T.Buffer((threads, count * width), "float32"),  # type: ignore[valid-type]
    ):
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        for t in T.parallel(threads):
            held = T.alloc_buffer((count * width,), "float32", scope="local")
            for i in T.unroll(count):
                for v in T.vectorized(width):
                    held[i * width + v] = x[t, i * width + v]
            for _ in T.serial(steps):
                for i in T.unroll(count):
                    for v in T.vectorized(width):
                        held[i * width + v] = held[i * width + v] * a[t, v] + b[t, v]
            for i in T.unroll(count):
                for v in T.vectorized(width):
                    y[t, i * width + v] = held[i * width + v]

    return main


@no_type_check
def _sums(threads: int, rows: int, columns: int, passes: int) -> Any:
    from tvm.script import tirx as T  # noqa: N812

    width = columns // SUMS

    @T.prim_func(s_tir=True)
    def main(
        x: T.Buffer((threads, rows, columns), "float32"),  # type: ignore[valid-type]
        y: T.Buffer((threads, columns), "float32"),  # type: ignore[valid-type]
    ):
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        for t in T.parallel(threads):
            held = T.alloc_buffer((columns,), "float32", scope="local")
            for i in T.unroll(SUMS):
                for v in T.vectorized(width):
                    held[i * width + v] = T.float32(0)
            for _ in T.serial(passes):
                for row in T.serial(rows):
                    for i in T.unroll(SUMS):
                        for v in T.vectorized(width):
                            held[i * width + v] = held[i * width + v] + x[t, row, i * width + v]
            for i in T.unroll(SUMS):
                for v in T.vectorized(width):
                    y[t, i * width + v] = held[i * width + v]

    return main
