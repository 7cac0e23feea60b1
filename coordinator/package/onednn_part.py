"""A part of the model as calls of oneDNN's kernels, in the layouts that the library asks for.

A program (``program.npz``) lists the steps with their constants. Loading it makes the primitives,
brings the weights into the layouts that these want, plans the memory, and prepares every call, so
that a run is no more than the calls. This file is copied into packages, beside ``onednn_api.py``,
``onednn_builder.py`` and ``onednn_steps.py``, and imports nothing of tunefarm's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .onednn_api import Api, Argument
from .onednn_builder import Buffer, Builder, Tensor, empty
from .onednn_steps import add_step

VERSION = 1
"""Of the programs that this runs."""

Array = np.ndarray[Any, Any]
Call = Callable[[Sequence[Array]], Sequence[Array]]

_ALIGNMENT = 64
_FOREVER = 1 << 62


def load(
    path: Path,
    num_threads: int,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    library: Path | None = None,
) -> Call:
    """The program's function: arrays for its inputs, arrays for its outputs, which its next run
    overwrites; in the order of these names, by default in the program's.

    Raises ImportError if oneDNN is not installed or can't be loaded, ValueError if this is no
    program, RuntimeError if oneDNN refuses a step of it.
    """
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    program = json.loads(arrays.pop("program").tobytes())
    if program.get("version") != VERSION:
        raise ValueError(f"{path.name} is a program of version {program.get('version')}")
    for key, names in (("inputs", inputs), ("outputs", outputs)):
        if names:
            by_name = {one["name"]: one for one in program[key]}
            if set(names) != set(by_name):
                raise ValueError(f"the program's {key} are {list(by_name)}, not {list(names)}")
            program[key] = [by_name[name] for name in names]
    api = Api(library)
    api.set_num_threads(num_threads)
    builder = Builder(api, program, arrays)
    for step in program["steps"]:
        add_step(builder, step)
    return _Program(builder, num_threads).run


class _Program:
    """Everything a run needs, ready to be called."""

    def __init__(self, builder: Builder, num_threads: int) -> None:
        self._api, self._num_threads = builder.api, num_threads
        self._shapes = [shape for _, shape in builder.inputs]
        outputs = [self._output(builder, value) for value, _ in builder.outputs]
        self._arena = empty(_planned(builder.planned()))
        start = self._arena.ctypes.data
        self._constants: list[Array] = []
        self._given: list[list[int]] = [[] for _ in builder.inputs]
        self._calls = []
        for primitive, arguments in builder.calls:
            memories = []
            for argument, tensor in arguments:
                memory = builder.memory(tensor, start)
                if tensor.buffer.array is not None:
                    self._constants.append(tensor.buffer.array)
                elif tensor.buffer.given is not None:
                    self._given[tensor.buffer.given].append(memory)
                memories.append(Argument(argument, memory))
            packed = (Argument * len(memories))(*memories)
            self._calls.append((primitive, self._api.stream, len(memories), packed))
        self._outputs = [
            self._found(tensor, shape)
            for tensor, (_, shape) in zip(outputs, builder.outputs, strict=True)
        ]

    @staticmethod
    def _output(builder: Builder, value: int) -> Tensor:
        """In C order, in memory that nothing else is written to."""
        shape = builder.shapes[value]
        tensor = builder.plain(builder.tensors[value], shape)
        if tensor.buffer.given is not None:
            tensor = builder.copied(tensor)
        tensor.buffer.last = _FOREVER
        return tensor

    def _found(self, tensor: Tensor, shape: tuple[int, ...]) -> Array:
        buffer = tensor.buffer
        if buffer.array is not None:
            return buffer.array.view(np.float32).reshape(shape)
        size = 4 * math.prod(shape)
        return self._arena[buffer.offset : buffer.offset + size].view(np.float32).reshape(shape)

    def run(self, arrays: Sequence[Array]) -> Sequence[Array]:
        """Raises ValueError for arrays of other shapes, RuntimeError if a primitive fails."""
        api = self._api
        taken = []
        for array, shape, memories in zip(arrays, self._shapes, self._given, strict=True):
            taken.append(np.ascontiguousarray(array, np.float32))
            if array.shape != shape:
                raise ValueError(f"an input has the shape {array.shape}, not {shape}")
            address = taken[-1].ctypes.data
            for memory in memories:
                api.set_data_handle(memory, address)
        api.set_num_threads(self._num_threads)
        execute = api.execute
        for call in self._calls:
            if execute(*call):
                raise RuntimeError("oneDNN failed")
        if api.wait(api.stream):
            raise RuntimeError("oneDNN failed")
        return self._outputs


def _planned(buffers: Sequence[Buffer]) -> int:
    """Gives the buffers their places, where those that are in use at once don't overlap; the size
    of it all. Large ones choose first."""
    placed: list[Buffer] = []
    for buffer in sorted(buffers, key=lambda one: -one.size):
        offset = 0
        beside = [o for o in placed if o.first <= buffer.last and buffer.first <= o.last]
        for other in sorted(beside, key=lambda one: one.offset):
            if offset + buffer.size <= other.offset:
                break
            offset = max(offset, _rounded(other.offset + other.size))
        buffer.offset = offset
        placed.append(buffer)
    return max((one.offset + one.size for one in placed), default=0)


def _rounded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
