"""Steps of a oneDNN program joined as one who writes for oneDNN would join them.

First rules make fewer and other steps of the same meaning, until none applies. Then what follows a
convolution or a matrix product, and is all that reads it, is done to its result before it is
written (oneDNN's post-ops).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from .absorb import absorb_constant, absorb_pad
from .graph import Graph, PostOp, Step

_CLOSE = 1e-6
_PRODUCTS = ("convolution", "deconvolution", "matmul")


def join(graph: Graph) -> None:
    """Join what can be joined; the graph's outputs stay what they are."""
    _until_nothing(graph, _RULES)
    _until_nothing(graph, (_post_op,))
    graph.drop_unread()


Rule = Callable[[Graph, Step], bool]
"""Changes the graph at a step; whether it did."""


def _until_nothing(graph: Graph, rules: tuple[Rule, ...]) -> None:
    changed = True
    while changed:
        graph.drop_unread()
        changed = False
        for step in list(graph.steps):
            if step in graph.steps and any(rule(graph, step) for rule in rules):
                changed = True


def _linear(step: Step | None) -> tuple[float, float] | None:
    """A step's factor and summand, if it is linear."""
    if step is None or not step.eltwise("linear"):
        return None
    return step.settings["alpha"], step.settings["beta"]


def _linear_twice(graph: Graph, step: Step) -> bool:
    before = graph.producer(step.reads[0])
    now, first = _linear(step), _linear(before)
    if now is None or first is None or before is None or not graph.only_reader(before.write):
        return False
    step.reads = list(before.reads)
    step.settings |= {"alpha": now[0] * first[0], "beta": now[0] * first[1] + now[1]}
    graph.steps.remove(before)
    return True


def _linear_nothing(graph: Graph, step: Step) -> bool:
    now = _linear(step)
    if now is None or abs(now[0] - 1) > _CLOSE or now[1] != 0.0:
        return False
    graph.steps.remove(step)
    graph.redirect(step.write, step.reads[0])
    return True


def _gate(graph: Graph, step: Step) -> bool:
    """x times a function of x: swish, hardswish, gelu, whichever way they are spelled out."""
    if not step.binary("mul") or step.reads[0] == step.reads[1]:
        return False
    for x, gate in (step.reads, step.reads[::-1]):
        found = _gated(graph, x, gate)
        if found is None:
            continue
        source, algorithm, alpha, beta, factor = found
        settings = {"algorithm": algorithm, "alpha": alpha, "beta": beta}
        shape = graph.shapes[step.write]
        made = graph.step("eltwise", [source], shape, step.node, before=step, **settings)
        step.op, step.reads = "eltwise", [made]
        step.settings = {"algorithm": "linear", "alpha": factor, "beta": 0.0}
        return True
    return False


def _gated(graph: Graph, x: str, gate: str) -> tuple[str, str, float, float, float] | None:
    """Of what, which function, its two parameters and what to multiply it by."""
    step, scale = graph.producer(gate), (1.0, 0.0)
    if step is None or graph.only_reader(gate) is None:
        return None
    base, factor = x, 1.0
    scaled = graph.producer(x)
    if (found := _linear(scaled)) and scaled is not None and found[1] == 0.0:
        base, factor = scaled.reads[0], found[0]
    if outer := _linear(step):
        inner = graph.producer(step.reads[0])
        if inner is None or graph.only_reader(inner.write) is None:
            return None
        scale, step = outer, inner
    settings, read = step.settings, step.reads[0]
    if step.op == "erf":
        return _gelu(graph, base, read, scale, factor) or _gelu(graph, x, read, scale, 1.0)
    if scale[1] != 0.0:
        return None
    if step.eltwise("logistic") and read == x:
        return x, "swish", 1.0, 0.0, scale[0]
    if step.eltwise("hardsigmoid") and read == x:
        return x, "hardswish", settings["alpha"], settings["beta"], scale[0]
    if step.eltwise("clip") and settings["alpha"] == 0.0:
        high, inner = settings["beta"], graph.producer(read)
        line = _linear(inner)
        if line and inner is not None and inner.reads[0] == x and high > 0:
            return x, "hardswish", line[0] / high, line[1] / high, high * scale[0]
    return None


def _gelu(
    graph: Graph, x: str, read: str, scale: tuple[float, float], factor: float
) -> tuple[str, str, float, float, float] | None:
    inner = graph.producer(read)
    line = _linear(inner)
    if (
        line
        and inner is not None
        and inner.reads[0] == x
        and math.isclose(line[0], math.sqrt(0.5), rel_tol=_CLOSE)
        and line[1] == 0.0
        and math.isclose(scale[0], scale[1], rel_tol=_CLOSE)
    ):
        return x, "gelu_erf", 0.0, 0.0, 2 * scale[0] * factor
    return None


