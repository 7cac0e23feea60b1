"""How each operator is computed: what it becomes when operators are lowered to kernels.

A convolution directly, with packed weights; over the rows that there are where maps are lower than
kernels (``low_maps``); or with fewer multiplications (``winograd``), where it was asked for: what
is faster is for the device to say. Matrix products are in ``products``, softmax and layer
normalisation in ``rows``; all others are TVM's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .chains import chained, find_chains
from .expressions import is_operator, tidied
from .low_maps import low_map
from .packing import packed_convolution
from .products import product
from .rows import layer_norm, softmax
from .winograd import Convolution, emit, winograd_convolution

Algorithms = Mapping[str, int]
"""The m of F(m×m, 3×3) by ``Convolution.key``, and ``CHAINED`` by ``Chain.key``; convolutions that
are not in it are computed directly, each in a kernel of its own."""

CHAINED = 1
"""In place of an m: a chain in one kernel."""


def legalize(module: Any, algorithms: Algorithms) -> Any:
    """Lower all operators, convolutions as wanted; chains become two kernels (``merged``)."""
    import tvm
    from tvm import relax

    names = ("relax.nn.conv2d", "relax.matmul", "relax.nn.softmax", "relax.nn.layer_norm")
    default = {name: tvm.ir.Op.get(name).get_attr("FLegalize") for name in names}

    def conv2d(builder: Any, call: Any) -> Any:
        compute = low_map(call)
        if compute is not None:
            return builder.call_te(compute, *call.args, primfunc_name_hint="conv2d")
        convolution = winograd_convolution(call)
        if convolution is not None and (m := algorithms.get(convolution.key)) is not None:
            return emit(builder, call, convolution, m)
        packed = packed_convolution(builder, call)
        return default["relax.nn.conv2d"](builder, call) if packed is None else packed

    def ours_or_default(name: str, ours: Any) -> Any:
        def emit_call(builder: Any, call: Any) -> Any:
            computed = ours(builder, call)
            return default[name](builder, call) if computed is None else computed

        return emit_call

    lower = relax.transform.LegalizeOps(
        {
            "relax.nn.conv2d": conv2d,
            "relax.matmul": ours_or_default("relax.matmul", product),
            "relax.nn.softmax": ours_or_default("relax.nn.softmax", softmax),
            "relax.nn.layer_norm": ours_or_default("relax.nn.layer_norm", layer_norm),
        }
    )
    return tidied(lower(chained(module, algorithms)))


def choices(module: Any) -> list[tuple[str, int]]:
    """The keys of convolutions and chains, each kind once, with all that may make it faster."""
    from tvm import relax

    found: dict[str, Convolution] = {}

    def look(expression: Any) -> None:
        if is_operator(expression, "relax.nn.conv2d") and low_map(expression) is None:
            convolution = winograd_convolution(expression)
            if convolution is not None:
                found.setdefault(convolution.key, convolution)

    for function in module.functions.values():
        if isinstance(function, relax.Function):
            relax.analysis.post_order_visit(function, look)
    chains = dict.fromkeys(chain.key for chain in find_chains(module))
    return [
        *((key, m) for key, one in found.items() for m in one.worthwhile()),
        *((key, CHAINED) for key in chains),
    ]
