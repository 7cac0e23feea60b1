"""Softmax and layer normalisation as kernels that send vectors along each row.

TVM adds up a row number by number, each addition waiting for the one before, as sums of floating
point numbers may not be reordered without being asked. Here a vector of partial results goes along
the row, and its lanes are put together at the end. Where the last vector would reach over the end
it begins earlier and meets numbers again that the one before has had: that changes no maximum, the
same is written twice, and a sum leaves them out.
"""

from __future__ import annotations

import functools
from typing import Any

from .expressions import OpPattern, is_operator, shape_of
from .kernel_text import parsed, sizes

LANES = 16
"""Of the vectors along a row, on every architecture: two of AVX2, four of NEON. A shorter row is
left to TVM."""

MOST_NUMBERS = 4096
"""Of a row of softmax, whose exponentials are kept on the stack."""


_MAXIMUM = "T.max({sum}, {term})"


def softmax(builder: Any, call: Any) -> Any | None:
    """The call of the kernel for ``relax.nn.softmax``; None where TVM's own is as good."""
    (data,) = call.args
    shape = shape_of(data)
    if int(call.attrs.axis) % len(shape) != len(shape) - 1 or not _fits(data):
        return None
    whole = _before_cut(builder, data)
    kernel = _softmax(shape, shape_of(whole))
    return _emit(builder, "softmax", kernel, [whole], shape)


def layer_norm(builder: Any, call: Any) -> Any | None:
    """The call of the kernel for ``relax.nn.layer_norm``; None where TVM's own is as good."""
    attributes, (data, scale, bias) = call.attrs, call.args
    shape = shape_of(data)
    axes = [int(axis) % len(shape) for axis in attributes.axes]
    affine = bool(attributes.center) and bool(attributes.scale)
    if axes != [len(shape) - 1] or not affine or not _fits(data):
        return None
    kernel = _layer_norm(shape, float(attributes.epsilon))
    return _emit(builder, "layer_norm", kernel, [data, scale, bias], shape)


def _fits(data: Any) -> bool:
    *outer, length = shape_of(data)
    return bool(outer) and str(data.ty.dtype) == "float32" and LANES <= length <= MOST_NUMBERS


def _before_cut(builder: Any, data: Any) -> Any:
    """The whole of which ``data`` was cut (``products``), read by itself, if it was."""
    from tvm import relax

    bound = builder.lookup_binding(data) if isinstance(data, relax.Var) else None
    if bound is None or not is_operator(bound, "relax.call_tir"):
        return data
    return bound.args[1][0] if bound.args[0].name_hint.startswith("cut") else data


def _emit(builder: Any, name: str, kernel: Any, args: list[Any], shape: tuple[int, ...]) -> Any:
    from tvm import relax

    variable = builder.add_func(kernel, name)
    return relax.call_tir(variable, args, relax.TensorType(shape, "float32"))


@functools.lru_cache
def _softmax(shape: tuple[int, ...], given: tuple[int, ...]) -> Any:
    """The PrimFunc to ``shape`` from what is as large or larger, of which the first count."""
    length = shape[-1]
    body = [
        *_partial("P", "X[{place}]", length, _MAXIMUM, _MAXIMUM, "T.min_value('float32')"),
        f'E = T.sblock_alloc_buffer({sizes(length)}, "float32", scope="local")',
        *_along(length, "E[{at}] = T.exp(X[{place}] - P[0])"),
        *_partial("S", "E[{at}]", length),
        "factor: T.let = T.float32(1) / S[0]",
        *_along(length, "Y[{place}] = E[{at}] * factor"),
    ]
    return _kernel("softmax", {"X": given, "Y": shape}, body)


