"""3×3 convolutions with fewer multiplications: Winograd's minimal filtering, F(m×m, 3×3).

The output is computed in tiles of m × m. For each, (m + 2)² inputs are transformed, multiplied one
by one with the transformed weights and summed over the channels, which is that many matrix
products, and transformed back: (m + 2)² multiplications for m² outputs instead of 9 m² (Lavin and
Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, whose matrices these are). The
weights are transformed ahead of time, in double precision.

In float32 the error is that of a direct convolution for m = 2, and some ten times that for m = 4,
whose transforms add numbers of unlike size. Whether that is exact enough for a model is decided
where its outputs are compared. Maps are channels last.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .expressions import OpPattern, is_dense_convolution
from .kernel_text import parsed, sizes
from .packing import pack, packed_run
from .padded_rows import padded_rows

TILES = (2, 4)
"""The m that can be had."""

MIN_CHANNELS = 16
"""With fewer, on either side, the transforms cost more than the products save."""

WEIGHT_COST = 12
"""What it takes to read a weight, in multiplications: a core makes that many while main memory
gives it one number."""

WORTH, SIMILAR = 0.9, 1.5
"""How much of a direct convolution's cost may be left, and how much dearer than the cheapest m
another one may be, to be tried on the device."""

_KERNEL = 3

_WEIGHTS = {
    2: [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
    4: [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
}
"""G of the paper: what three weights in a row or column become."""


@dataclass(frozen=True)
class Convolution:
    """A 3×3 convolution of stride 1, channels last: ``maps`` of (rows, columns, channels) are read,
    padded at the top and left, and give ``outputs`` (rows, columns, channels)."""

    batch: int
    maps: tuple[int, int, int]
    outputs: tuple[int, int, int]
    top: int
    left: int

    @property
    def key(self) -> str:
        """The same for the same convolution."""
        extents = "x".join(map(str, (self.batch, *self.maps, *self.outputs)))
        return f"{extents}+{self.top}+{self.left}"

    def tiles(self, m: int) -> tuple[int, int]:
        """Down and along; the last ones may reach over the edge."""
        return math.ceil(self.outputs[0] / m), math.ceil(self.outputs[1] / m)

    def count(self, m: int) -> int:
        """Tiles of the whole batch."""
        return self.batch * math.prod(self.tiles(m))

    def worthwhile(self) -> list[int]:
        """The m that may be faster than a direct convolution, and than each other."""
        rows, columns, _ = self.outputs
        direct = self._cost(rows * columns, _KERNEL**2)
        costs = {m: self._cost(math.prod(self.tiles(m)), (m + 2) ** 2) for m in TILES}
        most = min(WORTH * direct, SIMILAR * min(costs.values()))
        return [m for m, cost in costs.items() if cost <= most]

    def _cost(self, places: int, points: int) -> float:
        """Of each pair of channel and filter: its weights are read once for all places."""
        return points * (self.batch * places + WEIGHT_COST)


def winograd_convolution(call: Any) -> Convolution | None:
    """What a call of ``relax.nn.conv2d`` computes, if it can be done in this way."""
    attributes, (data, weights) = call.attrs, call.args
    if not is_dense_convolution(call) or str(data.ty.dtype) != "float32":
        return None
    if any(int(number) != 1 for number in (*attributes.strides, *attributes.dilation)):
        return None
    batch, rows, columns, channels = (int(extent) for extent in data.ty.shape)
    down, along, _, filters = (int(extent) for extent in weights.ty.shape)
    if (down, along) != (_KERNEL, _KERNEL) or min(channels, filters) < MIN_CHANNELS:
        return None
    top, left, bottom, right = (int(padding) for padding in attributes.padding)
    outputs = (rows + top + bottom - 2, columns + left + right - 2, filters)
    return Convolution(batch, (rows, columns, channels), outputs, top, left)


def transformed_weights(weights: np.ndarray[Any, Any], m: int) -> np.ndarray[Any, Any]:
    """Weights (3, 3, channels, filters) as ((m + 2)², channels, filters), float32."""
    matrix = np.array(_WEIGHTS[m], np.float64)
    exact = weights.astype(np.float64)
    made = np.einsum("ia,jb,abcf->ijcf", matrix, matrix, exact, optimize=True)
    return np.ascontiguousarray(made.reshape(-1, *weights.shape[2:]).astype(np.float32))


def emit(builder: Any, call: Any, convolution: Convolution, m: int) -> Any:
    """The call as three kernels, for a legalisation; returns the last one's call."""
    from tvm import relax, te, tirx

    data, weights = call.args
    points, tiles = (m + 2) ** 2, convolution.count(m)
    computed = padded_rows(tiles)
    channels, filters = convolution.maps[2], convolution.outputs[2]

    def kernel(function: Any, source: Any, shape: tuple[int, ...], name: str) -> Any:
        variable = builder.add_func(function, name)
        return relax.call_tir(variable, [source], relax.TensorType(shape, "float32"))

    def products(maps: Any, factors: Any) -> Any:
        channel = te.reduce_axis((0, channels), "rc")
        run = packed_run(filters)

        def product(t: Any, p: Any, f: Any) -> Any:
            tile = t if computed == tiles else tirx.min(t, tiles - 1)
            return te.sum(maps[tile, p, channel] * factors[p, f // run, channel, f % run], channel)

        return te.compute((computed, points, filters), product, name="winograd_products")

    to = input_transform(convolution, m)
    transformed = builder.emit(kernel(to, data, (tiles, points, channels), "winograd_input"))
    factors = relax.const(pack(transformed_weights(weights.value.numpy(), m)))
    multiplied = builder.emit(
        builder.call_te(products, transformed, factors, primfunc_name_hint="winograd_products")
    )
    back = output_transform(convolution, m)
    shape = (convolution.batch, *convolution.outputs)
    return kernel(back, multiplied, shape, "winograd_output")


@functools.lru_cache
def input_transform(convolution: Convolution, m: int) -> Any:
    """The PrimFunc from maps (batch, rows, columns, channels) to (tiles, points, channels)."""
    rows, columns, channels = convolution.maps
    down, along = convolution.tiles(m)
    size, tile = m + 2, _tile(convolution, m)
    body = _Body()
    for offset in range(size):
        body.let(f"vi * {m} + {offset - convolution.top}", f"row{offset}")
        body.let(f"vj * {m} + {offset - convolution.left}", f"column{offset}")
    read = [
        [
            body.let(
                f"T.if_then_else({_inside(f'row{a}', rows)} and {_inside(f'column{b}', columns)}, "
                f"X[vn, row{a}, column{b}, vc], T.float32(0))"
            )
            for b in range(size)
        ]
        for a in range(size)
    ]
    for point, value in enumerate(itertools.chain(*body.both_ways(_INPUT[m], read))):
        body.store(f"V[{tile}, {point}, vc]", value)
    return parsed(
        f"""
@T.prim_func(private=True, s_tir=True)
def winograd_input(
    X: T.Buffer({sizes(convolution.batch, rows, columns, channels)}, "float32"),
    V: T.Buffer({sizes(convolution.count(m), size**2, channels)}, "float32"),
):
    T.func_attr({{"op_pattern": {OpPattern.OPAQUE}, "tirx.noalias": True}})
    for n, i, j, c in T.grid{sizes(convolution.batch, down, along, channels)}:
        with T.sblock("winograd_input"):
            vn, vi, vj, vc = T.axis.remap("SSSS", [n, i, j, c])
            T.reads(X[vn, 0:{rows}, 0:{columns}, vc])
            T.writes(V[{tile}, 0:{size**2}, vc])
{body}
"""
    )


@functools.lru_cache
def output_transform(convolution: Convolution, m: int) -> Any:
    """The PrimFunc from products (tiles, points, filters) to (batch, rows, columns, filters).

    Of the products there may be more than there are tiles. What is over the edge is cut off in a
    block of its own, so that what is fused behind it can be computed tile by tile.
    """
    batch, (rows, columns, filters) = convolution.batch, convolution.outputs
    down, along = convolution.tiles(m)
    size, tile = m + 2, _tile(convolution, m)
    cut = (down * m, along * m) != (rows, columns)
    written = "W" if cut else "Y"
    body = _Body()
    read = [[body.let(f"M[{tile}, {a * size + b}, vf]") for b in range(size)] for a in range(size)]
    for a, row in enumerate(body.both_ways(_OUTPUT[m], read)):
        for b, value in enumerate(row):
            body.store(f"{written}[vn, vi * {m} + {a}, vj * {m} + {b}, vf]", value)
    extents = sizes(batch, down * m, along * m, filters)
    whole = f'    W = T.sblock_alloc_buffer({extents}, "float32")'
    edge = f"""
    for n, i, j, f in T.grid{sizes(batch, rows, columns, filters)}:
        with T.sblock("winograd_edge"):
            vn, vi, vj, vf = T.axis.remap("SSSS", [n, i, j, f])
            Y[vn, vi, vj, vf] = W[vn, vi, vj, vf]
"""
    return parsed(
        f"""
@T.prim_func(private=True, s_tir=True)
def winograd_output(
    M: T.Buffer({sizes(padded_rows(convolution.count(m)), size**2, filters)}, "float32"),
    Y: T.Buffer({sizes(batch, rows, columns, filters)}, "float32"),
):
    T.func_attr({{"op_pattern": {OpPattern.OUT_ELEMENTWISE_FUSABLE}, "tirx.noalias": True}})
{whole if cut else ""}
    for n, i, j, f in T.grid{sizes(batch, down, along, filters)}:
        with T.sblock("winograd_output"):
            vn, vi, vj, vf = T.axis.remap("SSSS", [n, i, j, f])
            T.reads(M[{tile}, 0:{size**2}, vf])
            T.writes({written}[vn, vi * {m}:vi * {m} + {m}, vj * {m}:vj * {m} + {m}, vf])
{body}
{edge if cut else ""}
"""
    )


def _tile(convolution: Convolution, m: int) -> str:
    """The number of the tile at (vn, vi, vj)."""
    down, along = convolution.tiles(m)
    return f"(vn * {down} + vi) * {along} + vj"


def _inside(index: str, extent: int) -> str:
    return f"0 <= {index} and {index} < {extent}"


class _Body:
    """The statements of a block, as text that is indented as deep as they are."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._names = 0

    def __str__(self) -> str:
        return "\n".join(" " * 12 + line for line in self._lines)

    def let(self, expression: str, name: str = "") -> str:
        """Give it a name, which is returned."""
        if not name:
            name, self._names = f"x{self._names}", self._names + 1
        self._lines.append(f"{name}: T.let = {expression}")
        return name

    def store(self, place: str, value: str) -> None:
        """Write a value into a buffer."""
        self._lines.append(f"{place} = {value}")

    def both_ways(self, transform: Any, values: list[list[str]]) -> list[list[str]]:
        """The transform of a square of values: of each column, then of each row."""
        columns = [transform(self.let, list(column)) for column in zip(*values, strict=True)]
        return [transform(self.let, list(row)) for row in zip(*columns, strict=True)]


def _input_2(let: Any, d: list[str]) -> list[str]:
    return [
        let(f"{d[0]} - {d[2]}"),
        let(f"{d[1]} + {d[2]}"),
        let(f"{d[2]} - {d[1]}"),
        let(f"{d[1]} - {d[3]}"),
    ]


def _output_2(let: Any, v: list[str]) -> list[str]:
    return [let(f"{v[0]} + {v[1]} + {v[2]}"), let(f"{v[1]} - {v[2]} - {v[3]}")]


def _input_4(let: Any, d: list[str]) -> list[str]:
    four, five, two = "T.float32(4)", "T.float32(5)", "T.float32(2)"
    even, odd = let(f"{d[4]} - {four} * {d[2]}"), let(f"{d[3]} - {four} * {d[1]}")
    other_even, other_odd = let(f"{d[4]} - {d[2]}"), let(f"{two} * ({d[3]} - {d[1]})")
    return [
        let(f"{four} * {d[0]} - {five} * {d[2]} + {d[4]}"),
        let(f"{even} + {odd}"),
        let(f"{even} - {odd}"),
        let(f"{other_even} + {other_odd}"),
        let(f"{other_even} - {other_odd}"),
        let(f"{four} * {d[1]} - {five} * {d[3]} + {d[5]}"),
    ]


def _output_4(let: Any, v: list[str]) -> list[str]:
    near, far = let(f"{v[1]} + {v[2]}"), let(f"{v[3]} + {v[4]}")
    near_odd, far_odd = let(f"{v[1]} - {v[2]}"), let(f"{v[3]} - {v[4]}")
    return [
        let(f"{v[0]} + {near} + {far}"),
        let(f"{near_odd} + T.float32(2) * {far_odd}"),
        let(f"{near} + T.float32(4) * {far}"),
        let(f"{near_odd} + T.float32(8) * {far_odd} + {v[5]}"),
    ]


_INPUT = {2: _input_2, 4: _input_4}
"""The paper's Bᵀ, of m + 2 values."""

_OUTPUT = {2: _output_2, 4: _output_4}
"""The paper's Aᵀ, of m + 2 values to m."""
