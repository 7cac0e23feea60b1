"""From a candidate to an artifact: the only part of the agent that needs TVM.

The coordinator's builders call it too. TVM is imported inside the functions, because importing this
module must cost nothing where there is no compiler.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import json
import logging
import platform
import sys
import tempfile
import time
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_agent import vector_math
from protos import errors, host_lock
from protos.records import Artifact, MeasurementStatus, TensorSpec

log = logging.getLogger(__name__)

MAX_ERROR_CHARACTERS = 600

LLVM_OPTIONS = {"": ("-vectorize-slp=0",), "x86": ("-vectorize-slp=0", "-disable-lsr")}
"""For a family of CPUs; "" is any other. What takes long in a build and makes neither tuned nor
untuned programs faster (docs/performance.md). A schedule says what becomes a vector; LLVM's search
for more of them in straight-line code takes up to half of a build and makes depthwise convolutions
slower. Strength reduction of addresses is another tenth; x86 has modes for them, and on ARM nobody
has measured it. Level 2 would build faster still, but untuned programs are slower with it."""

CODEGEN = "2"
"""Counts up when the same candidate becomes other code: 2 since exp, erf and tanh are vectors."""

INTRINSICS = {"x86": ("x86",), "arm": ("arm_cpu",)}
"""Sub-modules of tvm.s_tir.tensor_intrin that a family of CPUs needs; others need none."""


@dataclass(frozen=True)
class BuildOutcome:
    """What became of a candidate in the compiler.

    ``args`` are the parameters of the *built* function: a candidate that packs its weights has
    another shape there than its workload.
    """

    artifact: Artifact | None
    status: MeasurementStatus
    error: str
    build_s: float
    args: tuple[TensorSpec, ...]


def parse_target(target_json: str) -> Any:
    """The TVM target that this JSON describes.

    Raises BadTarget if TVM refuses it or if it does not say how many threads a kernel may use.
    """
    import tvm

    try:
        target = tvm.target.Target(json.loads(target_json))
    except Exception as error:  # TVM's refusals have no common type
        raise errors.BadTarget(f"TVM refuses the target {target_json}: {_first(error)}") from error
    if not target.attrs.get("num-cores"):
        raise errors.BadTarget(
            f'the target {target_json} has no "num-cores", the threads that a kernel may use'
        )
    return target


def llvm_options(target_json: str) -> tuple[str, ...]:
    """What LLVM is told for every kernel of this target."""
    return LLVM_OPTIONS.get(cpu_family(target_json), LLVM_OPTIONS[""])


def code_target(target_json: str) -> Any:
    """The target as code is generated for it, of candidates and of whole models alike."""
    import tvm

    described = json.loads(target_json)
    options = [*described.get("cl-opt", []), *llvm_options(target_json)]
    return tvm.target.Target({**described, "cl-opt": options})


def code_generation() -> Any:
    """The pass context for generating code, of candidates and of whole models alike.

    A kernel does not check its arguments: the farm passes what the workload says, and the checks
    with their messages are half of a small kernel's code.
    """
    import tvm

    vector_math.register()
    level = tvm.transform.PassContext.current().opt_level
    return tvm.transform.PassContext(opt_level=level, config={"tirx.disable_assert": True})


def cpu_family(target_json: str) -> str:
    """``x86``, ``arm`` or the machine's own word for something else."""
    target = json.loads(target_json)
    triple = str(target.get("mtriple", "")) if isinstance(target, dict) else ""
    machine = (triple.partition("-")[0] or platform.machine()).lower()
    if machine in ("x86_64", "amd64", "i386", "i686"):
        return "x86"
    return "arm" if machine.startswith(("aarch64", "arm")) else machine


def register_intrinsics(target_json: str) -> None:
    """Make known to TVM the tensor intrinsics that traces for this target may name.

    The package's own ``__init__`` parses every intrinsic of every target, 26 s of CPU; so a bare
    package takes its place, and only what this family of CPUs needs is imported from it.
    """
    import tvm

    name = "tvm.s_tir.tensor_intrin"
    if name not in sys.modules:
        package = types.ModuleType(name)
        package.__path__ = [str(Path(tvm.__file__).parent / "s_tir" / "tensor_intrin")]
        sys.modules[name] = package
    for module in INTRINSICS.get(cpu_family(target_json), ()):
        importlib.import_module(f"{name}.{module}")


def build_kernel(workload_json: str, trace_json: str, target_json: str) -> BuildOutcome:
    """Schedule and compile one candidate; the empty trace is the untuned program.

    Takes ``host_lock.working()`` for the time it works, which must not be held already. What the
    compiler refuses is an outcome with BUILD_ERROR. Raises BadTarget, and Unavailable if the object
    can't be written: that is not the candidate's fault.
    """
    with host_lock.working():
        started = time.monotonic()
        parse_target(target_json)
        register_intrinsics(target_json)
        try:
            data, args = _compile(workload_json, trace_json, code_target(target_json))
        except OSError as error:  # TVM's own are RuntimeErrors
            raise errors.Unavailable(f"{platform.node()} can't build: {error}") from error
        except Exception as error:  # whatever the compiler says of a candidate is data
            log.debug("candidate does not build: %s", error)
            build_s = time.monotonic() - started
            return BuildOutcome(None, MeasurementStatus.BUILD_ERROR, _first(error), build_s, ())
        build_s = time.monotonic() - started
        return BuildOutcome(Artifact.of(data), MeasurementStatus.OK, "", build_s, args)


@functools.lru_cache(maxsize=64)
def _workload(workload_json: str) -> Any:
    """The module; reading it costs a tenth of a build, and a task's candidates share it."""
    import tvm

    return tvm.ir.load_json(workload_json)


def _compile(
    workload_json: str, trace_json: str, target: Any
) -> tuple[bytes, tuple[TensorSpec, ...]]:
    import tvm
    from tvm.s_tir import Schedule
    from tvm.s_tir.schedule import Trace
    from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

    mod = _workload(workload_json)
    if trace_json:
        schedule = Schedule(mod)
        Trace.apply_json_to_schedule(json.loads(trace_json), schedule)
        mod = schedule.mod
    mod = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(mod)
    args = parameters(mod)
    with code_generation():
        executable = tvm.compile(mod, target=target)
    with tempfile.TemporaryDirectory(prefix="tunefarm-build-") as directory:
        path = Path(directory) / "k.o"
        executable.mod.write_to_file(str(path))
        return path.read_bytes(), args


def parameters(mod: Any) -> tuple[TensorSpec, ...]:
    """Shapes and dtypes of the parameters of ``main``, in order."""
    return tuple(
        TensorSpec(tuple(int(size) for size in buffer.shape), str(buffer.dtype))
        for buffer in mod["main"].params  # since 0.27 the parameters are the buffers
    )


def tool_versions() -> dict[str, str]:
    """What a build depends on besides its inputs."""
    import tvm
    from tvm.target.codegen import llvm_version_major

    return {
        "tvm": str(tvm.__version__),
        "tvm-ffi": importlib.metadata.version("apache-tvm-ffi"),
        "llvm": str(llvm_version_major()),
        "codegen": CODEGEN,
    }


def _first(error: BaseException) -> str:
    """One paragraph of what TVM says: it appends whole programs and C++ stacks."""
    text = str(error)
    for marker in ("Error message:", "error message:"):
        text = text.rpartition(marker)[2]
    paragraph = " ".join(text.strip().partition("\n\n")[0].split())
    return f"{type(error).__name__}: {paragraph[:MAX_ERROR_CHARACTERS]}"
