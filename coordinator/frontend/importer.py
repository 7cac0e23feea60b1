"""The compiler's front half: an ONNX model into lowered Relax modules and their tasks.

Most models become one module. Of one with operators that can't be imported, each part between them
becomes a module, and they stay ONNX for ONNX Runtime (``parts``).
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from protos.errors import BadModel
from protos.records import Shape, Task, TensorSpec

from .chains import merged
from .concats import dissolve_concats
from .dequantised import dequantise_constants
from .flat_maps import flatten_maps
from .layouts import channels_last
from .legalization import Algorithms, legalize
from .one_hot import look_up
from .onnx_model import (
    cannot_import,
    fold,
    graph_inputs,
    load_model,
    operator,
    unsupported_operators,
)
from .parts import cut, open_shapes
from .regions import region_starts, slices
from .rewrite import multiply_by_reciprocals, split_up
from .tasks import extract_tasks, merge_tasks
from .transposes import lay_out_constants
from .upsampling import as_products, sink_shuffles
from .variants import Variant, find_variants, of_one_kind
from .views import sink_reshapes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tensor:
    """An input or output: its name in the model, and what it holds."""

    name: str
    spec: TensorSpec


@dataclass(frozen=True)
class ImportedPart:
    """A part of a model, either of ours or ONNX Runtime's.

    ``module_json`` of a part of ours is TVM's serialised IRModule with ``main`` and its kernels,
    weights included (base 64), ``arguments`` are main's parameters and ``workloads`` the keys of
    its tasks. ``onnx`` is ONNX Runtime's model. ``inputs`` and ``outputs`` are ONNX names, in the
    order of main's parameters and results.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    module_json: str = field(default="", repr=False)
    arguments: tuple[TensorSpec, ...] = ()
    workloads: frozenset[str] = frozenset()
    onnx: bytes = field(default=b"", repr=False)

    @property
    def ours(self) -> bool:
        """Whether it is to be tuned."""
        return bool(self.module_json)


