"""Steps of a oneDNN program while it is made: what each reads, writes and does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]

MAX_RANK = 6
"""Beyond it oneDNN has few kernels."""


class NotInOneDNN(Exception):
    """The model can't be expressed in oneDNN's primitives; the message names the first node."""


@dataclass
class PostOp:
    """What is done to a step's result before it is written: ``read`` is the index of the operand
    among what the step reads, of a binary one."""

    algorithm: str
    alpha: float = 0.0
    beta: float = 0.0
    read: int | None = None

    def described(self) -> dict[str, Any]:
        """As it stands in the program."""
        if self.read is not None:
            return {"algorithm": self.algorithm, "read": self.read}
        return {"algorithm": self.algorithm, "alpha": self.alpha, "beta": self.beta}


@dataclass(eq=False)
class Step:
    """One primitive, or a view of a tensor.

    Steps that a program can't have, ``erf`` and ``pad``, must be absorbed by others; ``node`` is
    the node to name if they are not.
    """

    op: str
    reads: list[str]
    write: str
    settings: dict[str, Any]
    node: str
    post: list[PostOp] = field(default_factory=list)

    def eltwise(self, algorithm: str) -> bool:
        """Whether it is this function of every element."""
        return self.op == "eltwise" and self.settings["algorithm"] == algorithm

    def binary(self, *algorithms: str) -> bool:
        """Whether it is one of these functions of two tensors, with nothing done to the result."""
        return self.op == "binary" and self.settings["algorithm"] in algorithms and not self.post


class Graph:
    """The steps in order, with every tensor's shape and the constants."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.shapes: dict[str, Shape] = {}
        self.constants: dict[str, Array] = {}
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        self._made = 0

    def constant(self, array: Array) -> str:
        """A new constant."""
        name = self.name(array.shape or (1,))
        self.constants[name] = np.ascontiguousarray(array, np.float32).reshape(self.shapes[name])
        return name

    def name(self, shape: Shape) -> str:
        """Of a new tensor."""
        self._made += 1
        name = f"%{self._made}"
        self.shapes[name] = shape
        return name

    def step(
        self,
        op: str,
        reads: Sequence[str],
        shape: Shape,
        node: str,
        before: Step | None = None,
        **settings: Any,
    ) -> str:
        """A new step, at the end or before another; the name of what it writes."""
        step = Step(op, list(reads), self.name(shape), settings, node)
        self.steps.insert(len(self.steps) if before is None else self.steps.index(before), step)
        return step.write

    def producer(self, name: str) -> Step | None:
        """The step that writes it; None for inputs and constants."""
        return next((step for step in self.steps if step.write == name), None)

    def only_reader(self, name: str) -> Step | None:
        """The step that alone reads it, and once."""
        if name in self.outputs:
            return None
        readers = [step for step in self.steps for read in step.reads if read == name]
        return readers[0] if len(readers) == 1 else None

    def redirect(self, old: str, new: str) -> None:
        """Whoever reads ``old`` reads ``new``."""
        for step in self.steps:
            step.reads = [new if read == old else read for read in step.reads]
        self.outputs = [new if name == old else name for name in self.outputs]

    def drop_unread(self) -> None:
        """Remove what leads to no output."""
        read = set(self.outputs)
        kept = []
        for step in reversed(self.steps):
            if step.write in read:
                read.update(step.reads)
                kept.append(step)
        self.steps = kept[::-1]

    def used_constants(self) -> Iterator[tuple[str, Array]]:
        """Those that a step reads or that are outputs, in the order of their making."""
        read = {name for step in self.steps for name in step.reads} | set(self.outputs)
        return ((name, array) for name, array in self.constants.items() if name in read)


def described(graph: Graph) -> tuple[dict[str, Any], Mapping[str, Array]]:
    """The program, as JSON can hold it, and its constants."""
    constants = dict(graph.used_constants())
    names = [*graph.inputs, *constants, *(step.write for step in graph.steps)]
    ids = {name: index for index, name in enumerate(names)}
    steps = [
        {
            "op": step.op,
            "reads": [ids[name] for name in step.reads],
            "write": ids[step.write],
            "post": [one.described() for one in step.post],
            **step.settings,
        }
        for step in graph.steps
    ]
    program = {
        "shapes": [list(graph.shapes[name]) for name in names],
        "inputs": [ids[name] for name in graph.inputs],
        "constants": [ids[name] for name in constants],
        "steps": steps,
        "outputs": [ids[name] for name in graph.outputs],
    }
    return program, {f"constant{ids[name]}": array for name, array in constants.items()}
