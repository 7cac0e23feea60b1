"""oneDNN's C interface, version 3, as far as a part of a model needs it.

Everything is made once and lives as long as the process. Names are those of the C interface without
their prefix. This file is copied into packages and imports nothing of tunefarm's.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import Any

DISTRIBUTION = "onednn-cpu-gomp"
LIBRARY = "libdnnl.so.3"

MAX_DIMENSIONS = 12

ALGORITHMS = {
    "convolution": 0x3,  # the library chooses
    "deconvolution": 0xA,
    "relu": 0x20,
    "tanh": 0x21,
    "elu": 0x22,
    "abs": 0x24,
    "sqrt": 0x25,
    "linear": 0x26,
    "soft_relu": 0x27,
    "hardsigmoid": 0x28,
    "logistic": 0x29,
    "exp": 0x2A,
    "gelu_tanh": 0x2B,
    "swish": 0x2C,
    "log": 0x2D,
    "clip": 0x2F,
    "pow": 0x30,
    "gelu_erf": 0x31,
    "hardswish": 0x34,
    "pooling_max": 0x1FF,
    "pooling_avg_include_padding": 0x2FF,
    "pooling_avg_exclude_padding": 0x3FF,
    "add": 0x1FFF0,
    "mul": 0x1FFF1,
    "max": 0x1FFF2,
    "min": 0x1FFF3,
    "div": 0x1FFF4,
    "sub": 0x1FFF5,
    "resampling_nearest": 0x2FFF0,
    "resampling_linear": 0x2FFF1,
    "reduction_max": 0x2FFF2,
    "reduction_min": 0x2FFF3,
    "reduction_sum": 0x2FFF4,
    "reduction_mean": 0x2FFF6,
    "softmax": 0x30000,
}

SRC, SRC_1, DST, WEIGHTS, BIAS, SCALE, SHIFT = 1, 2, 17, 33, 41, 51, 52
MULTIPLE_SRC, POST_OP = 1024, 32768

_F32, _ANY, _INFERENCE, _CPU, _IN_ORDER = 3, 1, 96, 1, 1
_SUCCESS, _UNIMPLEMENTED = 0, 3
_SOURCE, _WEIGHTS, _DESTINATION, _IMPLEMENTATION = 129, 131, 133, 8
_USE_SCALE_AND_SHIFT = 0x6

Pointer = ctypes.c_void_p
parameter = ctypes.c_float
"""Of a function, such as its alpha and beta."""


class Argument(ctypes.Structure):
    """``dnnl_exec_arg_t``."""

    _fields_ = [("arg", ctypes.c_int), ("memory", Pointer)]


class UnsupportedError(Exception):
    """The library has no implementation of a primitive."""


def find_library() -> Path:
    """Where the distribution has it; raises ImportError if it is not installed."""
    try:
        files = importlib.metadata.files(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if PurePath(file).name == LIBRARY:
            return Path(str(file.locate())).resolve()
    raise ImportError(f"{DISTRIBUTION} with its {LIBRARY} is not installed")


class Library:
    """The library with one engine, a CPU, and one stream on it."""

    def __init__(self, num_threads: int) -> None:
        """Raises ImportError if it can't be loaded."""
        path = find_library()
        try:
            threads = ctypes.CDLL("libgomp.so.1", mode=ctypes.RTLD_GLOBAL)
            self._dll = ctypes.CDLL(str(path))
        except OSError as error:
            raise ImportError(f"oneDNN can't be loaded: {error}") from error
        self._set_threads, self._num_threads = threads.omp_set_num_threads, num_threads
        self.use_threads()
        self._engine, self._stream = Pointer(), Pointer()
        self._call("engine_create", ctypes.byref(self._engine), _CPU, ctypes.c_size_t(0))
        self._call("stream_create", ctypes.byref(self._stream), self._engine, _IN_ORDER)
        self._execute = self._dll.dnnl_primitive_execute
        self._execute.argtypes = [Pointer, Pointer, ctypes.c_int, ctypes.POINTER(Argument)]
        self._set_handle = self._dll.dnnl_memory_set_data_handle
        self._set_handle.argtypes = [Pointer, Pointer]
        for name, result in (("get_size", ctypes.c_size_t), ("equal", ctypes.c_int)):
            getattr(self._dll, f"dnnl_memory_desc_{name}").restype = result
        self._dll.dnnl_primitive_desc_query_md.restype = Pointer

    def use_threads(self) -> None:
        """OpenMP keeps for each thread that calls it how many it may use."""
        self._set_threads(self._num_threads)

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._dll, f"dnnl_{name}")(*arguments)
        if status == _UNIMPLEMENTED:
            raise UnsupportedError(f"oneDNN has no implementation for this: {name}")
        if status != _SUCCESS:
            raise RuntimeError(f"oneDNN: {name} failed with status {status}")

    # --------------------------------------------------------------------- descriptions of memory

    def dense(self, shape: Sequence[int], strides: Sequence[int] | None = None) -> Pointer:
        """Of float32 numbers, row by row if no strides are given."""
        if strides is None:
            strides, step = [], 1
            for extent in reversed(shape):
                strides.insert(0, step)
                step *= extent
        description = Pointer()
        self._call(
            *("memory_desc_create_with_strides", ctypes.byref(description), len(shape)),
            *(dims(shape), _F32, dims(strides)),
        )
        return description

    def any(self, shape: Sequence[int]) -> Pointer:
        """In the layout that the library prefers."""
        description = Pointer()
        self._call(
            *("memory_desc_create_with_tag", ctypes.byref(description), len(shape)),
            *(dims(shape), _F32, _ANY),
        )
        return description

    def piece(self, of: Pointer, shape: Sequence[int], offsets: Sequence[int]) -> Pointer:
        """A box of it."""
        description = Pointer()
        self._call(
            *("memory_desc_create_submemory", ctypes.byref(description), of),
            *(dims(shape), dims(offsets)),
        )
        return description

    def equal(self, one: Pointer, other: Pointer) -> bool:
        """Whether they are the same layout of the same shape."""
        return bool(self._dll.dnnl_memory_desc_equal(one, other))

    def size_bytes(self, description: Pointer) -> int:
        """What such memory takes."""
        return int(self._dll.dnnl_memory_desc_get_size(description))

    # --------------------------------------------------------------------------------- primitives

    def attributes(self, post_ops: Sequence[tuple[str, float, float] | tuple[str, Pointer]]) -> Any:
        """With what is done to each number of the result: (algorithm, alpha, beta), or an algorithm
        and the description of its second operand; None without any."""
        if not post_ops:
            return None
        operations, attributes = Pointer(), Pointer()
        self._call("post_ops_create", ctypes.byref(operations))
        for name, *rest in post_ops:
            if len(rest) == 1:
                self._call("post_ops_append_binary", operations, ALGORITHMS[name], rest[0])
            else:
                alpha, beta = (parameter(float(value)) for value in rest)
                self._call("post_ops_append_eltwise", operations, ALGORITHMS[name], alpha, beta)
        self._call("primitive_attr_create", ctypes.byref(attributes))
        self._call("primitive_attr_set_post_ops", attributes, operations)
        self._call("post_ops_destroy", operations)
        return attributes

    def description(self, primitive: str, *arguments: Any) -> Pointer:
        """Of a primitive, by ``dnnl_…_primitive_desc_create``; raises UnsupportedError."""
        made = Pointer()
        self._call(
            f"{primitive}_primitive_desc_create", ctypes.byref(made), self._engine, *arguments
        )
        return made

    def forward(self, primitive: str, *arguments: Any) -> Pointer:
        """The same of one that has a direction."""
        return self.description(f"{primitive}_forward", _INFERENCE, *arguments)

    def layer_normalization(self, source: Pointer, result: Pointer, epsilon: float) -> Pointer:
        """Over the last axis, with a scale and a shift."""
        return self.forward(
            *("layer_normalization", source, result, None),
            *(parameter(epsilon), _USE_SCALE_AND_SHIFT, None),
        )

    def reorder(self, source: Pointer, result: Pointer) -> Pointer:
        """From one layout to another."""
        made = Pointer()
        self._call(
            *("reorder_primitive_desc_create", ctypes.byref(made), source, self._engine),
            *(result, self._engine, None),
        )
        return made

    def implementation(self, description: Pointer) -> str:
        """The name of what runs it: ``ref:any`` and the like are the slow ones."""
        name = ctypes.c_char_p()
        self._call("primitive_desc_query", description, _IMPLEMENTATION, 0, ctypes.byref(name))
        return (name.value or b"").decode()

    def source(self, description: Pointer) -> Pointer:
        """The layout of what it reads."""
        return Pointer(self._dll.dnnl_primitive_desc_query_md(description, _SOURCE, 0))

    def weights(self, description: Pointer) -> Pointer:
        """The layout of its weights, or of a product's right side."""
        return Pointer(self._dll.dnnl_primitive_desc_query_md(description, _WEIGHTS, 0))

    def result(self, description: Pointer) -> Pointer:
        """The layout of what it writes."""
        return Pointer(self._dll.dnnl_primitive_desc_query_md(description, _DESTINATION, 0))

    # ---------------------------------------------------------------------------------- execution

    def memory(self, description: Pointer, address: int | None = None) -> Pointer:
        """Memory of that layout at that address, which may be said later."""
        made = Pointer()
        self._call("memory_create", ctypes.byref(made), description, self._engine, Pointer(address))
        return made

    def move(self, memory: Pointer, address: int) -> None:
        """Memory is somewhere else from now on."""
        if self._set_handle(memory, address):
            raise RuntimeError("oneDNN: memory_set_data_handle failed")

    def prepared(
        self, description: Pointer, arguments: Sequence[tuple[int, Pointer]]
    ) -> Callable[[], None]:
        """The primitive with its memory; a call runs it."""
        primitive = Pointer()
        self._call("primitive_create", ctypes.byref(primitive), description)
        given = (Argument * len(arguments))(*(Argument(key, memory) for key, memory in arguments))
        execute, stream, count = self._execute, self._stream, len(arguments)

        def run() -> None:
            status = execute(primitive, stream, count, given)
            if status:
                raise RuntimeError(f"oneDNN: primitive_execute failed with status {status}")

        return run

    def wait(self) -> None:
        """Until all that was started is done."""
        self._call("stream_wait", self._stream)


def dims(numbers: Sequence[int]) -> Any:
    """``dnnl_dims_t``: a shape, strides, dilations or paddings."""
    return (ctypes.c_int64 * MAX_DIMENSIONS)(*numbers)
