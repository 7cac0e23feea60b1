"""Matrix products: constant matrices packed, and rows and columns that tiles divide.

A transformer has as many rows as tokens: 197 for a picture of 14 × 14 patches, a prime. A register
tile would be one row high, which reads a whole vector of the matrix on the right for each
multiplication, and with 197 columns, for tokens against tokens, there is no vector at all. So such
a product is computed for a few more rows, the last of which is read again for them, and with a few
more columns; what is too much is never written, or left out when the product is read.
"""

from __future__ import annotations

from typing import Any

from .expressions import OpPattern, is_constant, shape_of
from .packing import pack, packed_run
from .padded_rows import padded_rows

COLUMN_STEP = 8
"""Columns are rounded up to a multiple of it."""


def padded_columns(columns: int) -> int:
    """How many columns are computed for this many, where the matrix on the right is no constant."""
    divisible = columns < COLUMN_STEP or columns % (COLUMN_STEP // 2) == 0
    return columns if divisible else -(-columns // COLUMN_STEP) * COLUMN_STEP


def product(builder: Any, call: Any) -> Any | None:
    """The calls of the kernels of ``relax.matmul``; None where TVM's own kernel is as good."""
    left, right = call.args
    if str(call.ty.dtype) != str(left.ty.dtype) or len(left.ty.shape) < 2:
        return None
    if is_constant(right) and len(right.ty.shape) == 2:
        return _with_constant(builder, left, right.value.numpy())
    shapes = [shape_of(left), shape_of(right)]
    if len(shapes[0]) != len(shapes[1]) or shapes[0][:-2] != shapes[1][:-2]:
        return None
    rows, columns = shapes[0][-2], shapes[1][-1]
    if padded_rows(rows) == rows and padded_columns(columns) == columns:
        return None
    if padded_columns(columns) == columns:
        return builder.call_te(_batched, left, right, primfunc_name_hint="matmul")
    return _with_columns(builder, left, right, (*shapes[0][:-1], columns))


def _with_constant(builder: Any, left: Any, matrix: Any) -> Any:
    from tvm import relax, te

    inputs, outputs = matrix.shape
    run = packed_run(outputs)

    def compute(x: Any, w: Any) -> Any:
        step = te.reduce_axis((0, inputs), "k")
        return _rows(x, outputs, step, lambda _, o: w[o // run, step, o % run])

    return builder.call_te(compute, left, relax.const(pack(matrix)), primfunc_name_hint="matmul")


def _batched(x: Any, y: Any) -> Any:
    from tvm import te

    step = te.reduce_axis((0, x.shape[-1]), "k")
    return _rows(x, y.shape[-1], step, lambda outer, o: y[*outer, step, o])


def _rows(x: Any, columns: Any, step: Any, factor: Any) -> Any:
    """Of each row of ``x``; ``factor`` is the element that it is multiplied with."""
    from tvm import te

    *outer, rows, _ = x.shape
    computed = _computed(x, columns, step, factor)
    if padded_rows(int(rows)) == int(rows):
        return computed
    return te.compute((*outer, rows, columns), lambda *place: computed(*place), name="rows")


def _computed(x: Any, columns: Any, step: Any, factor: Any) -> Any:
    """The product with the rows that are too many."""
    from tvm import te, tirx

    *outer, rows, _ = (int(size) for size in x.shape)

    def output(*place: Any) -> Any:
        *batch, i, o = place
        row = i if padded_rows(rows) == rows else tirx.min(i, rows - 1)
        return te.sum(x[*batch, row, step] * factor(batch, o), axis=step)

    return te.compute((*outer, padded_rows(rows), columns), output, name="matmul")


def _with_columns(builder: Any, left: Any, right: Any, shape: tuple[int, ...]) -> Any:
    """With columns that are too many, in kernels of their own: a copy before and one behind, which
    are fused with what is there."""
    from tvm import te, tirx

    columns = padded_columns(shape[-1])

    def widen(y: Any) -> Any:
        *outer, steps, given = y.shape
        return te.compute(
            (*outer, steps, columns), lambda *at: y[*at[:-1], tirx.min(at[-1], given - 1)], "widen"
        )

    def compute(x: Any, y: Any) -> Any:
        step = te.reduce_axis((0, x.shape[-1]), "k")
        return _computed(x, columns, step, lambda outer, o: y[*outer, step, o])

    def cut(z: Any) -> Any:
        return te.compute(shape, lambda *place: z(*place), "cut")

    widened = builder.emit(builder.call_te(widen, right, primfunc_name_hint="widen"))
    computed = builder.emit(builder.call_te(compute, left, widened, primfunc_name_hint="matmul"))
    # An injective operator does not become part of the product, whose vectors stay whole ones.
    return builder.call_te(
        cut, computed, primfunc_name_hint="cut", primfunc_attrs={"op_pattern": OpPattern.INJECTIVE}
    )