def _gated_residual(graph: Graph, step: Step) -> bool:
    """x + x * s is x * (1 + s), and s is small where channels are weighed."""
    if not step.binary("add"):
        return False
    for x, product in (step.reads, step.reads[::-1]):
        times = graph.producer(product)
        if times is None or not times.binary("mul") or graph.only_reader(product) is not step:
            continue
        weight = times.reads[1]
        if times.reads[0] != x or graph.shapes[weight] == graph.shapes[x]:
            continue
        more = graph.step(
            "eltwise", [weight], graph.shapes[weight], step.node, before=step,
            algorithm="linear", alpha=1.0, beta=1.0,
        )  # fmt: skip
        step.reads, step.settings = [x, more], {"algorithm": "mul"}
        return True
    return False


def _scaled_factor(graph: Graph, step: Step) -> bool:
    """Factors of a matrix product's operands belong to its result, where they are a post-op."""
    if step.op != "matmul" or step.post or step.settings["bias"]:
        return False
    for index, read in enumerate(step.reads):
        line = _linear(graph.producer(read))
        scaled = graph.producer(read)
        if line and scaled is not None and line[1] == 0.0 and graph.only_reader(read) is step:
            step.reads[index] = scaled.reads[0]
            shape = graph.shapes[step.write]
            following = graph.steps.index(step) + 1
            after = Step("eltwise", [""], step.write, dict(scaled.settings), scaled.node)
            step.write = graph.name(shape)
            after.reads = [step.write]
            graph.steps.insert(following, after)
            return True
    return False


def _before_view(graph: Graph, step: Step) -> bool:
    """Elementwise after a view of a product's result: before the view, where it can be joined."""
    if step.op not in ("eltwise", "binary") or step.post:
        return False
    for index, read in enumerate(step.reads):
        view = graph.producer(read)
        if view is None or view.op != "view" or graph.only_reader(read) is not step:
            continue
        product = graph.producer(view.reads[0])
        if product is None or product.op not in _PRODUCTS or not graph.only_reader(product.write):
            continue
        if graph.shapes[read] != graph.shapes[step.write]:
            continue
        reads = [view.reads[0]]
        if step.op == "binary":
            other = _viewed_back(graph, step, step.reads[1 - index], product.write)
            if other is None:
                continue
            reads.insert(1 - index, other)
        _swap(graph, step, view, reads)
        return True
    return False


def _viewed_back(graph: Graph, step: Step, name: str, product: str) -> str | None:
    """The other operand, as the product's result is shaped; None if it can't be."""
    shape, wanted = graph.shapes[name], graph.shapes[product]
    if shape != graph.shapes[step.write]:
        last = (1,) * (len(shape) - 1) + wanted[-1:]
        if shape != last:
            return None
        wanted = (1,) * (len(wanted) - 1) + wanted[-1:]
    if name in graph.constants:
        return graph.constant(graph.constants[name].reshape(wanted))
    return graph.step("view", [name], wanted, step.node, before=step)


def _swap(graph: Graph, step: Step, view: Step, reads: list[str]) -> None:
    """The step first, with these operands, and then the view."""
    graph.steps.remove(view)
    graph.steps.insert(graph.steps.index(step) + 1, view)
    name = graph.name(graph.shapes[view.reads[0]])
    view.write, step.write = step.write, name
    view.reads, step.reads = [name], reads


_RULES: tuple[Rule, ...] = (
    _linear_twice,
    _linear_nothing,
    _gate,
    _gated_residual,
    absorb_pad,
    absorb_constant,
    _scaled_factor,
    _before_view,
)


def _post_op(graph: Graph, step: Step) -> bool:
    """Let the step do what its only reader does."""
    if step.op not in (*_PRODUCTS, "binary"):
        return False
    reader = graph.only_reader(step.write)
    if reader is None or reader.post or graph.shapes[reader.write] != graph.shapes[step.write]:
        return False
    if reader.op == "eltwise":
        settings = reader.settings
        post = PostOp(settings["algorithm"], settings["alpha"], settings["beta"])
    elif reader.op == "binary" and step.op != "binary":
        index = reader.reads.index(step.write)
        algorithm, other = reader.settings["algorithm"], reader.reads[1 - index]
        if index == 1 and algorithm in ("sub", "div"):
            return False
        if not _post_operand(graph, step, other):
            return False
        post = PostOp(algorithm, read=len(step.reads))
        step.reads.append(other)
    else:
        return False
    step.post.append(post)
    # It may run as late as its only reader did, when all of the operands are there.
    graph.steps.remove(step)
    graph.steps[graph.steps.index(reader)] = step
    step.write = reader.write
    return True


def _post_operand(graph: Graph, step: Step, other: str) -> bool:
    """Whether oneDNN's kernels take it: all of the shape, or one element for each channel."""
    shape, whole = graph.shapes[other], graph.shapes[step.write]
    if shape == whole:
        return True
    axis = len(whole) - 1 if step.op == "matmul" else 1
    channels = tuple(size if index == axis else 1 for index, size in enumerate(whole))
    return other in graph.constants and shape == channels
