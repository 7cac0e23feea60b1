"""The child of ``tvm_process``: reads workloads and traces, a question and an answer a line."""

from __future__ import annotations

import base64
import functools
import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import IO, Any

from protos.records import canonical_json, sha256_hex

MAX_REASON = 200

SEED_KIND = "metaschedule-"
"""How the kinds of device begin whose records have no circumstances: no device is of one."""


def describe(workload_json: str) -> dict[str, Any]:
    """A workload of ours by its content: key, canonical text, parameters, arithmetic, and its
    number of outputs, None if that is not clear."""
    import tvm

    canonical = _canonical(tvm.ir.load_json(workload_json))
    try:
        outputs = _num_outputs(canonical["main"])
    except ValueError:  # of a kernel that hands its buffers to a function
        return {**_described(canonical), "num_outputs": None}
    return {**_described(canonical), "num_outputs": outputs}


def stock_workload(workload_json: str) -> dict[str, Any]:
    """The line of MetaSchedule's file of workloads that this workload is."""
    import tvm
    from tvm.s_tir.meta_schedule.database import Workload

    structural, encoded = Workload(tvm.ir.load_json(workload_json)).as_json()
    return {"line": json.dumps([str(structural), str(encoded)], separators=(",", ":"))}


def stock_target(target_json: str) -> dict[str, Any]:
    """A target as MetaSchedule's records have it, and the kind of device that stands for it."""
    import tvm

    exported = dict(tvm.target.Target(json.loads(target_json)).export())
    plain = {name: _plain(value) for name, value in exported.items()}
    text = canonical_json(plain)
    return {"target": plain, "kind": SEED_KIND + sha256_hex(text.encode())[:16]}


def from_stock_workload(structural: str, encoded: str) -> dict[str, Any]:
    """What ``describe`` says of a workload in MetaSchedule's file, and its number of outputs."""
    _original, canonical = _stock_modules(structural, encoded)
    return {**_described(canonical), "num_outputs": _num_outputs(canonical["main"])}


def from_stock_record(structural: str, encoded: str, trace: Any, target: Any) -> dict[str, Any]:
    """The trace of a record in MetaSchedule's file as one of the canonical workload."""
    from device_agent.build import register_intrinsics

    from .stock_traces import translated

    described = stock_target(json.dumps(target))
    register_intrinsics(canonical_json(described["target"]))
    original, canonical = _stock_modules(structural, encoded)
    text = translated(trace, original, canonical)
    return {"trace_json": text, "kind": described["kind"]}


@functools.lru_cache(maxsize=64)
def _stock_modules(structural: str, encoded: str) -> tuple[Any, Any]:
    """A workload as it was written, and in its canonical form; raises ValueError."""
    import tvm
    import tvm_ffi

    # What MetaSchedule writes is a string with its length before it, in base 64.
    text = base64.b64decode(encoded, validate=True)[8:].decode()
    module = tvm.ir.load_json(text)
    if (tvm_ffi.structural_hash(module) & (2**64 - 1)) != int(structural) & (2**64 - 1):
        raise ValueError("the structural hash is not that of the workload beside it")
    return module, _canonical(module)


def _canonical(module: Any) -> Any:
    import tvm

    from coordinator.frontend.workload import canonical_workload

    if not isinstance(module, tvm.IRModule):
        raise ValueError(f"a {type(module).__name__} where a module should be")
    names = [variable.name_hint for variable in module.get_global_vars()]
    if names != ["main"] or not isinstance(module["main"], tvm.tirx.PrimFunc):
        raise ValueError("a module with something else than one kernel named main")
    return canonical_workload(module["main"])


def _described(canonical: Any) -> dict[str, Any]:
    import tvm

    from coordinator.frontend.workload import argument_specs, workload_key

    return {
        "key": workload_key(canonical),
        "workload_json": tvm.ir.save_json(canonical),
        "args": [[list(spec.shape), spec.dtype] for spec in argument_specs(canonical["main"])],
        "flops": _flops(canonical),
    }


def _flops(module: Any) -> float:
    from tvm.s_tir.analysis import estimate_tir_flops

    try:
        return float(estimate_tir_flops(module))
    except Exception:  # sorting and the like are no loops over blocks; a task's estimate is 0, too
        return 0.0


def _num_outputs(function: Any) -> int:
    """How many of the last parameters the blocks write; raises ValueError if that is not clear."""
    from .stock_traces import blocks

    written = [region.source for block in blocks(function) for region in block.writes]
    of_parameter = [any(buffer.same_as(p) for buffer in written) for p in function.params]
    number = sum(of_parameter)
    if not number or not all(of_parameter[-number:]):
        raise ValueError("its outputs are not its last parameters")
    return number


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return str(value)
    if hasattr(value, "items"):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, Iterable):
        return [_plain(item) for item in value]
    raise ValueError(f"a target with a {type(value).__name__}")


OPERATIONS: dict[str, Callable[..., dict[str, Any]]] = {
    function.__name__: function
    for function in (describe, stock_workload, stock_target, from_stock_workload, from_stock_record)
}


def _answer(line: bytes) -> dict[str, Any]:
    try:
        operation, arguments = json.loads(line)
        return OPERATIONS[operation](**arguments)
    except Exception as error:  # whatever TVM says of what it was given is an answer
        words = " ".join(str(error).strip().partition("\n\n")[0].split())
        return {"refused": f"{type(error).__name__}: {words[:MAX_REASON]}"}


def main(questions: IO[bytes], answers: IO[bytes]) -> None:
    """Answer until there are no more questions."""
    for line in questions:
        answers.write(json.dumps(_answer(line)).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    # What TVM itself prints must not come between the answers.
    _answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    main(sys.stdin.buffer, _answers)