@functools.lru_cache
def _layer_norm(shape: tuple[int, ...], epsilon: float) -> Any:
    """The PrimFunc of a tensor, and of a factor and a summand for each place in a row."""
    length = shape[-1]
    share = f"T.float32({1 / length!r})"
    body = [
        *_partial("M", "X[{place}]", length),
        f"mean: T.let = M[0] * {share}",
        *_partial("V", "(X[{place}] - mean) * (X[{place}] - mean)", length),
        f"factor: T.let = T.rsqrt(V[0] * {share} + T.float32({epsilon!r}))",
        *_along(length, "Y[{place}] = (X[{place}] - mean) * factor * A[{at}] + B[{at}]"),
    ]
    return _kernel("layer_norm", {"X": shape, "A": (length,), "B": (length,), "Y": shape}, body)


def _along(length: int, statement: str, last: str = "") -> list[str]:
    """Vectors of a statement over a row; ``last`` is in its place where numbers are met again."""
    whole, rest = divmod(length, LANES)
    lines = [
        f"for v in T.serial(T.int64({whole})):",
        f"    for i in T.vectorized(T.int64({LANES})):",
        "        " + _at(statement, f"v * {LANES} + i"),
    ]
    if rest:
        lines += [
            f"for i in T.vectorized(T.int64({LANES})):",
            "    " + _at(last or statement, f"{length - LANES} + i"),
        ]
    return lines


def _at(statement: str, at: str) -> str:
    return statement.replace("{place}", "{row}, {at}").replace("{at}", at)


def _partial(
    name: str,
    term: str,
    length: int,
    joined: str = "{sum} + {term}",
    again: str = "{sum} + T.Select(i >= {met}, {term}, T.float32(0))",
    start: str = "T.float32(0)",
) -> list[str]:
    """A row's terms put together in element 0 of a buffer; ``again`` is how where the first
    ``met`` lanes have been."""
    met = LANES - length % LANES
    sums = f"{name}[i]"
    lines = [
        f'{name} = T.sblock_alloc_buffer({sizes(LANES)}, "float32", scope="local")',
        f"for i in T.vectorized(T.int64({LANES})):",
        f"    {sums} = {start}",
        *_along(
            length,
            f"{sums} = {joined.format(sum=sums, term=term)}",
            f"{sums} = {again.format(sum=sums, term=term, met=met)}",
        ),
    ]
    half = LANES // 2
    while half:
        both = joined.format(sum=sums, term=f"{name}[i + {half}]")
        lines += [f"for i in T.vectorized(T.int64({half})):", f"    {sums} = {both}"]
        half //= 2
    return lines


def _kernel(name: str, buffers: dict[str, tuple[int, ...]], body: list[str]) -> Any:
    """``body`` is what is done to a row, the last buffer is written; ``{place}`` in it stands for
    the place of element ``{at}`` of the row in a whole tensor."""
    *outer, length = buffers["Y"]
    loops = [f"l{axis}" for axis in range(len(outer))]
    row = ", ".join(f"v{axis}" for axis in range(len(outer)))
    parameters = "\n".join(
        f'    {buffer}: T.Buffer({sizes(*shape)}, "float32"),' for buffer, shape in buffers.items()
    )
    reads = ", ".join(
        f"{buffer}[{row}, 0:{length}]" if len(shape) > 1 else f"{buffer}[0:{length}]"
        for buffer, shape in buffers.items()
        if buffer != "Y"
    )
    text = "\n".join(" " * 12 + line.replace("{row}", row) for line in body)
    return parsed(
        f"""
@T.prim_func(private=True, s_tir=True)
def {name}(
{parameters}
):
    T.func_attr({{"op_pattern": {OpPattern.OPAQUE}, "tirx.noalias": True}})
    for {", ".join(loops)} in T.grid({", ".join(f"T.int64({extent})" for extent in outer)}):
        with T.sblock("{name}"):
            {row} = T.axis.remap("{"S" * len(outer)}", [{", ".join(loops)}])
            T.reads({reads})
            T.writes(Y[{row}, 0:{length}])
{text}
"""
    )
