"""A 1×1 convolution and the depthwise one that alone reads it, as one kernel: a variant.

Apart, the first writes its result, which is several times as large as what it read, and the second
reads it again, with a copy for its padding. Together they go through it a few channels at a time,
which stay in a core's own cache, for each channel of a depthwise convolution is made of one channel
alone. The first one is computed for the padding's places, too, where the nearest pixel is read and
zero is written. What is faster is for the device to say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .expressions import (
    is_constant,
    is_dense_convolution,
    is_elementwise,
    is_operator,
    mutate,
    shape_of,
    tidied,
)
from .packing import RUN, pack
from .transposes import has_no_layout

MIN_BYTES = 256 << 10
"""Of what goes from one to the other: less stays in the caches anyway."""

MOST_PADDING = 1.35
"""How many times as many places as the map has may be computed."""

_FIRST, _SECOND = "pointwise_of_chain", "depthwise_of_chain"


@dataclass(frozen=True)
class Chain:
    """The calls of a chain, in order: a 1×1 convolution, elementwise ones, a depthwise one."""

    calls: tuple[Any, ...]

    @property
    def key(self) -> str:
        """The same for chains of the same kernels."""
        first, *others, second = self.calls
        sizes = [shape_of(first.args[0]), shape_of(first), shape_of(second.args[1])]
        moves = [int(n) for n in (*second.attrs.strides, *second.attrs.padding)]
        names = "-".join(str(call.op.name).removeprefix("relax.") for call in others)
        numbers = "+".join("x".join(map(str, size)) for size in (*sizes, moves))
        return f"chain {numbers} {names}"


def find_chains(module: Any) -> list[Chain]:
    """Those of a module, channels last, that may be faster as one kernel."""
    from tvm import relax

    found = []
    for function in module.functions.values():
        if isinstance(function, relax.Function):
            bindings = [b for block in function.body.blocks for b in block.bindings]
            users = _users(function, bindings)
            found += [one for b in bindings for one in _chain_from(b, bindings, users)]
    return found


def chained(module: Any, keys: Collection[str]) -> Any:
    """The module with these chains as pairs of kernels that fit together (``merged``)."""
    chains = [one for one in find_chains(module) if one.key in keys]
    if not chains:
        return module
    between = {call for one in chains for call in one.calls[1:-1]}
    firsts = {one.calls[0]: one for one in chains}
    seconds = {one.calls[-1] for one in chains}

    def visit(mutator: Any, call: Any) -> Any:
        from tvm import relax

        if mutator.original in firsts:
            chain = firsts[mutator.original]
            return _first(mutator.builder_, call, chain.calls[-1].attrs)
        if mutator.original in between:  # its shape is another one now
            return relax.Call(call.op, call.args, call.attrs)
        if mutator.original in seconds:
            return _second(mutator.builder_, call, mutator.original)
        return call

    return tidied(mutate(module, visit))


def merged(lowered: Any) -> Any:
    """The fused module with each such pair of kernels as one."""
    from tvm import relax

    if not any(_SECOND in variable.name_hint for variable in lowered.get_global_vars()):
        return lowered

    def visit(mutator: Any, call: Any) -> Any:
        if _SECOND not in _kernel(call):
            return call
        args = list(call.args[1])
        bound = [mutator.lookup_binding(a) if isinstance(a, relax.Var) else None for a in args]
        firsts = [
            (i, one) for i, one in enumerate(bound) if one is not None and _FIRST in _kernel(one)
        ]
        if not firsts:  # what is between was not fused with the first one
            return call
        ((place, first),) = firsts
        variable = mutator.builder_.add_func(_function(first, call, place), "chain")
        return relax.Call(variable, [*first.args[1], *args[:place], *args[place + 1 :]])

    made = tidied(mutate(lowered, visit))
    return tidied(relax.transform.FuseTIR()(made))


def _kernel(call: Any) -> str:
    """The name of the kernel that is called, empty for anything else."""
    return str(call.args[0].name_hint) if is_operator(call, "relax.call_tir") else ""


def _function(first: Any, second: Any, place: int) -> Any:
    """A function that calls both kernels, for TVM to make one of; its parameters are the first
    one's, then the second one's without what the first one made, which it reads at ``place``."""
    from tvm import relax

    own = [relax.Var(f"a{i}", argument.ty) for i, argument in enumerate(first.args[1])]
    given = [relax.Var(f"b{i}", argument.ty) for i, argument in enumerate(second.args[1])]
    parameters = own + given[:place] + given[place + 1 :]
    builder = relax.BlockBuilder()
    with builder.function("both", parameters, attrs={"Primitive": True}, private=True):
        with builder.dataflow():
            given[place] = builder.emit(relax.call_tir(first.args[0], own, first.ty_args[0]))
            last = relax.call_tir(second.args[0], given, second.ty_args[0])
            output = builder.emit_output(last)
        builder.emit_func_output(output)
    return builder.get()["both"]


def _users(function: Any, bindings: Sequence[Any]) -> dict[Any, list[Any]]:
    """By variable: the calls that read it, and the function where it returns it."""
    from tvm import relax

    users: defaultdict[Any, list[Any]] = defaultdict(list)
    for user, expression in [
        *((b.value, b.value) for b in bindings),
        (function, function.body.body),
    ]:

        def look(found: Any, user: Any = user) -> None:
            if isinstance(found, relax.Var):
                users[found].append(user)

        relax.analysis.post_order_visit(expression, look)
    return users


def _chain_from(binding: Any, bindings: Sequence[Any], users: Any) -> Iterator[Chain]:
    """The chain that begins with a binding, if one does."""
    if not _is_pointwise(binding.value):
        return
    inside, calls = {binding.var}, [binding.value]
    for later in bindings[bindings.index(binding) + 1 :]:
        call = later.value
        if not inside.intersection(getattr(call, "args", ())):
            continue
        calls.append(call)
        if _is_depthwise(call):
            break
        if not _stays(call, inside, shape_of(binding.var)):
            return
        inside.add(later.var)
    chain = Chain(tuple(calls))
    read = {user for variable in inside for user in users[variable]}
    if _is_depthwise(calls[-1]) and read == set(calls[1:]) and _is_worth_it(chain):
        yield chain


def _is_pointwise(call: Any) -> bool:
    if not is_operator(call, "relax.nn.conv2d") or not is_dense_convolution(call):
        return False
    rows, columns, _, outputs = shape_of(call.args[1])
    moves = [int(n) for n in (*call.attrs.strides, *call.attrs.padding)]
    plain = (rows, columns) == (1, 1) and moves == [1, 1, 0, 0, 0, 0]
    return plain and outputs % RUN == 0 and str(call.ty.dtype) == "float32"


def _is_depthwise(call: Any) -> bool:
    if not is_operator(call, "relax.nn.conv2d") or not is_constant(call.args[1]):
        return False
    attributes, (_, _, depth, channels) = call.attrs, shape_of(call.args[1])
    layouts = (attributes.data_layout, attributes.kernel_layout, attributes.out_layout)
    return (
        layouts == ("NHWC", "HWIO", "NHWC")
        and depth == 1
        and int(attributes.groups) == channels == shape_of(call.args[0])[-1]
        and all(int(number) == 1 for number in attributes.dilation)
    )


def _stays(call: Any, inside: Collection[Any], shape: tuple[int, ...]) -> bool:
    """Whether it works element by element on what is inside, and numbers or channels' constants."""
    others = [argument for argument in getattr(call, "args", ()) if argument not in inside]
    return (
        is_elementwise(call)
        and shape_of(call) == shape
        and all(
            has_no_layout(one) or (is_constant(one) and set(shape_of(one)[:-1]) <= {1})
            for one in others
        )
    )


