"""Constants and zeros around a tensor that a convolution or a matrix product takes over."""

from __future__ import annotations

import numpy as np

from .graph import Array, Graph, Step

_PRODUCTS = ("convolution", "deconvolution", "matmul")


def absorb_pad(graph: Graph, step: Step) -> bool:
    """Zeros around what a convolution reads are padding of its own."""
    pad = graph.producer(step.reads[0])
    if step.op != "convolution" or pad is None or pad.op != "pad":
        return False
    for key in ("begins", "ends"):
        step.settings[key] = [
            one + more for one, more in zip(step.settings[key], pad.settings[key], strict=True)
        ]
    step.reads[0] = pad.reads[0]
    return True


def absorb_constant(graph: Graph, step: Step) -> bool:
    """A factor or a summand of each channel behind a product is one of its weights or its bias."""
    product = graph.producer(step.reads[0])
    if product is None or product.op not in _PRODUCTS or product.post:
        return False
    if graph.only_reader(product.write) is not step or product.reads[1] not in graph.constants:
        return False
    weights = graph.constants[product.reads[1]]
    if product.op == "matmul" and weights.ndim != 2:
        return False
    found = _affine(graph, step, product)
    if found is None:
        return False
    factor, summand = found
    channels = _channels(graph, product)
    if factor is not None:
        product.reads[1] = graph.constant(weights * _along_outputs(product, weights, factor))
    _change_bias(graph, product, channels, factor, summand)
    product.write = step.write
    graph.steps.remove(step)
    return True


def _channels(graph: Graph, product: Step) -> int:
    shape = graph.shapes[product.write]
    return shape[-1] if product.op == "matmul" else shape[1]


def _affine(graph: Graph, step: Step, product: Step) -> tuple[Array | None, Array | None] | None:
    """The factor and the summand of each channel, or None for neither."""
    if step.eltwise("linear"):
        alpha, beta = step.settings["alpha"], step.settings["beta"]
        return (
            np.full(1, alpha, np.float32) if alpha != 1.0 else None,
            np.full(1, beta, np.float32) if beta != 0.0 else None,
        )
    if not step.binary("add", "mul") or step.reads[1] not in graph.constants:
        return None
    array, shape = graph.constants[step.reads[1]], graph.shapes[product.write]
    axis = len(shape) - 1 if product.op == "matmul" else 1
    if any(size != 1 for index, size in enumerate(array.shape) if index != axis):
        return None
    if array.ndim != len(shape) or graph.shapes[step.write] != shape:
        return None
    flat = array.reshape(-1)
    return (flat, None) if step.settings["algorithm"] == "mul" else (None, flat)


def _along_outputs(product: Step, weights: Array, factor: Array) -> Array:
    """The factor, shaped to be multiplied by the weights."""
    if factor.size == 1 or product.op == "matmul":
        return factor
    spatial = len(product.settings["strides"])
    if weights.ndim == spatial + 3:  # with groups
        return factor.reshape(*weights.shape[:2], *(1,) * (spatial + 1))
    return factor.reshape(-1, *(1,) * (spatial + 1))


def _change_bias(
    graph: Graph, product: Step, channels: int, factor: Array | None, summand: Array | None
) -> None:
    if not product.settings["bias"]:
        if summand is None:
            return
        bias = np.zeros(channels, np.float32)
    else:
        bias = graph.constants[product.reads.pop(2)].reshape(-1)
    bias = bias * (1 if factor is None else factor) + (0 if summand is None else summand)
    if product.op == "matmul":
        bias = bias.reshape(*(1,) * (len(graph.shapes[product.write]) - 1), -1)
    product.reads.insert(2, graph.constant(bias))
    product.settings["bias"] = True
