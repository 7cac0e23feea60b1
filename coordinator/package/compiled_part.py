"""A part of the model that tunefarm compiled, for one kind of CPU.

Needs apache-tvm-ffi and apache-tvm-ffi-orcjit; TVM's runtime is in the package. This file is copied
into packages and imports nothing of tunefarm's.
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent

Array = np.ndarray[Any, Any]

_ALIGNMENT_BYTES = 64
_LOADED = "runtime.NumThreads"  # a function that libtvm_runtime.so registers
_CPU, _POOLED_ALLOCATOR = 1, 2
_HUGE_PAGE_BYTES = 2 << 20
_MADV_COLLAPSE = 25  # Linux 6.1; not in the standard library's mmap

_loading = threading.Lock()


class CompiledPart:
    """Calls it: arrays in, arrays out, which are overwritten by the next call."""

    def __init__(
        self, part: Mapping[str, Any], manifest: Mapping[str, Any], num_threads: int | None
    ) -> None:
        """Load its object files; raises RuntimeError if this CPU can't run them."""
        _check_cpu(manifest)
        with _loading:
            _load_runtime(manifest, num_threads)
            before = _private_memory()
            self._kept, self._main, workspace = _load_main(HERE / part["files"])
            _use_huge_pages(_private_memory() - before)
        self._buffers = [_aligned(spec["shape"], spec["dtype"]) for spec in part["arguments"]]
        self._arguments = [*map(_tensor, self._buffers), *workspace]

    def __call__(self, arrays: Sequence[Array]) -> list[Array]:
        """Run it."""
        import tvm_ffi

        for buffer, array in zip(self._buffers, arrays, strict=True):
            np.copyto(buffer, array)
        result = self._main(*self._arguments)
        results = list(result) if isinstance(result, tvm_ffi.Array) else [result]
        return [np.from_dlpack(tensor) for tensor in results]


def _aligned(shape: Sequence[int], dtype: str) -> Array:
    """Kernels use aligned vector instructions; NumPy alone promises 16 bytes."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + _ALIGNMENT_BYTES, np.uint8)
    offset = -memory.ctypes.data % _ALIGNMENT_BYTES
    return memory[offset : offset + size].view(dtype).reshape(shape)


def _check_cpu(manifest: Mapping[str, Any]) -> None:
    """Raises RuntimeError instead of letting the first kernel die of an illegal instruction."""
    needed = manifest["architecture"]
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    name = manifest["model"]["name"]
    if machine != needed:
        raise RuntimeError(f"{name} was compiled for {needed}, this machine is {machine}")
    flags = _cpu_flags(needed)
    missing = sorted(set(manifest["cpu_features"]) - flags) if flags else []
    if missing:
        raise RuntimeError(
            f"{name} was compiled for {manifest['target']}; this CPU lacks {', '.join(missing)}. "
            "Tune the model for this machine"
        )


def _cpu_flags(architecture: str) -> set[str]:
    """None where the system says nothing, or speaks of another CPU, as below an emulated one."""
    key = {"aarch64": "Features", "x86_64": "flags"}.get(architecture)
    try:
        lines = Path(os.sep, "proc", "cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == key:
            return set(value.split())
    return set()


def _private_memory() -> set[tuple[int, int]]:
    """Where this process's writable memory that is no file's begins and ends; Linux only."""
    try:
        lines = Path(os.sep, "proc", "self", "maps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    found = set()
    for line in lines:
        addresses, access, _, _, inode, *name = line.split(maxsplit=5)
        if access == "rw-p" and inode == "0" and name in ([], ["[heap]"]):
            start, _, end = addresses.partition("-")
            found.add((int(start, 16), int(end, 16)))
    return found


def _use_huge_pages(memory: set[tuple[int, int]]) -> None:
    """Back it with pages of 2 MiB instead of 4 KiB, where the system can.

    Weights that are larger than the caches are read once in every run, and looking up their pages
    takes as long as reading them, in a virtual machine above all.
    """
    if not memory:
        return
    madvise = ctypes.CDLL(None).madvise
    for start, end in memory:
        first = -(-start // _HUGE_PAGE_BYTES) * _HUGE_PAGE_BYTES
        length = (end - first) // _HUGE_PAGE_BYTES * _HUGE_PAGE_BYTES
        if length > 0:
            # It is advice: a system that can't or won't take it says so, and all works as before.
            madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), _MADV_COLLAPSE)


def _load_runtime(manifest: Mapping[str, Any], num_threads: int | None) -> None:
    """Load libtvm_runtime.so once per process; a second copy would end the process."""
    import tvm_ffi

    tuned_for = int(manifest["num_threads"])
    if num_threads is not None:
        wanted = num_threads
    else:
        wanted = int(os.environ.get("TVM_NUM_THREADS") or tuned_for)
    already = tvm_ffi.get_global_func(_LOADED, allow_missing=True) is not None
    if not already:
        # Read once, when the pool starts. Without it TVM uses half of the CPUs.
        os.environ["TVM_NUM_THREADS"] = str(wanted)
        ctypes.CDLL(str(HERE / "libtvm_runtime.so"), ctypes.RTLD_GLOBAL)
    actual = int(tvm_ffi.get_global_func(_LOADED)())
    if actual != wanted:
        who = "something else in this process loaded TVM first" if already else "TVM decided so"
        warnings.warn(
            f"{manifest['model']['name']} should use {wanted} threads and will use {actual}: "
            f"{who}. Set TVM_NUM_THREADS={wanted} before the process starts",
            RuntimeWarning,
            stacklevel=6,
        )


def _tensor(buffer: Array) -> Any:
    import tvm_ffi

    return tvm_ffi.from_dlpack(buffer, require_alignment=_ALIGNMENT_BYTES)


def _load_main(folder: Path) -> tuple[Any, Any, list[Any]]:
    """What must be kept alive, the function to call, and its further arguments."""
    import tvm_ffi_orcjit

    objects = [path.read_bytes() for path in sorted(folder.glob("*.o"))]
    # Without cxx= it would look for a C++ compiler.
    module = tvm_ffi_orcjit.default_session().load_module(objects, cxx="nocxx")
    executable = module.get_function("vm_load_executable")()
    executable["vm_initialization"](_CPU, 0, _POOLED_ALLOCATOR)
    return (module, executable), executable["main"], list(executable["workspace"]())
