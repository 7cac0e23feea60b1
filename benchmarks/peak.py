"""The machine's arithmetic peak: a kernel of fused multiply-adds that stay in registers.

Each thread keeps ``ACCUMULATORS`` independent vectors and repeats ``v = v * a + b`` on all of them;
``a`` and ``b`` come from memory once. Two units that take four cycles need eight vectors under way;
twelve and the two constants fit into the sixteen registers of AVX2. The starting values differ and
are inputs, so that nothing can be folded or shared.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, no_type_check

import numpy as np
import numpy.typing as npt

from coordinator.frontend.target import num_threads

ACCUMULATORS = 12
STEPS = 500_000
"""Two milliseconds and more, beside which starting the threads is nothing."""


def lanes(target: str) -> int:
    """float32 elements in the target's widest vector."""
    import tvm
    from tvm.target.codegen import llvm_get_vector_width

    return max(1, int(llvm_get_vector_width(tvm.target.Target(json.loads(target)))) // 32)


def flops(target: str, steps: int = STEPS) -> float:
    """Of one run."""
    return 2.0 * steps * ACCUMULATORS * lanes(target) * num_threads(target)


def peak_workload(target: str, steps: int = STEPS) -> str:
    """TVM's serialised module: ``main(x, a, b, y)`` of float32.

    ``x`` and ``y`` are (threads, accumulators × lanes), ``a`` and ``b`` (threads, lanes).
    """
    import tvm

    module = tvm.IRModule({"main": _function(num_threads(target), lanes(target), steps)})
    return str(tvm.ir.save_json(module))


@no_type_check  # it is TVMScript, which mypy takes for Python
def _function(threads: int, width: int, steps: int) -> Any:
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


def expected(inputs: Sequence[npt.NDArray[Any]], steps: int = STEPS) -> npt.NDArray[np.float64]:
    """What the kernel computes of (x, a, b), in closed form: a geometric series; a is below 1."""
    x, a, b = inputs
    factor = np.tile(a.astype(np.float64), ACCUMULATORS)
    power = factor**steps
    sums: npt.NDArray[np.float64] = power * x + np.tile(b.astype(np.float64), ACCUMULATORS) * (
        1 - power
    ) / (1 - factor)
    return sums
