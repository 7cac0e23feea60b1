"""The whole model with its best schedules in it, compiled to object files."""

from __future__ import annotations

import io
import json
import logging
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.package.wheel import PartFiles
from protos.engines import REFERENCE_ENGINE
from protos.errors import JobFailed
from protos.records import OWN, UNTUNED_TRACE, Task

from .engine_parts import engine_part
from .workspace import pipeline

if TYPE_CHECKING:
    from coordinator.frontend.importer import ImportedPart

log = logging.getLogger(__name__)

_ARCHIVE_TIME = 315_532_800
"""1980, the first moment that every archive format can express; equal code gives equal bytes."""


def compile_parts(
    parts: Sequence[ImportedPart], target_json: str, traces: Mapping[str, str]
) -> tuple[PartFiles, ...]:
    """All parts of a model as a package keeps them; raises JobFailed, see ``compile_model``."""
    return tuple(_part_files(part, target_json, traces) for part in parts)


def _part_files(part: ImportedPart, target_json: str, traces: Mapping[str, str]) -> PartFiles:
    if not part.ours:
        found = engine_part(REFERENCE_ENGINE, part.onnx, part.inputs, part.outputs)
        assert isinstance(found, PartFiles), "it reads every ONNX file"
        return found
    own = {key: trace for key, trace in traces.items() if key in part.workloads}
    objects = compile_model(part.module_json, target_json, own)
    return PartFiles(OWN, part.inputs, part.outputs, objects, part.arguments)


def compile_region(
    part: ImportedPart, target_json: str, traces: Mapping[str, str]
) -> tuple[PartFiles, ...]:
    """A region of a model, like ``compile_parts``; what has no record does not stay untuned.

    Transposes at its ends, and what is cut in two there, are kernels that the whole model does not
    have. They get a program that is drawn from the search's space.
    """
    drawn = _drawn(part.module_json, target_json, traces) if part.ours else {}
    return compile_parts((part,), target_json, {**drawn, **traces})


def _drawn(module_json: str, target_json: str, traces: Mapping[str, str]) -> dict[str, str]:
    """A trace for each kernel without one, by workload key."""
    import tvm
    from tvm.tirx import PrimFunc

    from ..frontend.workload import ENTRY, canonical_workload, workload_key
    from ..search.evolution import Evolution
    from ..search.traces import trace_to_json

    _register_intrinsics(target_json)
    target = tvm.target.Target(json.loads(target_json))
    found: dict[str, str] = {}
    for variable, function in tvm.ir.load_json(module_json).functions.items():
        if isinstance(function, PrimFunc):
            key = workload_key(tvm.IRModule({ENTRY: function.with_attr("global_symbol", ENTRY)}))
            if key not in traces and key not in found:
                name, workload = variable.name_hint, canonical_workload(function)
                try:
                    drawn = Evolution(workload, target, name, seed=0).sample([False])
                except Exception as error:  # whatever the compiler raises: it can do without
                    log.warning("%s stays untuned in its region: %s", name, _first_line(error))
                    continue
                found.update((key, trace_to_json(one.trace)) for one in drawn)
    return found


def compile_model(module_json: str, target_json: str, traces: Mapping[str, str]) -> bytes:
    """A tar of object files (``*.o``) that hold a Relax VM executable, weights included.

    ``module_json`` is an ImportedPart's; ``traces`` maps workload keys to traces in JSON. Kernels
    without a trace stay untuned, so no traces make the untuned model. Raises JobFailed, naming the
    kernel, if a trace can't be applied, or if the result does not compile.
    """
    import tvm
    from tvm import relax

    from device_agent.build import code_generation, code_target

    target = code_target(target_json)
    module = tvm.ir.load_json(module_json)
    wanted = {key: trace for key, trace in traces.items() if trace != UNTUNED_TRACE}
    if wanted:
        _register_intrinsics(target_json)
        module = _apply_traces(module, target, wanted)
    try:
        # "compiled": the calls between the kernels are machine code, too, not bytecode.
        with code_generation(), target:
            executable = relax.build(
                module, target, relax_pipeline=pipeline(target), exec_mode="compiled"
            )
        return _object_files(executable)
    except Exception as error:
        raise JobFailed(f"the model does not compile: {_first_line(error)}") from error


