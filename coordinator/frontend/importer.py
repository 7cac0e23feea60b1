"""The compiler's front half: an ONNX model into a lowered Relax module and its tasks."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from protos.errors import BadModel
from protos.records import Shape, Task, TensorSpec

from .low_maps import legalize_convolutions
from .onnx_model import fold, graph_inputs, load_model, node_name
from .rewrite import multiply_by_reciprocals
from .tasks import extract_tasks

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tensor:
    """An input or output: its name in the model, its name in the module, what it holds."""

    name: str
    relax_name: str
    spec: TensorSpec


@dataclass(frozen=True)
class ImportedModel:
    """A model ready to be tuned and compiled.

    ``module_json`` is TVM's serialised IRModule with ``main`` and its kernels, weights included
    (base 64). ``inputs`` are in the order of main's parameters, ``outputs`` in that of its results.
    """

    module_json: str = field(repr=False)
    tasks: tuple[Task, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    stage_s: Mapping[str, float]


class _Stages:
    """Seconds by stage, for the log."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 3)


def import_model(data: bytes, shapes: Mapping[str, Shape], target_json: str) -> ImportedModel:
    """Fold, import, lower and fuse a model, and find its tasks.

    Takes from a second to a minute. Raises BadModel for what can't be imported or lowered.
    """
    stage = _Stages()
    with stage("compiler"):
        import tvm
        from tvm import relax  # noqa: F401
    with stage("prepass"):
        folded = fold(load_model(data, shapes))
    with stage("import"):
        module = _from_onnx(folded)
    with stage("lower"):
        lowered = _lower(module, target_json)
    with stage("tasks"):
        tasks = extract_tasks(lowered)
    with stage("save"):
        module_json = tvm.ir.save_json(lowered)
    log.info("imported %d tasks in %s s", len(tasks), stage.seconds)
    return ImportedModel(
        module_json=module_json,
        tasks=tasks,
        inputs=_inputs(folded, module["main"]),
        outputs=_outputs(folded, lowered["main"]),
        stage_s=stage.seconds,
    )


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
        where = f"operator {node.op_type} ({node_name(node)})" if node is not None else "the model"
        raise BadModel(f"{where} can't be imported: {_first_line(error)}") from error


def _node_in(error: BaseException) -> Any:
    """The node that the importer was at; its exceptions don't say, its frame does."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "_construct_nodes":
            return frame.f_locals.get("node")
    return None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _lower(module: Any, target_json: str) -> Any:
    import tvm
    from tvm import relax

    canonical = tvm.transform.Sequential(
        [relax.transform.DecomposeOpsForInference(), relax.transform.CanonicalizeBindings()]
    )
    passes = relax.get_pipeline("zero")
    try:
        with tvm.target.Target(json.loads(target_json)), _quiet():
            return passes(legalize_convolutions(multiply_by_reciprocals(canonical(module))))
    except Exception as error:
        raise BadModel(f"the compiler could not lower the model: {_first_line(error)}") from error


def _inputs(model: Any, main: Any) -> tuple[Tensor, ...]:
    names = [value.name for value in graph_inputs(model.graph)]
    return tuple(
        Tensor(name, str(parameter.name), _spec(name, parameter.ty))
        for name, parameter in zip(names, main.params, strict=True)
    )


def _outputs(model: Any, main: Any) -> tuple[Tensor, ...]:
    from tvm import relax

    names = [value.name for value in model.graph.output]
    result = main.ret_ty
    types = list(result.fields) if isinstance(result, relax.TupleType) else [result]
    return tuple(
        Tensor(name, f"output{index}", _spec(name, kind))
        for index, (name, kind) in enumerate(zip(names, types, strict=True))
    )


def _spec(name: str, kind: Any) -> TensorSpec:
    from tvm import relax

    if not isinstance(kind, relax.TensorType):
        raise BadModel(f"{name!r} is no tensor ({kind})")
    try:
        shape = tuple(int(dim) for dim in kind.shape)
    except TypeError:
        raise BadModel(
            f"the shape of {name!r} depends on the model's input; only fixed shapes can be tuned"
        ) from None
    return TensorSpec(shape, str(kind.dtype))