@dataclass(frozen=True)
class ImportedModel:
    """A model ready to be tuned and compiled: its parts in the order in which they run.

    ``tasks`` are those of all parts; ``theirs`` names the operators that ONNX Runtime runs.
    ``algorithms`` says how what is not computed directly is; ``variants`` could be had
    instead of direct ones, with ``variant_tasks``, which the model does not have as it is.
    """

    parts: tuple[ImportedPart, ...]
    tasks: tuple[Task, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    stage_s: Mapping[str, float]
    theirs: tuple[str, ...] = ()
    algorithms: Algorithms = field(default_factory=dict)
    variants: tuple[Variant, ...] = ()
    variant_tasks: tuple[Task, ...] = ()

    @property
    def all_tasks(self) -> tuple[Task, ...]:
        """Those of the model as it is, and with a weight of 0 those that it has with variants."""
        own = {task.workload_key for task in self.tasks}
        return (*self.tasks, *(t for t in self.variant_tasks if t.workload_key not in own))


class _Stages:
    """Seconds by stage, for the log."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 3)


def import_model(
    data: bytes,
    shapes: Mapping[str, Shape],
    target_json: str,
    algorithms: Algorithms | None = None,
) -> ImportedModel:
    """Fold, import, lower and fuse a model, and find its tasks.

    Its convolutions are direct, with what else they could be in ``variants``; or they are what
    ``algorithms`` says. Takes from a second to a minute. What can't be imported is left to ONNX
    Runtime, with what lies between; raises BadModel if that leaves nothing to be tuned, and for
    what can't be lowered.
    """
    stage = _Stages()
    with stage("compiler"):
        import tvm  # noqa: F401
        from tvm import relax  # noqa: F401
    with stage("prepass"):
        folded = fold(load_model(data, shapes))
    parts, tasks, theirs = _import_parts(folded, target_json, stage, algorithms or {})
    with stage("variants"):
        variants, variant_tasks = _variants(parts, target_json) if algorithms is None else ((), ())
    log.info("imported %d tasks in %s s", len(tasks), stage.seconds)
    known = {tensor.name: tensor for part in parts for tensor in part.tensors}
    return ImportedModel(
        parts=tuple(part.part for part in parts),
        tasks=tasks,
        inputs=tuple(known.get(v.name) or _tensor(v) for v in graph_inputs(folded.graph)),
        outputs=tuple(known.get(v.name) or _tensor(v) for v in folded.graph.output),
        stage_s=stage.seconds,
        theirs=theirs,
        algorithms=dict(algorithms or {}),
        variants=variants,
        variant_tasks=variant_tasks,
    )


def _variants(
    parts: Sequence[_Imported], target_json: str
) -> tuple[tuple[Variant, ...], tuple[Task, ...]]:
    """Those of all parts of ours, and the tasks that the model has with them only."""
    found: list[Variant] = []
    tasks: list[tuple[Task, ...]] = []
    for part in parts:
        if part.part.ours:
            lower = partial(_lower, part.module, target_json)
            ways, made = find_variants(part.module, part.tasks, lower)
            found += ways
            tasks.append(made)
    return of_one_kind(found), merge_tasks(tasks)


@dataclass(frozen=True)
class Region:
    """A slice of a model: as a part of ours, None if it can't be imported or was not asked for, and
    as an ONNX file for an engine. ``kernels`` says how often ours runs each workload, those in
    ``arithmetic`` do more than move numbers."""

    ours: ImportedPart | None
    kernels: Mapping[str, int]
    arithmetic: frozenset[str]
    onnx: bytes = field(repr=False)
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    first: str
    last: str


def import_regions(
    data: bytes,
    shapes: Mapping[str, Shape],
    target_json: str,
    starts: Sequence[int],
    wanted: Sequence[bool],
    algorithms: Algorithms,
) -> tuple[Region, ...]:
    """The regions of a model that begin at these of its nodes; those ``wanted`` imported, with
    their convolutions as ``algorithms`` says.

    Raises BadModel, see ``fold``.
    """
    folded = fold(load_model(data, shapes))
    return tuple(
        _region(part, target_json, algorithms if ours else None)
        for part, ours in zip(slices(folded, starts), wanted, strict=True)
    )


def _region(model: Any, target_json: str, algorithms: Algorithms | None) -> Region:
    """Imported if ``algorithms`` is not None."""
    ours, kernels = None, {}
    arithmetic: frozenset[str] = frozenset()
    if algorithms is not None:
        try:
            imported = _import_part(model, target_json, _Stages(), algorithms)
            ours, kernels = imported.part, {t.workload_key: t.weight for t in imported.tasks}
            arithmetic = frozenset(t.workload_key for t in imported.tasks if t.flops)
        except _RefusedError as error:
            log.info("a region is no part of ours: %s", error)
    nodes = model.graph.node
    return Region(
        ours,
        kernels,
        arithmetic,
        model.SerializeToString(),
        tuple(map(_tensor, graph_inputs(model.graph))),
        tuple(map(_tensor, model.graph.output)),
        operator(nodes[0]),
        operator(nodes[-1]),
    )


def find_regions(data: bytes, shapes: Mapping[str, Shape], most: int) -> tuple[int, ...]:
    """Where the regions of a model begin, see ``region_starts``; raises BadModel, see ``fold``."""
    return region_starts(fold(load_model(data, shapes)), most)


@dataclass(frozen=True)
class _Imported:
    """A part, its tasks, the tensors that it reads and writes, and its module before it was
    lowered, if it is ours."""

    part: ImportedPart
    tasks: tuple[Task, ...]
    tensors: tuple[Tensor, ...]
    module: Any = None


class _RefusedError(Exception):
    """A part can't be imported; ``output`` is the first one of the node that is to blame, if any
    is known."""

    def __init__(self, reason: BadModel, output: str | None = None) -> None:
        super().__init__(str(reason))
        self.reason = reason
        self.output = output


def _import_parts(
    folded: Any, target_json: str, stage: _Stages, algorithms: Algorithms
) -> tuple[list[_Imported], tuple[Task, ...], tuple[str, ...]]:
    """Cut the model until all parts of ours can be imported."""
    refused = unsupported_operators(folded)
    reason = cannot_import(list(refused.values())) if refused else None
    while True:
        cuts = cut(folded, refused)
        if reason is not None and not any(one.ours for one in cuts):
            raise reason
        try:
            parts = [
                _import_part(one.model, target_json, stage, algorithms)
                if one.ours
                else _theirs(one.model)
                for one in cuts
            ]
        except _RefusedError as error:
            reason = reason or error.reason
            more = _to_blame(folded, error.output, refused)
            if not more:
                raise error.reason from error
            log.info("%s; ONNX Runtime gets it: %s", error, ", ".join(more.values()))
            refused |= more
            continue
        return parts, merge_tasks([part.tasks for part in parts]), tuple(refused.values())


def _to_blame(folded: Any, output: str | None, refused: Mapping[int, str]) -> dict[int, str]:
    """Further nodes for ONNX Runtime: the one that computes ``output``, or all whose tensors have
    no fixed shape."""
    nodes = enumerate(folded.graph.node)
    if output is not None:
        found = {index: node for index, node in nodes if output in node.output}
    else:
        found = {index: folded.graph.node[index] for index in open_shapes(folded)}
    return {i: operator(node, i) for i, node in found.items() if i not in refused}


def _import_part(model: Any, target_json: str, stage: _Stages, algorithms: Algorithms) -> _Imported:
    """Import, lower and fuse a part of ours; raises _RefusedError."""
    import tvm

    with stage("import"):
        module = _from_onnx(model)
    try:
        with stage("prepare"):
            prepared = _prepare(module, target_json)
        with stage("lower"):
            lowered = _lower(prepared, target_json, algorithms)
        with stage("tasks"):
            tasks = extract_tasks(lowered)
        inputs, outputs = _inputs(model, module["main"]), _outputs(model, lowered["main"])
    except BadModel as error:
        raise _RefusedError(error) from error
    with stage("save"):
        module_json = tvm.ir.save_json(lowered)
    part = ImportedPart(
        inputs=tuple(tensor.name for tensor in inputs),
        outputs=tuple(tensor.name for tensor in outputs),
        module_json=module_json,
        arguments=tuple(tensor.spec for tensor in inputs),
        workloads=frozenset(task.workload_key for task in tasks),
    )
    return _Imported(part, tasks, (*inputs, *outputs), prepared)


def _theirs(model: Any) -> _Imported:
    """A part that ONNX Runtime runs as it is."""
    part = ImportedPart(
        inputs=tuple(value.name for value in model.graph.input),
        outputs=tuple(value.name for value in model.graph.output),
        onnx=model.SerializeToString(),
    )
    return _Imported(part, (), ())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """TVM's importer prints, and warns about every name that it changes."""
    printed = io.StringIO()
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(printed):
        warnings.simplefilter("always")
        try:
            yield
        finally:
            for warning in caught:
                log.debug("importer: %s", warning.message)
            if printed.getvalue():
                log.debug("importer: %.500s", printed.getvalue())


def _from_onnx(model: Any) -> Any:
    from tvm.relax.frontend.onnx import from_onnx

    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in graph_inputs(model.graph)
    }
    try:
        with _quiet():
            return from_onnx(model, shape_dict=shapes, keep_params_in_input=False)
    except Exception as error:
        node = _node_in(error)
        where = f"operator {operator(node)}" if node is not None else "the model"
        reason = BadModel(f"{where} can't be imported: {_first_line(error)}")
        raise _RefusedError(reason, node.output[0] if node is not None else None) from error


