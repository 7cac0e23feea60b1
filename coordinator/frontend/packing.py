"""Weights packed ahead of time, in the order in which a tile of outputs reads them.

With weights as (…, inputs, outputs), a tile of some outputs reads a piece of each row, and the rows
are far apart: no prefetcher follows, and each is on a page of its own. That is of no account while
they are in a cache, as when a kernel is timed alone; in a model whose weights are larger than the
caches they come from memory in every run.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .expressions import is_dense_convolution
from .padded_rows import padded_rows

RUN = 16
"""Outputs in one piece: a cache line of float32, the widest vector or two of the half width."""


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

    if not is_dense_convolution(call):
        return None
    attributes, (data, weights) = call.attrs, call.args
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
        computed = out_rows if padded is not x else padded_rows(out_rows, out_columns)
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
