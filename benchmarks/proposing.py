"""What a candidate costs to propose, for several sizes of the evolution: MetaSchedule's and ours.

``python -m benchmarks.proposing [--rounds N]`` prints CPU seconds per candidate (this process, all
its threads; median over the rounds' batches) and the ratio to MetaSchedule's default. The task is a
3×3 convolution (1×64×56×56, 64 filters, relu); candidates are scored at random, nothing is built.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time

from coordinator.frontend.importer import import_model
from coordinator.frontend.target import resolve_target
from coordinator.search.proposer import Proposer, SearchConfig
from device_agent.build import tool_versions
from protos.records import Task

CONFIGS = {
    "MetaSchedule's default": SearchConfig(batch=64, population=512, generations=4),
    "128 × 3, batches of 32": SearchConfig(batch=32, population=128, generations=3),
    "96 × 3, batches of 16": SearchConfig(batch=16, population=96, generations=3),
    "ours": SearchConfig(),
}


def convolution(target: str) -> Task:
    """The task, imported as a user's model would be."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).standard_normal((64, 64, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["y"]),
        ],
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64, 56, 56])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64, 56, 56])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return max(import_model(model.SerializeToString(), {}, target).tasks, key=lambda t: t.flops)


def cpu_s_per_candidate(task: Task, target: str, config: SearchConfig, rounds: int) -> float:
    """Median over ``rounds`` batches; the first batch, which has no population yet, is left out."""
    threads = os.cpu_count() or 1
    proposer = Proposer(task, target, 0, 1e9, config, threads)
    proposer.propose()
    costs = []
    for _ in range(rounds):
        started = time.process_time()
        found = proposer.propose()
        costs.append((time.process_time() - started) / len(found))
    return statistics.median(costs)


def main() -> None:
    """Print the table and, as the last line, one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proposing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    target = resolve_target("auto", None)
    task = convolution(target)
    figures = {
        name: cpu_s_per_candidate(task, target, config, rounds) for name, config in CONFIGS.items()
    }
    peer = figures["MetaSchedule's default"]
    print(f"{'evolution':28} {'CPU s per candidate':>20} {'default over it':>16}")
    for name, cost in figures.items():
        print(f"{name:28} {cost:20.3f} {peer / cost:16.1f}")
    result = {
        "benchmark": "proposing",
        "figures": {"propose_cpu_s_conv2d": figures["ours"], "propose_cpu_s_default": peer},
        "machine": {"machine": platform.machine(), "cpus": os.cpu_count()},
        "versions": tool_versions(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
