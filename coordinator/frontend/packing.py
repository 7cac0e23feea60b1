"""Weights packed ahead of time, in the order in which a tile of outputs reads them.

With weights as (…, inputs, outputs), a tile of some outputs reads a piece of each row, and the rows
are far apart: no prefetcher follows, and each is on a page of its own. That is of no account while
they are in a cache, as when a kernel is timed alone; in a model whose weights are larger than the
caches they come from memory in every run.

Where no tile of rows and columns divides the outputs, a prime number of them, a few more rows are
computed (``tall``), which read the last row again and are not written.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .expressions import is_constant

RUN = 16
"""Outputs in one piece: a cache line of float32, the widest vector or two of the half width."""

TILE_ROWS = range(3, 7)
"""How many rows a register tile may have that reads each vector of weights often enough. With four
to two vectors in each, they and what they are multiplied with fill the sixteen registers of AVX2;
seven rows leave too few for two, and one is too little for its latency."""


def tall(rows: int, columns: int = 1) -> int:
    """How many rows, each of ``columns``, are computed for this many, so that a tile divides them:
    as many or a few more. What is lower than a tile stays as it is."""
    if rows < TILE_ROWS[0] or any(_divides(size, rows, columns) for size in TILE_ROWS):
        return rows
    return tall(rows + 1, columns)


def _divides(size: int, rows: int, columns: int) -> bool:
    """Whether there is a rectangle of this size that divides rows and columns."""
    return any(
        size % high == 0 and rows % high == 0 and columns % (size // high) == 0
        for high in range(1, size + 1)
    )


def packed_run(outputs: int) -> int:
    """How many outputs lie beside each other; all of them where they can't be divided so."""
    run = next(size for size in (RUN, RUN // 2, RUN // 4, 1) if outputs % size == 0)
    return run if run > 1 else outputs


def pack(weights: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Weights (…, inputs, outputs) as (…, outputs / run, inputs, run)."""
    *outer, inputs, outputs = weights.shape
    run = packed_run(outputs)
    rows = weights.reshape(*outer, inputs, outputs // run, run)
    return np.ascontiguousarray(np.moveaxis(rows, -2, -3))


def packed_convolution(builder: Any, call: Any) -> Any | None:
    """A direct convolution, channels last, with its constant weights packed, as the call of its
    kernel; None for any other call of ``relax.nn.conv2d``."""
    from tvm import relax, te, tirx, topi

    attributes = call.attrs
    layouts = (attributes.data_layout, attributes.kernel_layout, attributes.out_layout)
    data, weights = call.args
    if layouts != ("NHWC", "HWIO", "NHWC") or int(attributes.groups) != 1:
        return None
    if not is_constant(weights) or str(call.ty.dtype) != str(data.ty.dtype):
        return None
    down, along = (int(number) for number in attributes.strides)
    apart_down, apart_along = (int(number) for number in attributes.dilation)
    top, left, bottom, right = (int(number) for number in attributes.padding)
    value = weights.value.numpy()
    rows, columns, channels, filters = value.shape
    run = packed_run(filters)
    packed = pack(value.reshape(-1, filters)).reshape(-1, rows, columns, channels, run)

    def compute(x: Any, w: Any) -> Any:
        padded = x
        if top or left or bottom or right:
            before, after = [0, top, left, 0], [0, bottom, right, 0]
            padded = topi.nn.pad(x, before, after, name="pad_temp")
        batch, height, width, _ = (int(size) for size in padded.shape)
        out_rows = (height - (rows - 1) * apart_down - 1) // down + 1
        out_columns = (width - (columns - 1) * apart_along - 1) // along + 1
        computed = out_rows if padded is not x else tall(out_rows, out_columns)
        row, column = te.reduce_axis((0, rows), "ry"), te.reduce_axis((0, columns), "rx")
        channel = te.reduce_axis((0, channels), "rc")

        def output(n: Any, i: Any, j: Any, o: Any) -> Any:
            i = i if computed == out_rows else tirx.min(i, out_rows - 1)
            place = i * down + row * apart_down, j * along + column * apart_along
            weight = w[o // run, row, column, channel, o % run]
            return te.sum(padded[n, *place, channel] * weight, axis=[row, column, channel])

        made = te.compute((batch, computed, out_columns, filters), output, name="conv2d")
        if computed == out_rows:
            return made
        return te.compute((batch, out_rows, out_columns, filters), lambda *at: made(*at), "rows")

    return builder.call_te(compute, data, relax.const(packed), primfunc_name_hint="conv2d")
