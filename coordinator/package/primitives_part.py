"""A part of the model as a program of oneDNN's primitives.

The program was made by tunefarm, ``frontend/primitives.py``: steps that read tensors and make
one each. Here every step becomes a primitive, in the layouts that the library prefers, with
reorders in between where two of them don't agree; weights are laid out once. Memory is allocated
once, too, and used again for what is not needed at the same time.

Needs onednn-cpu-gomp. This file is copied into packages and imports nothing of tunefarm's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .dnnl import (
    ALGORITHMS,
    BIAS,
    DST,
    MULTIPLE_SRC,
    POST_OP,
    SCALE,
    SHIFT,
    SRC,
    SRC_1,
    WEIGHTS,
    Library,
    Pointer,
    UnsupportedError,
    dims,
    parameter,
)

Array = np.ndarray[Any, Any]
Call = Callable[[Sequence[Array]], Sequence[Array]]
Step = Mapping[str, Any]

_ALIGNMENT_BYTES = 4096
_FOR_EVER = 1 << 60
_SLOW = "ref"
"""How the names begin of implementations that are there to be right."""


def load(path: Path, num_threads: int, inputs: Sequence[str], outputs: Sequence[str]) -> Call:
    """The program's function: arrays for these of its inputs, arrays for these outputs, which its
    next run overwrites. Raises ImportError if oneDNN is not installed."""
    return _Program(path, Library(num_threads), inputs, outputs)


@dataclass
class _Buffer:
    """Memory of so many bytes, between the first and the last of the runs that use it."""

    size_bytes: int
    first: int
    last: int
    kept: Array | None = None

    @property
    def address(self) -> int:
        """Where it lies, once it was allocated."""
        assert self.kept is not None
        return int(self.kept.ctypes.data)


@dataclass
class _Tensor:
    """Numbers in a layout, one that primitives read unless it is a view of another tensor."""

    shape: tuple[int, ...]
    layout: Pointer
    buffer: _Buffer
    view: bool = False


@dataclass
class _Run:
    """A primitive and its operands."""

    description: Pointer
    arguments: list[tuple[int, _Tensor]]


@dataclass
class _Program:
    """A program that was loaded. Tensors of a step are made in the layouts of its primitive, and
    live in buffers that get their memory when all steps are known."""

    path: Path
    library: Library
    inputs: Sequence[str]
    outputs: Sequence[str]
    _runs: list[_Run] = field(default_factory=list)
    _tensors: dict[str, _Tensor] = field(default_factory=dict)
    _buffers: list[_Buffer] = field(default_factory=list)
    _calls: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        with np.load(self.path, allow_pickle=False) as file:
            program = json.loads(file["program"].tobytes())
            self._constants = {name: file[key] for name, key in program["constants"].items()}
        self._shapes = {name: tuple(shape) for name, shape in program["shapes"].items()}
        self._inputs = []
        for name in self.inputs:
            self._tensors[name] = tensor = self._new(self._shapes[name])
            tensor.buffer.last = -1
            self._inputs.append(tensor)
        for step in program["steps"]:
            getattr(self, f"_{step['op']}")(step)
        self._outputs = [self._written(self._tensors[name]) for name in self.outputs]
        self._allocate()

    # ---------------------------------------------------------------------------------- running it

    def __call__(self, arrays: Sequence[Array]) -> list[Array]:
        """Run it."""
        self.library.use_threads()
        kept = [np.ascontiguousarray(array, np.float32) for array in arrays]
        for memories, array in zip(self._input_memories, kept, strict=True):
            for memory in memories:
                self.library.move(memory, array.ctypes.data)
        for call in self._calls:
            call()
        self.library.wait()
        return self._results

    def _allocate(self) -> None:
        """Give each buffer its memory, the same to those that are never needed at once."""
        free: list[_Buffer] = []
        given = {id(tensor.buffer) for tensor in self._inputs}
        for buffer in sorted(self._buffers, key=lambda one: one.first):
            if buffer.kept is not None or id(buffer) in given:
                continue
            fits = [
                one
                for one in free
                if one.last < buffer.first
                and one.kept is not None
                and one.kept.nbytes >= buffer.size_bytes
            ]
            if fits and buffer.last < len(self._runs):
                best = min(fits, key=lambda one: one.kept.nbytes if one.kept is not None else 0)
                free.remove(best)
                buffer.kept = best.kept
            else:
                buffer.kept = _aligned(buffer.size_bytes)
            if buffer.last < len(self._runs):
                free.append(buffer)
        memories: dict[int, list[Pointer]] = {id(tensor.buffer): [] for tensor in self._inputs}
        for run in self._runs:
            arguments = []
            for key, tensor in run.arguments:
                taken = memories.get(id(tensor.buffer))
                address = None if taken is not None else tensor.buffer.address
                memory = self.library.memory(tensor.layout, address)
                if taken is not None:
                    taken.append(memory)
                arguments.append((key, memory))
            self._calls.append(self.library.prepared(run.description, arguments))
        self._input_memories = [memories[id(tensor.buffer)] for tensor in self._inputs]
        self._results = [
            _kept(tensor.buffer)[: 4 * int(np.prod(tensor.shape, dtype=np.int64))]
            .view(np.float32)
            .reshape(tensor.shape)
            for tensor in self._outputs
        ]

    # ------------------------------------------------------------------------------------- tensors

    def _new(self, shape: Sequence[int], layout: Pointer | None = None) -> _Tensor:
        """Memory that the next run writes."""
        layout = layout or self.library.dense(shape)
        now = len(self._runs)
        buffer = _Buffer(self.library.size_bytes(layout), now, now)
        self._buffers.append(buffer)
        return _Tensor(tuple(shape), layout, buffer)

    def _constant(self, array: Array) -> _Tensor:
        """Row by row; the array is not overwritten."""
        kept = _aligned(array.nbytes)
        kept[:] = np.ascontiguousarray(array, np.float32).reshape(-1).view(np.uint8)
        tensor = _Tensor(array.shape, self.library.dense(array.shape), _Buffer(array.nbytes, 0, 0))
        tensor.buffer.kept = kept
        return tensor

    def _read(self, name: str) -> _Tensor:
        """A tensor that was made before, a view as a tensor of its own."""
        if name in self._constants and name not in self._tensors:
            self._tensors[name] = self._constant(self._constants[name])
        tensor = self._tensors[name]
        return self._as(tensor, self.library.dense(tensor.shape)) if tensor.view else tensor

    def _as(self, tensor: _Tensor, layout: Pointer) -> _Tensor:
        """The same numbers in this layout."""
        if self.library.equal(tensor.layout, layout):
            return tensor
        moved = self._new(tensor.shape, layout)
        self._run(self.library.reorder(tensor.layout, layout), (SRC, tensor), (DST, moved))
        return moved

    def _plain(self, name: str) -> _Tensor:
        """Row by row."""
        tensor = self._read(name)
        return self._as(tensor, self.library.dense(tensor.shape))

    def _written(self, tensor: _Tensor) -> _Tensor:
        """What is given back: row by row, in memory of its own."""
        layout = self.library.dense(tensor.shape)
        given = any(tensor.buffer is one.buffer for one in self._inputs)
        if given or tensor.view or not self.library.equal(tensor.layout, layout):
            copied = self._new(tensor.shape, layout)
            self._run(self.library.reorder(tensor.layout, layout), (SRC, tensor), (DST, copied))
            tensor = copied
        tensor.buffer.last = _FOR_EVER
        return tensor

    def _run(self, description: Pointer, *arguments: tuple[int, _Tensor]) -> None:
        now = len(self._runs)
        for _, tensor in arguments:
            tensor.buffer.last = max(tensor.buffer.last, now)
        self._runs.append(_Run(description, list(arguments)))

    def _make(self, step: Step, description: Pointer, *arguments: tuple[int, _Tensor]) -> None:
        """Run it into the step's result, in the layout that it wants."""
        made = self._new(self._shapes[step["out"]], self.library.result(description))
        self._run(description, *arguments, (DST, made))
        self._tensors[step["out"]] = made

    # ------------------------------------------------------------- steps with weights and post-ops

    def _convolution(self, step: Step) -> None:
        source = self._read(step["in"][0])
        weights = self._constant(self._constants[step["weights"]])
        bias = self._bias(step)
        result = self._shapes[step["out"]]
        windows = [dims(step[key]) for key in ("strides", "dilations", "before", "after")]

        def describe(attributes: Any) -> Pointer:
            return self.library.forward(
                *(step["op"], ALGORITHMS[step["op"]]),
                *(self.library.any(source.shape), self.library.any(weights.shape)),
                *(bias.layout if bias else None, self.library.any(result)),
                *(*windows, attributes),
            )

        self._with_post_operations(step, describe, source, weights, bias)

    _deconvolution = _convolution

    def _matmul(self, step: Step) -> None:
        left, right = step["in"]
        source = self._read(left)
        source = self._as(source, self.library.dense(source.shape))
        weights, bias = self._read(right), self._bias(step)
        fixed = right in self._constants
        weights_layout = (
            self.library.any(weights.shape) if fixed else self.library.dense(weights.shape)
        )
        result = self.library.dense(self._shapes[step["out"]])

        def describe(attributes: Any) -> Pointer:
            return self.library.description(
                *("matmul", source.layout, weights_layout),
                *(bias.layout if bias else None, result, attributes),
            )

        self._with_post_operations(step, describe, source, weights, bias)

    def _bias(self, step: Step) -> _Tensor | None:
        return self._constant(self._constants[step["bias"]]) if step["bias"] else None

    def _with_post_operations(
        self,
        step: Step,
        describe: Callable[[Any], Pointer],
        source: _Tensor,
        weights: _Tensor,
        bias: _Tensor | None,
    ) -> None:
        """The primitive with as many of its post-operations as it has a fast implementation for;
        the others come after it."""
        operands = [self._read(post["in"]) if "in" in post else None for post in step["post"]]
        shape = self._shapes[step["out"]]
        bare = describe(None)
        wanted = self.library.result(bare)
        slow = self.library.implementation(bare).startswith(_SLOW)
        description, count = bare, 0
        for number in range(len(step["post"]), 0, -1):
            posts = [
                self._post(post, operand, shape, wanted)
                for post, operand in zip(step["post"][:number], operands, strict=False)
            ]
            try:
                found = describe(self.library.attributes(posts))
            except UnsupportedError:
                continue
            if slow or not self.library.implementation(found).startswith(_SLOW):
                description, count = found, number
                break
        given = [
            (SRC, self._as(source, self.library.source(description))),
            (WEIGHTS, self._laid_out(weights, self.library.weights(description))),
        ]
        if bias is not None:
            given.append((BIAS, bias))
        for number, operand in enumerate(operands[:count]):
            if operand is not None:
                layout = self._post_layout(operand, shape, wanted)
                given.append((POST_OP * (number + 1) | SRC_1, self._as(operand, layout)))
        self._make(step, description, *given)
        for post in step["post"][count:]:
            later = {
                **post,
                "out": step["out"],
                "in": [step["out"], *([post["in"]] if "in" in post else [])],
            }
            (self._binary if "in" in post else self._eltwise)(later)

    def _post(
        self, post: Step, operand: _Tensor | None, shape: tuple[int, ...], wanted: Pointer
    ) -> Any:
        if operand is None:
            return post["alg"], post["alpha"], post["beta"]
        return post["alg"], self._post_layout(operand, shape, wanted)

    def _post_layout(self, operand: _Tensor, shape: tuple[int, ...], wanted: Pointer) -> Pointer:
        """What is as large as the result has its layout, else row by row."""
        return wanted if operand.shape == shape else self.library.dense(operand.shape)

    def _laid_out(self, weights: _Tensor, layout: Pointer) -> _Tensor:
        """Constant weights are laid out now, once; others whenever they were computed."""
        if weights.buffer.kept is None or self.library.equal(weights.layout, layout):
            return self._as(weights, layout)
        size = self.library.size_bytes(layout)
        moved = _Tensor(weights.shape, layout, _Buffer(size, 0, 0, _aligned(size)))
        arguments = [
            (key, self.library.memory(tensor.layout, tensor.buffer.address))
            for key, tensor in ((SRC, weights), (DST, moved))
        ]
        self.library.prepared(self.library.reorder(weights.layout, layout), arguments)()
        self.library.wait()
        return moved

    # ------------------------------------------------------------------------------ all other steps

    def _eltwise(self, step: Step) -> None:
        source = self._read(step["in"][0])
        alpha, beta = parameter(step["alpha"]), parameter(step["beta"])
        description = self.library.forward(
            *("eltwise", ALGORITHMS[step["alg"]], source.layout, source.layout, alpha, beta, None)
        )
        self._make(step, description, (SRC, source))

    def _binary(self, step: Step) -> None:
        left, right = (self._read(name) for name in step["in"])
        if left.shape == right.shape:
            right = self._as(right, left.layout)
        description = self.library.description(
            *("binary", ALGORITHMS[step["alg"]], left.layout, right.layout),
            *(self.library.any(left.shape), None),
        )
        self._make(step, description, (SRC, left), (SRC_1, right))

    def _pooling(self, step: Step) -> None:
        source = self._read(step["in"][0])
        windows = [dims(step[key]) for key in ("strides", "kernel", "dilations", "before", "after")]
        description = self.library.forward(
            *("pooling", ALGORITHMS[step["alg"]], source.layout),
            *(self.library.any(self._shapes[step["out"]]), *windows, None),
        )
        self._make(step, description, (SRC, source))

    def _reduction(self, step: Step) -> None:
        source, zero = self._read(step["in"][0]), parameter(0.0)
        description = self.library.description(
            *("reduction", ALGORITHMS[step["alg"]], source.layout),
            *(self.library.any(self._shapes[step["out"]]), zero, zero, None),
        )
        self._make(step, description, (SRC, source))

    def _softmax(self, step: Step) -> None:
        source = self._read(step["in"][0])
        description = self.library.forward(
            *("softmax", ALGORITHMS["softmax"], source.layout, source.layout),
            *(step["axis"], None),
        )
        self._make(step, description, (SRC, source))

    def _layer_norm(self, step: Step) -> None:
        source = self._plain(step["in"][0])
        description = self.library.layer_normalization(
            source.layout, source.layout, step["epsilon"]
        )
        scale, shift = (self._constant(self._constants[step[key]]) for key in ("scale", "shift"))
        self._make(step, description, (SRC, source), (SCALE, scale), (SHIFT, shift))

    def _resampling(self, step: Step) -> None:
        source = self._read(step["in"][0])
        description = self.library.forward(
            *("resampling", ALGORITHMS[step["alg"]], None, source.layout),
            *(self.library.any(self._shapes[step["out"]]), None),
        )
        self._make(step, description, (SRC, source))

    def _concat(self, step: Step) -> None:
        sources = [self._read(name) for name in step["in"]]
        layouts = (Pointer * len(sources))(*(source.layout for source in sources))
        description = self.library.description(
            *("concat", self.library.any(self._shapes[step["out"]]), len(sources)),
            *(step["axis"], layouts, None),
        )
        given = [(MULTIPLE_SRC + number, source) for number, source in enumerate(sources)]
        self._make(step, description, *given)

    def _reshape(self, step: Step) -> None:
        source, shape = self._plain(step["in"][0]), self._shapes[step["out"]]
        self._tensors[step["out"]] = _Tensor(shape, self.library.dense(shape), source.buffer)

    def _transpose(self, step: Step) -> None:
        source, order = self._plain(step["in"][0]), step["order"]
        strides = [int(np.prod(source.shape[axis + 1 :], dtype=np.int64)) for axis in order]
        shape = tuple(source.shape[axis] for axis in order)
        layout = self.library.dense(shape, strides)
        self._tensors[step["out"]] = _Tensor(shape, layout, source.buffer, view=True)

    def _slice(self, step: Step) -> None:
        source, shape = self._plain(step["in"][0]), self._shapes[step["out"]]
        layout = self.library.piece(source.layout, shape, step["offsets"])
        self._tensors[step["out"]] = _Tensor(shape, layout, source.buffer, view=True)


def _aligned(size_bytes: int) -> Array:
    """Bytes that begin at a page."""
    raw = np.zeros(size_bytes + _ALIGNMENT_BYTES, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT_BYTES
    return raw[start : start + size_bytes]


def _kept(buffer: _Buffer) -> Array:
    assert buffer.kept is not None
    return buffer.kept