def _register_intrinsics(target_json: str) -> None:
    """Traces may tensorise; the intrinsics' package costs 26 s to import, this target's alone 1."""
    from device_agent.build import register_intrinsics

    register_intrinsics(target_json)


def _apply_traces(module: Any, target: Any, traces: Mapping[str, str]) -> Any:
    import tvm
    from tvm.tirx import PrimFunc

    from ..frontend.workload import ENTRY, canonical_workload, workload_key

    unused = set(traces)
    functions = {}
    for variable, function in module.functions.items():
        if isinstance(function, PrimFunc):
            named = tvm.IRModule({ENTRY: function.with_attr("global_symbol", ENTRY)})
            key = workload_key(named)
            if key in traces:
                unused.discard(key)
                scheduled = apply_trace(
                    canonical_workload(function), target, traces[key], variable.name_hint
                )
                function = scheduled[ENTRY].without_attr("global_symbol")
        functions[variable] = function
    if unused:
        raise JobFailed(f"the model has no kernel for the traces of workloads {sorted(unused)}")
    return tvm.IRModule(functions, attrs=module.attrs)


def refused_traces(
    tasks: Sequence[Task], target_json: str, chosen: Sequence[Mapping[str, str]]
) -> set[tuple[str, str]]:
    """The workload keys and traces, of these choices of a trace for each key, that don't apply.

    Some that were built and timed once don't apply any more: what they take apart is put together
    in another way by TVM's simplifier when it is done again.
    """
    import tvm

    from device_agent.build import code_target

    _register_intrinsics(target_json)
    target = code_target(target_json)
    refused = set()
    for task in tasks:
        for trace in {choice.get(task.workload_key, UNTUNED_TRACE) for choice in chosen}:
            if trace != UNTUNED_TRACE:
                try:
                    apply_trace(tvm.ir.load_json(task.workload_json), target, trace, task.name)
                except JobFailed:
                    refused.add((task.workload_key, trace))
    return refused


def apply_trace(workload: Any, target: Any, trace_json: str, name: str) -> Any:
    """The scheduled IRModule; raises JobFailed with ``name`` and the trace if it does not apply."""
    from tvm.s_tir import Schedule
    from tvm.s_tir.schedule import Trace
    from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

    try:
        with target:
            schedule = Schedule(workload, error_render_level="fast")
            Trace.apply_json_to_schedule(json.loads(trace_json), schedule)
            scheduled = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(schedule.mod)
    except Exception as error:  # TVM's have no common base, and every one means the same here
        raise JobFailed(
            f"kernel {name!r}: this trace does not apply ({_first_line(error)}): {trace_json:.2000}"
        ) from error
    return scheduled


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _object_files(executable: Any) -> bytes:
    """TVM hands the object files to its 'linker'; ours packs them."""
    found: dict[str, bytes] = {}

    def collect(_output: str, files: list[str], **_options: object) -> None:
        for path in map(Path, files):
            found[path.name] = path.read_bytes()

    collect.output_format = "tar"  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory(prefix="tunefarm-compile-") as directory:
        executable.export_library(
            str(Path(directory) / "model.tar"), fcompile=collect, workspace_dir=directory
        )
    return pack_objects(found)


def pack_objects(files: Mapping[str, bytes]) -> bytes:
    """A tar of these files that depends on their names and contents alone."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(files):
            info = tarfile.TarInfo(name)
            info.size = len(files[name])
            info.mtime = _ARCHIVE_TIME
            archive.addfile(info, io.BytesIO(files[name]))
    return buffer.getvalue()
