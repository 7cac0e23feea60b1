"""Convolutions in another layout and by im2col, beside the farm's own: channels last, direct.

``python -m benchmarks.layouts [--quick] [--drawn N]``

The farm keeps maps channels last (decision 19). Other ways to do the same are tuned here alike:

- blocked: maps in blocks of 16 channels, (blocks, rows, columns, 16), in and out, as oneDNN has
  them; what it would cost to get there and back is left out;
- im2col: the patches of the map are copied into a matrix, which is multiplied with the weights.

Of each kernel the same number of programs is drawn from the farm's sketches, the fastest are
mutated, and the best of each are timed in turn. A figure is the time of the other way over that of
the farm's: above 1 the farm's is faster.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.lone_device import LoneDevice
from benchmarks.process import progress
from benchmarks.result import last_line, table
from benchmarks.timing import Contender, alternate
from benchmarks.winners import close_set
from coordinator.experiments import EVALUATOR
from coordinator.frontend.target import num_threads, resolve_target
from coordinator.frontend.workload import argument_specs, canonical_workload, workload_key
from protos.records import Task

BLOCK = 16
"""Channels, and filters whose weights lie beside each other."""

DRAWN, QUICK_DRAWN = 48, 8
"""Programs drawn of each kernel; as many are mutated."""

WAYS = ("channels_last", "blocked", "im2col")


@dataclass(frozen=True)
class Convolution:
    """Square maps and kernels, padded so that a step of one keeps the size."""

    name: str
    channels: int
    filters: int
    size: int
    kernel: int = 3
    step: int = 1

    @property
    def out(self) -> int:
        """Rows and columns of the output."""
        return (self.size - 1) // self.step + 1

    @property
    def taps(self) -> int:
        """Places of the kernel."""
        return self.kernel**2


CONVOLUTIONS = (
    Convolution("resnet_3x3", 64, 64, 56),
    Convolution("resnet_3x3_small", 256, 256, 14),
    Convolution("resnet_3x3_step_2", 128, 256, 28, step=2),
    Convolution("mobilenet_1x1_wide", 96, 576, 14, kernel=1),
    Convolution("mobilenet_1x1_narrow", 576, 96, 14, kernel=1),
    Convolution("squeezenet_1x1", 128, 32, 54, kernel=1),
)


def channels_last(one: Convolution) -> list[Any]:
    """As the farm computes it (``coordinator/frontend/packing.py``)."""
    from tvm import te

    x = te.placeholder((1, one.size, one.size, one.channels), "float32", "x")
    shape = (one.filters // BLOCK, one.kernel, one.kernel, one.channels, BLOCK)
    w = te.placeholder(shape, "float32", "w")
    padded = _padded(x, one, (1, 2))
    row, column, channel = _reduction(one)

    def output(n: Any, i: Any, j: Any, o: Any) -> Any:
        place = i * one.step + row, j * one.step + column
        weight = w[o // BLOCK, row, column, channel, o % BLOCK]
        return te.sum(padded[n, *place, channel] * weight, axis=[row, column, channel])

    return [x, w, te.compute((1, one.out, one.out, one.filters), output, name="conv2d")]


def blocked(one: Convolution) -> list[Any]:
    """In blocks of channels, in and out."""
    from tvm import te

    blocks_in, blocks_out = one.channels // BLOCK, one.filters // BLOCK
    x = te.placeholder((1, blocks_in, one.size, one.size, BLOCK), "float32", "x")
    shape = (blocks_out, one.kernel, one.kernel, one.channels, BLOCK)
    w = te.placeholder(shape, "float32", "w")
    padded = _padded(x, one, (2, 3))
    row, column, channel = _reduction(one)

    def output(n: Any, b: Any, i: Any, j: Any, o: Any) -> Any:
        place = i * one.step + row, j * one.step + column
        data = padded[n, channel // BLOCK, *place, channel % BLOCK]
        return te.sum(data * w[b, row, column, channel, o], axis=[row, column, channel])

    return [x, w, te.compute((1, blocks_out, one.out, one.out, BLOCK), output, name="conv2d")]


def patches(one: Convolution) -> list[Any]:
    """The matrix of patches: a row for each output's place."""
    from tvm import te

    x = te.placeholder((1, one.size, one.size, one.channels), "float32", "x")
    padded = _padded(x, one, (1, 2))

    def patch(place: Any, k: Any) -> Any:
        tap, channel = k // one.channels, k % one.channels
        row = place // one.out * one.step + tap // one.kernel
        column = place % one.out * one.step + tap % one.kernel
        return padded[0, row, column, channel]

    return [x, te.compute((one.out**2, one.taps * one.channels), patch, name="patches")]


