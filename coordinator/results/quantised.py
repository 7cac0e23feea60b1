"""How far two right answers of a quantised model may be apart.

A quantised model (QuantizeLinear and DequantizeLinear around each operator) rounds after every
operator. What two programs sum in another order differs in the last place, now and then on the two
sides of a half: then one value is a whole step off, and the next operators make more of it. How
much is a property of the model, so it is measured: the reference is run again with every scale off
by a float's rounding error, which says how far the reference is from itself (decision 18).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Outputs = Mapping[str, Array]
Run = Callable[[Any], Outputs]

NUDGED = 8
"""How often the reference is run with other scales."""

NUDGE_EPS = 2
"""A scale is off by at most this many of its type's epsilons: sums of the programs compared here
were 1 to 9 epsilons of their largest magnitude apart."""

MARGIN = 2.0
"""On top of what was found: eight runs do not find the worst."""


@dataclass(frozen=True)
class Tolerance:
    """What an output may differ by, in its own unit: any element, and the root mean square."""

    max_abs: float
    rms: float


def is_quantised(model: Any) -> bool:
    """Whether the model rounds between its operators."""
    return any(node.op_type == "QuantizeLinear" for node in model.graph.node)


def tolerances(
    model: Any, load: Callable[[Any], Run], inputs: Sequence[Any], outputs: Sequence[Outputs]
) -> dict[str, Tolerance]:
    """For each output, MARGIN times the largest difference between the reference and itself with
    nudged scales, and one step of the output's own quantisation.

    ``load`` makes a model's function, ``outputs`` are those of ``model`` for ``inputs``.
    """
    largest = dict.fromkeys(outputs[0], 0.0)
    rms = dict.fromkeys(outputs[0], 0.0)
    for seed in range(NUDGED):
        run = load(nudged(model, seed))
        for example, expected in zip(inputs, outputs, strict=True):
            for name, value in run(example).items():
                error = np.abs(value.astype(np.float64) - expected[name].astype(np.float64))
                if error.size and np.isfinite(error).all():
                    largest[name] = max(largest[name], float(error.max()))
                    rms[name] = max(rms[name], float(np.sqrt(np.mean(error**2))))
    steps = output_steps(model)
    return {
        name: Tolerance(
            MARGIN * largest[name] + steps.get(name, 0.0), MARGIN * rms[name] + steps.get(name, 0.0)
        )
        for name in outputs[0]
    }


def nudged(model: Any, seed: int) -> Any:
    """A ModelProto that quantises with scales that are off by rounding errors; what it dequantises
    with stays. Scales that are computed are left alone."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    constants = _constants(copy)
    random = np.random.default_rng(seed)
    for index, node in enumerate(copy.graph.node):
        if node.op_type != "QuantizeLinear" or node.input[1] not in constants:
            continue
        scale = constants[node.input[1]]
        most = NUDGE_EPS * float(np.finfo(scale.dtype).eps)
        factor = 1 + random.uniform(-most, most, scale.shape)
        name = f"{node.input[1]}/nudged{index}"
        off = np.asarray(scale * factor, scale.dtype)
        copy.graph.initializer.append(onnx.numpy_helper.from_array(off, name))
        node.input[1] = name
    return copy


def output_steps(model: Any) -> dict[str, float]:
    """One step of each output that is quantised, or was just before: the largest scale."""
    constants = _constants(model)
    found = {}
    producers = {name: node for node in model.graph.node for name in node.output}
    for value in model.graph.output:
        node = producers.get(value.name)
        if node is None:
            continue
        if node.op_type == "QuantizeLinear":
            found[value.name] = 1.0
        elif node.op_type == "DequantizeLinear" and node.input[1] in constants:
            found[value.name] = float(np.abs(constants[node.input[1]]).max())
    return found


def _constants(model: Any) -> dict[str, Array]:
    import onnx

    found = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            found[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    return found
