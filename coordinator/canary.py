"""The canary: a kernel whose time says whether a device is still what it was.

It keeps every thread of the target busy in registers alone, so that its time depends on the clock
and on who else is on the CPUs, and not on caches or memory.
"""

# No ``from __future__ import annotations``: TVMScript reads the annotations' values.

from coordinator.fleet.builders import Builders
from coordinator.frontend.target import num_threads
from protos.errors import JobFailed
from protos.records import CANARY_ARGS, UNTUNED_TRACE, Artifact, Candidate, Task

CHAINS = 8
"""Independent sums per thread: a multiply-add takes four cycles, and two may begin in each.

Together with LANES, they are the columns of the output."""

LANES = 4
"""Of a vector that the smallest of our CPUs has."""

STEPS = 1_000_000
"""Multiply-adds of each chain: one to two milliseconds at 2 to 3 GHz."""


async def build_canary(builders: Builders, target_json: str) -> Artifact:
    """Build the canary of a target; raises JobFailed if that can't be done."""
    workload_json = await builders.run(canary_workload, num_threads(target_json))
    task = Task("the canary", "canary", workload_json, 0, CANARY_ARGS, 1, 0.0)
    outcome = await builders.build(task, Candidate("canary", UNTUNED_TRACE), target_json)
    if outcome.artifact is None:
        raise JobFailed(f"the canary could not be built for {target_json}: {outcome.error}")
    return outcome.artifact


def canary_workload(threads: int) -> str:
    """The text of a module whose ``main`` is the canary for this many threads."""
    import tvm
    from tvm.script import tirx as T  # noqa: N812 - as TVMScript is written

    (spec,) = CANARY_ARGS
    rows, columns = spec.shape
    busy = min(threads, rows)

    @T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]
    def canary(out: T.Buffer((rows, columns), "float32")):  # type: ignore[no-untyped-def,valid-type]
        for thread in T.parallel(busy):
            sums = T.alloc_buffer((CHAINS, LANES), "float32", scope="local")
            for chain in T.unroll(CHAINS):
                for lane in T.vectorized(LANES):
                    sums[chain, lane] = T.float32(2) + T.cast(chain, "float32")
            for _step in range(STEPS):
                for chain in T.unroll(CHAINS):
                    for lane in T.vectorized(LANES):
                        sums[chain, lane] = sums[chain, lane] * T.float32(0.9999) + T.float32(1e-4)
            for chain in T.unroll(CHAINS):
                for lane in T.vectorized(LANES):
                    out[thread, chain * LANES + lane] = sums[chain, lane]
        for row, column in T.grid(rows - busy, columns):
            out[busy + row, column] = T.float32(0)

    module = tvm.IRModule({"main": canary.with_attr("global_symbol", "main")})
    return str(tvm.ir.save_json(module))
