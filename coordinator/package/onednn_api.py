"""As much of oneDNN's C API (version 3) as a program needs, by ctypes.

This file is copied into packages, beside ``onednn_part.py``, and imports nothing of tunefarm's.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
from collections.abc import Callable, Sequence
from ctypes import POINTER, Structure, byref, c_char_p, c_float, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

DISTRIBUTION = "onednn-cpu-gomp"
LIBRARY = "libdnnl.so.3"
OPENMP = "libgomp.so.1"

ALGORITHMS = {
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
    "clip": 0x2E,
    "pow": 0x30,
    "gelu_erf": 0x31,
    "round": 0x32,
    "mish": 0x33,
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
    "nearest": 0x2FFF0,
    "bilinear": 0x2FFF1,
    "reduction_max": 0x2FFF2,
    "reduction_min": 0x2FFF3,
    "reduction_sum": 0x2FFF4,
    "reduction_mean": 0x2FFF6,
    "softmax": 0x30000,
    "softmax_log": 0x30001,
}
"""Names in a program to ``dnnl_alg_kind_t``."""

INFERENCE = 96
CONVOLUTION_DIRECT = 0x1
DECONVOLUTION_DIRECT = 0xA
SCALE_AND_SHIFT = 0x2 | 0x4

SRC, SRC_1, DST, WEIGHTS, BIAS, SCALE, SHIFT, SCRATCHPAD = 1, 2, 17, 33, 41, 51, 52, 80
MULTIPLE_SRC = 1024
_POST_OPS = 32768

QUERY_SRC, QUERY_WEIGHTS, QUERY_DST, QUERY_SCRATCHPAD, QUERY_ARGUMENT = 129, 131, 133, 136, 255
_QUERY_IMPLEMENTATION = 8

_F32, _ANY, _CPU, _IN_ORDER, _USER = 3, 1, 1, 1, 1
_SUPPORTED_MAJOR = 3
_STATUS = {
    1: "out of memory",
    2: "invalid arguments",
    3: "not implemented",
    4: "no implementation is left",
    5: "failed when run",
    6: "not required",
}


def post_op(index: int) -> int:
    """The argument that the operand of a primitive's n-th post-op is."""
    return _POST_OPS * (index + 1) | SRC_1


class Argument(Structure):
    """``dnnl_exec_arg_t``: which argument of a primitive, and its memory."""

    _fields_ = [("arg", c_int), ("memory", c_void_p)]


class Dims:
    """Shapes and the like as the C array that the API takes."""

    _type = c_int64 * 12

    def __new__(cls, values: Sequence[int]) -> Any:
        """``values``, at most twelve."""
        return cls._type(*values)


_V, _P, _D = c_void_p, POINTER(c_void_p), POINTER(c_int64)
_CREATE = "_primitive_desc_create"
_PROTOTYPES: dict[str, list[Any]] = {
    "engine_create": [_P, c_int, c_size_t],
    "stream_create": [_P, _V, c_int],
    "stream_wait": [_V],
    "memory_desc_create_with_tag": [_P, c_int, _D, c_int, c_int],
    "memory_desc_create_with_strides": [_P, c_int, _D, c_int, _D],
    "memory_desc_create_submemory": [_P, _V, _D, _D],
    "memory_desc_reshape": [_P, _V, c_int, _D],
    "memory_desc_permute_axes": [_P, _V, POINTER(c_int)],
    "memory_desc_clone": [_P, _V],
    "memory_create": [_P, _V, _V, _V],
    "memory_set_data_handle": [_V, _V],
    "primitive_create": [_P, _V],
    "primitive_execute": [_V, _V, c_int, POINTER(Argument)],
    "primitive_desc_destroy": [_V],
    "primitive_destroy": [_V],
    "memory_destroy": [_V],
    "primitive_desc_query": [_V, c_int, c_int, _V],
    "primitive_attr_create": [_P],
    "primitive_attr_set_post_ops": [_V, _V],
    "primitive_attr_set_scratchpad_mode": [_V, c_int],
    "post_ops_create": [_P],
    "post_ops_destroy": [_V],
    "post_ops_append_eltwise": [_V, c_int, c_float, c_float],
    "post_ops_append_binary": [_V, c_int, _V],
    f"reorder{_CREATE}": [_P, _V, _V, _V, _V, _V],
    f"concat{_CREATE}": [_P, _V, _V, c_int, c_int, _P, _V],
    f"binary{_CREATE}": [_P, _V, c_int, _V, _V, _V, _V],
    f"convolution_forward{_CREATE}": [_P, _V, c_int, c_int, *[_V] * 4, *[_D] * 4, _V],
    f"deconvolution_forward{_CREATE}": [_P, _V, c_int, c_int, *[_V] * 4, *[_D] * 4, _V],
    f"eltwise_forward{_CREATE}": [_P, _V, c_int, c_int, _V, _V, c_float, c_float, _V],
    f"inner_product_forward{_CREATE}": [_P, _V, c_int, *[_V] * 4, _V],
    f"layer_normalization_forward{_CREATE}": [_P, _V, c_int, _V, _V, _V, c_float, c_int, _V],
    f"matmul{_CREATE}": [_P, _V, *[_V] * 4, _V],
    f"pooling_forward{_CREATE}": [_P, _V, c_int, c_int, _V, _V, *[_D] * 5, _V],
    f"reduction{_CREATE}": [_P, _V, c_int, _V, _V, c_float, c_float, _V],
    f"resampling_forward{_CREATE}": [_P, _V, c_int, c_int, POINTER(c_float), _V, _V, _V],
    f"softmax_forward{_CREATE}": [_P, _V, c_int, c_int, _V, _V, c_int, _V],
}
"""Without ``dnnl_``; all of them return a status."""


