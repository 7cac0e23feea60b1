"""Which operator a wrong model first goes wrong at, so that the error can name it.

Two things can be wrong. The frontend may mean something else by an operator than ONNX Runtime does:
then the untuned model is wrong, too, and with every intermediate tensor as an output the first bad
one names its operator. Or a record of the log computes something else than its workload: then with
some operators tuned the model is right, and with one more it is wrong. That one is found by
halving. Both are looked for on the device, as the outputs were.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from coordinator.frontend.importer import ImportedModel, import_model
from coordinator.frontend.onnx_model import fold, load_model, operator
from coordinator.frontend.tasks import call_order
from coordinator.package.manifest import Manifest
from coordinator.results.compile import compile_parts
from coordinator.results.packaged import Measure, Packaged, Run
from coordinator.results.selection import Selection
from coordinator.results.verify import make_examples
from protos.errors import BadModel, JobFailed
from protos.records import JobSpec, MeasurementStatus, Shape, VariantResult

MAX_EXAMPLE_BYTES = 256 << 20
"""All intermediate tensors of the examples together; of a larger model fewer examples are taken."""


@dataclass(frozen=True)
class Exposed:
    """A model whose intermediate tensors are outputs, in the order in which they are computed.

    ``operators`` names the operator of each output, as an error does; ``example_bytes`` is what
    all outputs of one example take.
    """

    model: bytes = field(repr=False)
    operators: Mapping[str, str]
    example_bytes: int

    def examples(self, most: int) -> int:
        """How many examples to take, ``most`` at most."""
        return max(1, min(most, MAX_EXAMPLE_BYTES // max(self.example_bytes, 1)))


def expose_intermediates(data: bytes, shapes: Mapping[str, Shape]) -> Exposed:
    """Every floating-point tensor that an operator of the folded model computes, as an output.

    Raises BadModel, see ``fold``.
    """
    import onnx

    model = fold(load_model(data, shapes))
    known = onnx.shape_inference.infer_shapes(model).graph
    floats = {
        value.name: value
        for value in (*known.value_info, *known.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    operators = {
        name: operator(node) for node in model.graph.node for name in node.output if name in floats
    }
    del model.graph.output[:]
    model.graph.output.extend(floats[name] for name in operators)
    size = sum(4 * _elements(floats[name]) for name in operators)
    return Exposed(model.SerializeToString(), operators, size)


def _elements(value: Any) -> int:
    return math.prod(dim.dim_value for dim in value.type.tensor_type.shape.dim)


@dataclass(frozen=True)
class Difference:
    """A wrong model, its manifest and examples; a builder's ``run``, ``measure`` on the device."""

    spec: JobSpec
    model: bytes
    imported: ImportedModel
    manifest: Manifest
    run: Run
    measure: Measure
    examples: bytes = field(repr=False)

    async def of_import(self, most: int) -> str:
        """Which operator the frontend means something else by than ONNX Runtime, as a sentence.

        By ``most`` examples at most.
        """
        spec = self.spec
        try:
            exposed: Exposed = await self.run(expose_intermediates, self.model, spec.shapes)
            count = exposed.examples(most)
            examples = await self.run(make_examples, exposed.model, {}, count, spec.seed)
            imported: ImportedModel = await self.run(
                import_model, exposed.model, {}, spec.target_json, {}
            )
            parts = await self.run(compile_parts, imported.parts, spec.target_json, {})
        except (BadModel, JobFailed) as error:
            return f"The first operator that differs could not be found out: {error}"
        outputs = tuple((tensor.name, tensor.spec) for tensor in imported.outputs)
        way = Packaged(parts, replace(self.manifest, outputs=outputs))
        result = await self._check(way, examples)
        if not result.wrong_output:
            return f"Each operator alone is right ({result.error or 'no difference'})"
        where = exposed.operators[result.wrong_output]
        return f"The first operator that differs is {where}: {result.error}"

    async def of_records(self, choice: Selection) -> str:
        """Which record computes something else than its operator, as a sentence."""
        names = {task.workload_key: task.name for task in self.imported.tasks}
        modules = [part.module_json for part in self.imported.parts if part.ours]
        order: Sequence[str] = await self.run(call_order, modules)

        async def is_wrong(keys: Sequence[str]) -> bool:
            traces = {key: choice[key].candidate.trace_json for key in keys}
            parts = await self.run(
                compile_parts, self.imported.parts, self.spec.target_json, traces
            )
            result = await self._check(Packaged(parts, self.manifest), self.examples)
            return result.status is MeasurementStatus.WRONG_OUTPUT

        key = await first_wrong([key for key in order if key in choice], is_wrong)
        if key is None:
            return "Made once more it is right: the device may be unreliable"
        return (
            f"The first operator that differs is {names[key]!r}, with the record "
            f"{choice[key].candidate.key} of the tuning log, which computes something else"
        )

    async def _check(self, way: Packaged, examples: bytes) -> VariantResult:
        """One way to run the model against the examples, on the device."""
        measurement = await self.measure({"checked": way}, examples)
        return measurement.variants[0]


async def first_wrong(
    names: Sequence[str], is_wrong: Callable[[Sequence[str]], Awaitable[bool]]
) -> str | None:
    """The name with which a model that has these tuned goes wrong; None if it does not.

    ``is_wrong`` says whether a model is wrong in which only these, the first few, are tuned.
    """
    if not await is_wrong(names):
        return None
    right, wrong = 0, len(names)
    while wrong - right > 1:
        middle = (right + wrong) // 2
        if await is_wrong(names[:middle]):
            wrong = middle
        else:
            right = middle
    return names[wrong - 1]
