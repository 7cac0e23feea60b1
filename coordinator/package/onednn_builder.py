"""The calls of primitives that a oneDNN program becomes, and the layouts of their tensors.

This file is copied into packages, beside ``onednn_part.py``, and imports nothing of tunefarm's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from . import onednn_api as dnnl
from .onednn_api import Api, Argument, Refused

Array = np.ndarray[Any, Any]

_ALIGNMENT = 64
_SLOW = ("ref", "gemm")


class Buffer:
    """Memory that tensors lie in, and when it is in use: calls from ``first`` to ``last``.

    ``array`` holds a constant; ``given`` is the number of the input that it is.
    """

    def __init__(
        self, size: int, first: int, array: Array | None = None, given: int | None = None
    ) -> None:
        self.size, self.first, self.last = size, first, first
        self.array, self.given = array, given
        self.offset = 0


class Tensor:
    """A layout of a buffer, and the same values in other layouts, if they were asked for."""

    def __init__(self, desc: int, buffer: Buffer) -> None:
        self.desc, self.buffer = desc, buffer
        self.others: list[Tensor] = []


class Builder:
    """Turns steps into calls of primitives."""

    def __init__(self, api: Api, program: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        self.api = api
        self.shapes: list[tuple[int, ...]] = [tuple(shape) for shape in program["shapes"]]
        self.calls: list[tuple[int, list[tuple[int, Tensor]]]] = []
        self.inputs, self.outputs = (
            [(one["value"], tuple(one["shape"])) for one in program[key]]
            for key in ("inputs", "outputs")
        )
        self.tensors: dict[int, Tensor] = {}
        for number, (value, _) in enumerate(self.inputs):
            buffer = Buffer(4 * math.prod(self.shapes[value]), 0, given=number)
            self.tensors[value] = Tensor(api.plain(self.shapes[value]), buffer)
        for value in program["constants"]:
            array = _aligned(arrays[f"constant{value}"], self.shapes[value])
            self.tensors[value] = Tensor(
                api.plain(self.shapes[value]), Buffer(array.nbytes, 0, array)
            )

    def result(self, primitive_desc: int, arguments: Sequence[tuple[int, Tensor]]) -> Tensor:
        """What a primitive writes."""
        desc = self.api.chosen(primitive_desc, dnnl.QUERY_DST)
        return self._call(primitive_desc, arguments, desc)

    def _call(
        self, primitive_desc: int, arguments: Sequence[tuple[int, Tensor]], desc: int
    ) -> Tensor:
        primitive = self.api.make("primitive_create", primitive_desc)
        number = len(self.calls)
        written = Tensor(desc, Buffer(self.api.size(desc), number))
        for _, tensor in arguments:
            tensor.buffer.last = number
        scratchpad = self.api.chosen(primitive_desc, dnnl.QUERY_SCRATCHPAD)
        used = [*arguments, (dnnl.DST, written)]
        if size := self.api.size(scratchpad):
            used.append((dnnl.SCRATCHPAD, Tensor(scratchpad, Buffer(size, number))))
        self.api.call("primitive_desc_destroy", primitive_desc)
        self.calls.append((primitive, used))
        return written

    def planned(self) -> list[Buffer]:
        """The buffers that need a place in the arena."""
        found = {id(tensor.buffer): tensor.buffer for _, call in self.calls for _, tensor in call}
        return [one for one in found.values() if one.array is None and one.given is None]

    def laid_out(self, tensor: Tensor, desc: int) -> Tensor:
        """The tensor in this layout, brought into it if it is not."""
        for known in (tensor, *tensor.others):
            if self.api.same(known.desc, desc):
                return known
        reorder = self._reorder(tensor, desc)
        if tensor.buffer.array is not None:
            array = empty(self.api.size(desc))
            found = Tensor(desc, Buffer(array.nbytes, 0, array))
            self._reorder_now(reorder, tensor, found)
        else:
            found = self._call(reorder, [(dnnl.SRC, tensor)], desc)
        tensor.others.append(found)
        return found

    def copied(self, tensor: Tensor) -> Tensor:
        """The tensor in memory of its own, in the same layout."""
        reorder = self._reorder(tensor, tensor.desc)
        return self._call(reorder, [(dnnl.SRC, tensor)], tensor.desc)

    def _reorder(self, tensor: Tensor, desc: int) -> int:
        engine = self.api.engine
        return self.api.make(
            "reorder_primitive_desc_create",
            *(tensor.desc, engine, desc, engine, self.api.attributes()),
        )

    def _reorder_now(self, primitive_desc: int, source: Tensor, target: Tensor) -> None:
        primitive = self.api.make("primitive_create", primitive_desc)
        desc = self.api.chosen(primitive_desc, dnnl.QUERY_SCRATCHPAD)
        size = self.api.size(desc)
        scratchpad = Tensor(desc, Buffer(size, 0, empty(size)))
        tensors = ((dnnl.SRC, source), (dnnl.DST, target), (dnnl.SCRATCHPAD, scratchpad))
        memories = [Argument(argument, self.memory(tensor)) for argument, tensor in tensors]
        packed = (Argument * 3)(*memories)
        self.api.call("primitive_execute", primitive, self.api.stream, 3 if size else 2, packed)
        self.api.call("stream_wait", self.api.stream)
        for one in memories:
            self.api.call("memory_destroy", one.memory)
        self.api.call("primitive_destroy", primitive)
        self.api.call("primitive_desc_destroy", primitive_desc)

    def memory(self, tensor: Tensor, start: int = 0) -> int:
        """A memory object; ``start`` is where the arena is. An input's has no address yet."""
        buffer = tensor.buffer
        address: int | None = start + buffer.offset
        if buffer.array is not None:
            address = buffer.array.ctypes.data
        elif buffer.given is not None:
            address = None
        return self.api.make("memory_create", tensor.desc, self.api.engine, address)

    def plain(self, tensor: Tensor, shape: Sequence[int]) -> Tensor:
        """The tensor in C order."""
        return self.laid_out(tensor, self.api.plain(shape))

    def attributes(
        self, step: Mapping[str, Any], reads: Sequence[Tensor], shape: Sequence[int]
    ) -> int:
        """What is done to a result before it is written; operands of its shape are taken in the
        layout that it is in."""
        api = self.api
        attributes = api.attributes()
        if not step["post"]:
            return attributes
        operations = api.make("post_ops_create")
        for one in step["post"]:
            algorithm = dnnl.ALGORITHMS[one["algorithm"]]
            if "read" not in one:
                api.call(
                    "post_ops_append_eltwise", operations, algorithm, one["alpha"], one["beta"]
                )
                continue
            value = step["reads"][one["read"]]
            whole = self.shapes[value] == tuple(shape)
            desc = api.any(shape) if whole else reads[one["read"]].desc
            api.call("post_ops_append_binary", operations, algorithm, desc)
        api.call("primitive_attr_set_post_ops", attributes, operations)
        api.call("post_ops_destroy", operations)
        return attributes

    def operands(
        self, step: Mapping[str, Any], reads: Sequence[Tensor], primitive_desc: int
    ) -> list[tuple[int, Tensor]]:
        """The arguments that the post-ops read."""
        found = []
        for number, one in enumerate(step["post"]):
            if "read" in one:
                argument = dnnl.post_op(number)
                desc = self.api.chosen(primitive_desc, dnnl.QUERY_ARGUMENT, argument)
                found.append((argument, self.laid_out(reads[one["read"]], desc)))
        return found

    def fastest(
        self, candidates: Sequence[Sequence[int]], make: Callable[[Sequence[int]], int]
    ) -> int:
        """The primitive for the first layouts of its sources that have a kernel of their own."""
        refused = Refused("there are no layouts")
        slow: int | None = None
        for descs in candidates:
            try:
                found = make(descs)
            except Refused as error:
                refused = error
                continue
            if not self.api.implementation(found).startswith(_SLOW):
                return found
            slow = slow or found
        if slow is None:
            raise refused
        return slow


def empty(size: int) -> Array:
    """Bytes at an address that vector instructions like."""
    array = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -array.ctypes.data % _ALIGNMENT
    return array[start : start + size]


def _aligned(array: Array, shape: tuple[int, ...]) -> Array:
    if array.dtype != np.float32 or array.shape != shape:
        raise ValueError(f"a constant is {array.dtype}{array.shape}, not float32{shape}")
    copy = empty(array.nbytes)
    copy[:] = np.frombuffer(array.tobytes(), np.uint8)
    return copy