def product(one: Convolution) -> list[Any]:
    """The matrix of patches times the weights."""
    from tvm import te

    rows, steps = one.out**2, one.taps * one.channels
    x = te.placeholder((rows, steps), "float32", "x")
    w = te.placeholder((one.filters // BLOCK, steps, BLOCK), "float32", "w")
    k = te.reduce_axis((0, steps), "k")

    def output(i: Any, o: Any) -> Any:
        return te.sum(x[i, k] * w[o // BLOCK, k, o % BLOCK], axis=k)

    return [x, w, te.compute((rows, one.filters), output, name="product")]


def kernels(one: Convolution) -> dict[str, list[Callable[[Convolution], list[Any]]]]:
    """What each way takes, one kernel after the other."""
    found: dict[str, list[Callable[[Convolution], list[Any]]]] = {
        "channels_last": [channels_last],
        "blocked": [blocked],
    }
    if one.kernel > 1:  # the map of a 1×1 convolution is the matrix
        found["im2col"] = [patches, product]
    return found


def _padded(x: Any, one: Convolution, axes: Sequence[int]) -> Any:
    from tvm import topi

    if one.kernel == 1:
        return x
    edges = [one.kernel // 2 if axis in axes else 0 for axis in range(len(x.shape))]
    return topi.nn.pad(x, edges, edges, name="pad_temp")


def _reduction(one: Convolution) -> tuple[Any, Any, Any]:
    from tvm import te

    extents = {"ry": one.kernel, "rx": one.kernel, "rc": one.channels}
    row, column, channel = (te.reduce_axis((0, n), name) for name, n in extents.items())
    return row, column, channel


def task(name: str, tensors: Sequence[Any]) -> Task:
    """One kernel as the farm tunes it."""
    import tvm
    from tvm import te

    function = te.create_prim_func(tensors).with_attr("global_symbol", "main")
    return Task(
        name=name,
        workload_key=workload_key(tvm.IRModule({"main": function})),
        workload_json=tvm.ir.save_json(canonical_workload(function)),
        weight=1,
        args=argument_specs(function),
        num_outputs=1,
        flops=0.0,
    )


def compare(one: Convolution, target: str, drawn: int, device: LoneDevice) -> dict[str, float]:
    """Microseconds of each way, by its best programs."""
    contenders: list[Contender] = []
    ways = kernels(one)
    for way, functions in ways.items():
        for function in functions:
            name = f"{way}/{function.__name__}"
            progress(f"{one.name}: tuning {name}")
            close = close_set(task(name, function(one)), target, 0, device, drawn, least=1)
            contenders.append(replace(close.kernels[0], name=name))
    timed = alternate(contenders, num_threads(target))
    return {
        way: sum(timed[f"{way}/{function.__name__}"].median_s for function in functions) * 1e6
        for way, functions in ways.items()
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=f"--drawn {QUICK_DRAWN}, two of all")
    parser.add_argument(
        "--drawn", type=int, help=f"programs drawn of each kernel (default: {DRAWN})"
    )
    options = parser.parse_args()
    drawn = options.drawn or (QUICK_DRAWN if options.quick else DRAWN)
    target = resolve_target("auto", None)
    with LoneDevice(target, EVALUATOR) as device:
        found = {
            one.name: compare(one, target, drawn, device)
            for one in (CONVOLUTIONS[1:4:2] if options.quick else CONVOLUTIONS)
        }
    rows = []
    ratios: dict[str, list[float]] = {way: [] for way in WAYS[1:]}
    for name, us in found.items():
        own_us = us["channels_last"]
        of_ways = [us[way] / own_us if way in us else None for way in WAYS[1:]]
        for way, ratio in zip(WAYS[1:], of_ways, strict=True):
            if ratio is not None:
                ratios[way].append(ratio)
        rows.append((name, own_us, *(us.get(way) for way in WAYS[1:]), *of_ways))
    headings = ("convolution", *(f"{way} us" for way in WAYS), *(f"{way} ratio" for way in ratios))
    print(table(headings, rows))
    figures = {}
    for way, of_way in ratios.items():
        figures[f"{way}_ratio_min"] = min(of_way)
        figures[f"{way}_ratio_geomean"] = math.prod(of_way) ** (1 / len(of_way))
    print(last_line("layouts", figures, target))


if __name__ == "__main__":
    main()