class _Version(Structure):
    _fields_ = [("major", c_int), ("minor", c_int), ("patch", c_int)]


class Refused(Exception):
    """oneDNN can't do it in this way; there may be another."""


class Api:
    """The library with an engine and a stream on the CPU.

    What is made with it is not destroyed, unless said: it lives as long as the process, like the
    program.
    """

    def __init__(self, library: Path | None = None) -> None:
        """Load ``library``, by default that of the installed distribution; raises ImportError."""
        path = library or _installed()
        try:
            self._openmp = ctypes.CDLL(OPENMP)
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise ImportError(f"oneDNN can't be loaded: {error}") from error
        self._openmp.omp_set_num_threads.argtypes = [c_int]
        self._openmp.omp_set_num_threads.restype = None
        self.set_num_threads: Callable[[int], None] = self._openmp.omp_set_num_threads
        self._check_version(path)
        for name, arguments in _PROTOTYPES.items():
            function = getattr(self._library, f"dnnl_{name}")
            function.argtypes, function.restype = arguments, c_int
        for name, arguments, result in (
            ("memory_desc_equal", [_V, _V], c_int),
            ("memory_desc_get_size", [_V], c_size_t),
            ("primitive_desc_query_md", [_V, c_int, c_int], _V),
        ):
            function = getattr(self._library, f"dnnl_{name}")
            function.argtypes, function.restype = arguments, result
        self.execute = self._library.dnnl_primitive_execute
        self.wait = self._library.dnnl_stream_wait
        self.set_data_handle = self._library.dnnl_memory_set_data_handle
        self.engine = self.make("engine_create", _CPU, 0)
        self.stream = self.make("stream_create", self.engine, _IN_ORDER)

    def _check_version(self, path: Path) -> None:
        self._library.dnnl_version.restype = POINTER(_Version)
        found = self._library.dnnl_version().contents
        if found.major != _SUPPORTED_MAJOR:
            raise ImportError(f"{path} is oneDNN {found.major}.{found.minor}, not 3")

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the API; raises Refused with the status."""
        status = getattr(self._library, f"dnnl_{name}")(*arguments)
        if status:
            raise Refused(f"dnnl_{name}: {_STATUS.get(status, status)}")

    def make(self, name: str, *arguments: Any) -> int:
        """What a function that makes something makes; raises Refused."""
        made = c_void_p()
        self.call(name, byref(made), *arguments)
        assert made.value is not None
        return made.value

    def attributes(self) -> int:
        """For a primitive whose scratchpad is ours: the library's own belongs to the thread that
        made the primitive, and another thread that runs it crashes."""
        made = self.make("primitive_attr_create")
        self.call("primitive_attr_set_scratchpad_mode", made, _USER)
        return made

    def plain(self, shape: Sequence[int]) -> int:
        """A memory descriptor for an array in C order."""
        strides = [1]
        for size in reversed(shape[1:]):
            strides.insert(0, strides[0] * size)
        return self.make(
            "memory_desc_create_with_strides", len(shape), Dims(shape), _F32, Dims(strides)
        )

    def any(self, shape: Sequence[int]) -> int:
        """A memory descriptor whose layout the library is to choose."""
        return self.make("memory_desc_create_with_tag", len(shape), Dims(shape), _F32, _ANY)

    def same(self, one: int, other: int) -> bool:
        """Whether two memory descriptors are alike."""
        return bool(self._library.dnnl_memory_desc_equal(one, other))

    def size(self, desc: int) -> int:
        """In bytes."""
        return int(self._library.dnnl_memory_desc_get_size(desc))

    def chosen(self, primitive_desc: int, what: int, index: int = 0) -> int:
        """A copy of the memory descriptor that a primitive has for an argument."""
        found = self._library.dnnl_primitive_desc_query_md(primitive_desc, what, index)
        return self.make("memory_desc_clone", found)

    def implementation(self, primitive_desc: int) -> str:
        """Which kernel a primitive will be: ``jit:avx512_core``, ``ref:any`` and the like."""
        name = c_char_p()
        self.call("primitive_desc_query", primitive_desc, _QUERY_IMPLEMENTATION, 0, byref(name))
        return (name.value or b"").decode()


def _installed() -> Path:
    try:
        files = importlib.metadata.files(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        raise ImportError(f"{DISTRIBUTION} is not installed") from None
    for file in files:
        if file.name == LIBRARY and (path := Path(str(file.locate()))).is_file():
            return path.resolve()
    raise ImportError(f"{LIBRARY} of {DISTRIBUTION} is not there: install it anew")