def _is_worth_it(chain: Chain) -> bool:
    second = chain.calls[-1]
    batch, rows, columns, channels = shape_of(second.args[0])
    kernel = shape_of(second.args[1])[:2]
    top, left, bottom, right = (int(number) for number in second.attrs.padding)
    padded = (rows + top + bottom) * (columns + left + right)
    return (
        min(rows, columns) >= max(kernel)
        and padded <= MOST_PADDING * rows * columns
        and 4 * batch * rows * columns * channels >= MIN_BYTES
    )


def _first(builder: Any, call: Any, padding_of: Any) -> Any:
    """The 1×1 convolution, with the padding's places."""
    from tvm import relax, te, tirx

    data, weights = call.args
    batch, rows, columns, inputs = shape_of(data)
    outputs = shape_of(weights)[-1]
    top, left, bottom, right = (int(number) for number in padding_of.padding)
    packed = pack(weights.value.numpy()[0, 0])

    def compute(x: Any, w: Any) -> Any:
        step = te.reduce_axis((0, inputs), "rc")

        def output(n: Any, i: Any, j: Any, o: Any) -> Any:
            row = tirx.max(tirx.min(i - top, rows - 1), 0)
            column = tirx.max(tirx.min(j - left, columns - 1), 0)
            return te.sum(x[n, row, column, step] * w[o // RUN, step, o % RUN], axis=step)

        shape = (batch, rows + top + bottom, columns + left + right, outputs)
        return te.compute(shape, output, "conv2d")

    return builder.call_te(compute, data, relax.const(packed), primfunc_name_hint=_FIRST)


def _second(builder: Any, call: Any, original: Any) -> Any:
    """The depthwise convolution of what ``_first`` and the operators behind it made."""
    from tvm import te, tirx

    attributes = original.attrs
    _, rows, columns, _ = shape_of(original.args[0])
    down, along = (int(number) for number in attributes.strides)
    top, left, _, _ = (int(number) for number in attributes.padding)
    high, wide, _, _ = shape_of(original.args[1])

    def compute(x: Any, w: Any) -> Any:
        row, column = te.reduce_axis((0, high), "ry"), te.reduce_axis((0, wide), "rx")

        def inside(n: Any, i: Any, j: Any, c: Any) -> Any:
            known = (i >= top, i < rows + top, j >= left, j < columns + left)
            return tirx.if_then_else(tirx.all(*known), x[n, i, j, c], tirx.const(0, x.dtype))

        padded = te.compute(x.shape, inside, "pad_temp")
        return te.compute(
            shape_of(original),
            lambda n, i, j, c: te.sum(
                padded[n, i * down + row, j * along + column, c] * w[row, column, 0, c],
                axis=[row, column],
            ),
            "depthwise_conv2d",
        )

    return builder.call_te(compute, *call.args, primfunc_name_hint=_SECOND)
