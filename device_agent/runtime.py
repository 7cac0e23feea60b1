"""TVM's runtime without TVM's Python package: find it, load it, load kernels into it.

``tvm_ffi`` and ``tvm_ffi_orcjit`` are imported inside ``load_runtime`` only: it belongs into the
zygote and its children, never into the process that speaks gRPC.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
import platform
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protos import errors

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)

RUNTIME_ENVIRONMENT = "TUNEFARM_TVM_RUNTIME"
LIBRARY = "libtvm_runtime.so"
ALIGNMENT_BYTES = 64
"""What TVM's generated code assumes of a buffer; NumPy gives 16."""

_CPU_DEVICE_TYPE = 1
_ONE_CORE_PER_THREAD = -2  # threading::ThreadGroup::kSpecifyOneCorePerThread
_LIMIT_ZERO_TIME_ITERATIONS = 100
_NO_COMPILER = "nocxx"
"""A C++ compiler that there isn't: without a name the linker's wrapper would run ``c++``."""

_ELF_MACHINES = {"x86_64": 62, "aarch64": 183}


def find_runtime() -> Path:
    """The runtime library; raises Unavailable with what to do if there is none."""
    configured = os.environ.get(RUNTIME_ENVIRONMENT)
    if configured:
        path = Path(configured)
        if path.is_file():
            return path
        raise errors.Unavailable(f"{RUNTIME_ENVIRONMENT}={configured} is not a file")
    bundled = Path(sys.prefix) / "lib" / LIBRARY
    if bundled.is_file():
        return bundled
    try:
        spec = importlib.util.find_spec("tvm")  # finds a top-level package without importing it
    except (ImportError, ValueError):
        spec = None
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place) / "lib" / LIBRARY
        if path.is_file():
            return path
    raise errors.Unavailable(
        f"{LIBRARY} is not on this device. Install the bundle of `tunefarm agent bundle`, or unzip "
        f"tvm/lib/{LIBRARY} from the apache-tvm wheel for this architecture and set "
        f"{RUNTIME_ENVIRONMENT} to the file, or pip install apache-tvm"
    )


@dataclass(frozen=True)
class Kernel:
    """A loaded artifact with its arguments, ready to run."""

    run: Callable[[], object]
    evaluate: Callable[[int, int, int, int], tuple[float, ...]]


@dataclass(frozen=True)
class Runtime:
    """What a process needs to run kernels; made once, before the first fork."""

    ffi: Any
    session: Any
    time_evaluator: Any
    config_threadpool: Any

    def pin(self, cpus: Sequence[int], num_threads: int) -> None:
        """Give each of TVM's threads a CPU of its own, this thread the first.

        By itself TVM pins its pool to the first CPUs of the machine, whatever this process is
        bound to. Creates the pool: call it after the fork.
        """
        chosen = sorted(cpus)[:num_threads]
        self.config_threadpool(_ONE_CORE_PER_THREAD, num_threads, [str(cpu) for cpu in chosen])
        os.sched_setaffinity(0, chosen[:1])

    def load(self, artifact: bytes) -> Any:
        """The function ``main`` of an object file; raises what the linker raises."""
        module = self.session.load_module(artifact, cxx=_NO_COMPILER)
        return module, module["main"]

    def bind(self, loaded: Any, arrays: Sequence[np.ndarray[Any, Any]]) -> Kernel:
        """The loaded function on these arrays."""
        module, main = loaded
        args = [self.ffi.from_dlpack(array, require_alignment=ALIGNMENT_BYTES) for array in arrays]

        def evaluate(
            number: int, repeat: int, min_repeat_ms: int, flush_bytes: int
        ) -> tuple[float, ...]:
            evaluator = self.time_evaluator(
                module,
                "main",
                _CPU_DEVICE_TYPE,
                0,
                number,
                repeat,
                min_repeat_ms,
                _LIMIT_ZERO_TIME_ITERATIONS,
                0,  # cool-down, milliseconds
                1,  # repeats between cool-downs
                flush_bytes,
                "",
            )
            return struct.unpack(f"@{repeat}d", evaluator(*args))

        return Kernel(run=lambda: main(*args), evaluate=evaluate)


def _look_for_no_compiler(session: Any) -> None:
    """Have the first load over with: it starts processes to look for a C++ compiler, and the answer
    (there is none called ``nocxx``) is remembered for every child that is forked from here.

    What is loaded is an object file with nothing in it. One that is refused would cost 25 MB, for
    the tables of the linker's own functions that its error is told with.
    """
    machine = _ELF_MACHINES.get(platform.machine())
    if machine is not None:
        session.load_module(_empty_object(machine), cxx=_NO_COMPILER)


def _empty_object(machine: int) -> bytes:
    """An ELF header, of 64 bits, little-endian and relocatable, with no sections after it."""
    identity = b"\x7fELF" + bytes((2, 1, 1))
    header = (identity, 1, machine, 1, 0, 0, 0, 0, 64, 0, 0, 64, 0, 0)
    return struct.pack("<16sHHIQQQIHHHHHH", *header)


def load_runtime() -> Runtime:
    """Load TVM's runtime into this process; raises Unavailable if it is not on this device."""
    library = find_runtime()
    try:
        import tvm_ffi  # first: the library needs its symbols
        import tvm_ffi_orcjit
    except ImportError as error:
        raise errors.Unavailable(
            f"{error.name} is not installed on this device: pip install 'tunefarm[agent]'"
        ) from error
    ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    session = tvm_ffi_orcjit.default_session()
    _look_for_no_compiler(session)
    return Runtime(
        tvm_ffi,
        session,
        tvm_ffi.get_global_func("runtime.RPCTimeEvaluator"),
        tvm_ffi.get_global_func("runtime.config_threadpool"),
    )
