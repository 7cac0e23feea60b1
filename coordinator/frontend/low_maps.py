"""Convolutions over feature maps that are lower than their kernels.

Text recognisers end in maps of two or three rows, under kernels of five: most of a kernel's rows
then lie in the padding, and most of the arithmetic multiplies with zeros. Where every output row
sees every input row, the sum goes over the input's rows instead of the kernel's, and no row of
padding is needed. What is left out was zero, so the result is the same.
"""

from __future__ import annotations

from typing import Any

from .expressions import shape_of


def low_map(call: Any) -> Any | None:
    """The computation of a ``relax.nn.conv2d`` over the input's rows; None where it does not apply
    or saves nothing."""
    attributes = call.attrs
    layouts = (attributes.data_layout, attributes.kernel_layout, attributes.out_layout)
    if layouts != ("NHWC", "HWIO", "NHWC") or [int(d) for d in attributes.dilation] != [1, 1]:
        return None
    data, weight = (shape_of(argument) for argument in call.args)
    groups = int(attributes.groups)
    depthwise = groups == data[3] == weight[3]
    if groups != 1 and not depthwise:
        return None
    top, left, bottom, right = (int(p) for p in attributes.padding)
    down, along = (int(s) for s in attributes.strides)
    rows, kernel_rows = data[1], weight[0]
    out_rows = (rows + top + bottom - kernel_rows) // down + 1
    out_columns = (data[2] + left + right - weight[1]) // along + 1
    first, last = top - down * (out_rows - 1), rows - 1 + top
    if first < 0 or last >= kernel_rows or rows >= kernel_rows:
        return None

    def compute(x: Any, w: Any) -> Any:
        from tvm import te, topi

        padded = topi.nn.pad(x, [0, 0, left, 0], [0, 0, right, 0], name="pad_temp")
        channel = te.reduce_axis((0, weight[2]), "rc")
        row = te.reduce_axis((0, rows), "ry")
        column = te.reduce_axis((0, weight[1]), "rx")

        def output(n: Any, i: Any, j: Any, o: Any) -> Any:
            source = o if depthwise else channel
            inputs = padded[n, row, j * along + column, source]
            weights = w[row + top - i * down, column, 0 if depthwise else channel, o]
            return te.sum(
                inputs * weights, axis=[row, column] if depthwise else [row, column, channel]
            )

        return te.compute((data[0], out_rows, out_columns, weight[3]), output, name="conv2d")

    return compute
