"""Which operator a wrong model first goes wrong at, so that the error can name it.

Two things can be wrong. The frontend may mean something else by an operator than ONNX Runtime does:
then the untuned model is wrong, too, and with every intermediate tensor as an output the first bad
one names its operator. Or a record of the log computes something else than its workload: then with
some operators tuned the model is right, and with one more it is wrong. That one is found by
halving. Both are looked for on the device, as the outputs were.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coordinator.frontend.onnx_model import fold, load_model, operator
from protos.records import Shape

MAX_EXAMPLE_BYTES = 256 << 20
"""All intermediate tensors of the examples together; of a larger model fewer examples are taken."""


@dataclass(frozen=True)
class Exposed:
    """A model whose intermediate tensors are outputs, in the order in which they are computed.

    ``operators`` names the operator of each output, as an error does; ``example_bytes`` is what
    all outputs of one example take.
    """

    model: bytes = field(repr=False)
    operators: Mapping[str, str]
    example_bytes: int

    def examples(self, most: int) -> int:
        """How many examples to take, ``most`` at most."""
        return max(1, min(most, MAX_EXAMPLE_BYTES // max(self.example_bytes, 1)))


def expose_intermediates(data: bytes, shapes: Mapping[str, Shape]) -> Exposed:
    """Every floating-point tensor that an operator of the folded model computes, as an output.

    Raises BadModel, see ``fold``.
    """
    import onnx

    model = fold(load_model(data, shapes))
    known = onnx.shape_inference.infer_shapes(model).graph
    floats = {
        value.name: value
        for value in (*known.value_info, *known.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    operators = {
        name: operator(node) for node in model.graph.node for name in node.output if name in floats
    }
    del model.graph.output[:]
    model.graph.output.extend(floats[name] for name in operators)
    size = sum(4 * _elements(floats[name]) for name in operators)
    return Exposed(model.SerializeToString(), operators, size)


def _elements(value: Any) -> int:
    return math.prod(dim.dim_value for dim in value.type.tensor_type.shape.dim)


async def first_wrong(
    names: Sequence[str], is_wrong: Callable[[Sequence[str]], Awaitable[bool]]
) -> str | None:
    """The name with which a model that has these tuned goes wrong; None if it does not.

    ``is_wrong`` says whether a model is wrong in which only these, the first few, are tuned.
    """
    if not await is_wrong(names):
        return None
    right, wrong = 0, len(names)
    while wrong - right > 1:
        middle = (right + wrong) // 2
        if await is_wrong(names[:middle]):
            wrong = middle
        else:
            right = middle
    return names[wrong - 1]
