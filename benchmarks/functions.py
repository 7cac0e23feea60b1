"""exp, erf, tanh and sigmoid: the farm's vectors beside the C library's, as TVM calls it.

``python -m benchmarks.functions [--quick]``

One kernel for each function and side, over numbers that fit into the first cache, in vectors of
eight: with ``device_agent/vector_math.py`` and without. They are timed in turn; a figure is the
library's time over ours, in the median over the rounds. One thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from benchmarks.result import last_line, table
from coordinator.frontend.target import resolve_target

FUNCTIONS = ("exp", "erf", "tanh", "sigmoid")
SIZE, LANES, FARTHEST = 4096, 8, 10.0
ROUNDS, QUICK_ROUNDS, RUNS = 200, 20, 50


def kernel(name: str, target: str) -> Any:
    """As it is built now."""
    import tvm
    from tvm import te, tirx
    from tvm.s_tir import Schedule

    from device_agent.build import code_target

    x = te.placeholder((SIZE,), "float32", "x")
    y = te.compute((SIZE,), lambda i: getattr(tirx, name)(x[i]), "y")
    function = te.create_prim_func([x, y]).with_attr("global_symbol", "main")
    schedule = Schedule(tvm.IRModule({"main": function}))
    (loop,) = schedule.get_loops(schedule.get_sblock("y"))
    schedule.vectorize(schedule.split(loop, [None, LANES])[1])
    return tvm.compile(schedule.mod, target=code_target(target)).jit()["main"]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds")
    rounds = QUICK_ROUNDS if parser.parse_args().quick else ROUNDS

    import numpy as np
    import tvm

    from device_agent import vector_math

    target = resolve_target("auto", None)
    theirs = {name: kernel(name, target) for name in FUNCTIONS}
    vector_math.register()  # for the whole process
    ours = {name: kernel(name, target) for name in FUNCTIONS}
    x = tvm.runtime.tensor(np.linspace(-FARTHEST, FARTHEST, SIZE).astype(np.float32))
    y = tvm.runtime.tensor(np.zeros(SIZE, np.float32))

    def ns(kernel: Any) -> float:
        """Of one number."""
        begun = time.perf_counter()
        for _ in range(RUNS):
            kernel(x, y)
        return (time.perf_counter() - begun) / RUNS / SIZE * 1e9

    rows, figures = [], {}
    for name in FUNCTIONS:
        pairs = [(ns(theirs[name]), ns(ours[name])) for _ in range(rounds)]
        ratio = statistics.median(library / vectors for library, vectors in pairs)
        figures[f"{name}_ratio"] = ratio
        library_ns, vectors_ns = (statistics.median(side) for side in zip(*pairs, strict=True))
        rows.append((name, library_ns, vectors_ns, ratio))
    print(table(("function", "library ns", "vectors ns", "ratio"), rows))
    print()
    print(last_line("functions", figures, target))


if __name__ == "__main__":
    main()