def _node_in(error: BaseException) -> Any:
    """The node that the importer was at; its exceptions don't say, its frame does."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "_construct_nodes":
            return frame.f_locals.get("node")
    return None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _prepare(module: Any, target_json: str) -> Any:
    """What is done to the operators before it is decided how each is computed."""
    import tvm
    from tvm import relax

    canonical = tvm.transform.Sequential(
        [relax.transform.DecomposeOpsForInference(), relax.transform.CanonicalizeBindings()]
    )
    with _lowering(target_json):
        module = multiply_by_reciprocals(dequantise_constants(canonical(split_up(look_up(module)))))
        module = as_products(dissolve_concats(lay_out_constants(module)))
        return sink_reshapes(flatten_maps(sink_shuffles(channels_last(module))))


def _lower(prepared: Any, target_json: str, algorithms: Algorithms) -> Any:
    """Operators into fused kernels."""
    from tvm import relax

    with _lowering(target_json):
        return merged(relax.get_pipeline("zero")(legalize(prepared, algorithms)))


@contextlib.contextmanager
def _lowering(target_json: str) -> Iterator[None]:
    import tvm

    try:
        with tvm.target.Target(json.loads(target_json)), _quiet():
            yield
    except Exception as error:
        raise BadModel(f"the compiler could not lower the model: {_first_line(error)}") from error


def _inputs(model: Any, main: Any) -> tuple[Tensor, ...]:
    names = [value.name for value in graph_inputs(model.graph)]
    return tuple(
        Tensor(name, _spec(name, parameter.ty))
        for name, parameter in zip(names, main.params, strict=True)
    )


def _outputs(model: Any, main: Any) -> tuple[Tensor, ...]:
    from tvm import relax

    names = [value.name for value in model.graph.output]
    result = main.ret_ty
    types = list(result.fields) if isinstance(result, relax.TupleType) else [result]
    return tuple(Tensor(name, _spec(name, kind)) for name, kind in zip(names, types, strict=True))


def _spec(name: str, kind: Any) -> TensorSpec:
    from tvm import relax

    if not isinstance(kind, relax.TensorType):
        raise BadModel(f"{name!r} is no tensor ({kind})")
    try:
        shape = tuple(int(dim) for dim in kind.shape)
    except TypeError:
        raise _open(name) from None
    return TensorSpec(shape, str(kind.dtype))


def _tensor(value: Any) -> Tensor:
    """Of a tensor that only ONNX Runtime reads or writes; raises BadModel if its shape is open."""
    import onnx

    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or any(not dim.dim_value for dim in tensor.shape.dim):
        raise _open(value.name)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return Tensor(value.name, TensorSpec(tuple(d.dim_value for d in tensor.shape.dim), dtype.name))


def _open(name: str) -> BadModel:
    return BadModel(
        f"the shape of {name!r} depends on the model's input; only fixed shapes can be tuned"
    )
