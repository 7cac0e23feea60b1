"""The end of a job: the best records compiled into a package, verified, measured and kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from coordinator.fleet.builders import Builders
from coordinator.fleet.fleet import Fleet
from coordinator.frontend.target import cpu_flags
from coordinator.package.manifest import MANIFEST_VERSION, EngineUsed, Latency, Manifest, Record
from coordinator.package.wheel import write_engine_wheel, write_wheel
from coordinator.results.compile import compile_model
from coordinator.results.engines import (
    choose_engine,
    engine_manifest,
    engine_result,
    engines_used,
)
from coordinator.results.selection import Selection, selections
from coordinator.results.verify import make_examples
from coordinator.tuning_log import TuningLog
from device_agent.build import tool_versions
from protos.errors import JobFailed
from protos.median import median_interval
from protos.records import (
    OWN,
    Artifact,
    Device,
    EvaluatorConfig,
    Job,
    MeasurementStatus,
    ModelMeasurement,
    ModelResult,
    ModelVariant,
    ModelWork,
    Shape,
    VariantResult,
    canonical_json,
    sha256_hex,
)

if TYPE_CHECKING:
    from coordinator.frontend.importer import ImportedModel

UNTUNED = "untuned"

EXAMPLES = 3
"""Seeded inputs that the package's output is compared on."""

EVALUATOR = EvaluatorConfig(number=1, repeat=20, min_repeat_ms=40, timeout_s=120.0)
"""How the whole model is timed: rounds in which every variant takes its turn."""

Stage = Callable[[str], Awaitable[None]]


class Finisher:
    """Packages one job. Lives on the coordinator's event loop."""

    def __init__(
        self,
        job: Job,
        model: bytes,
        imported: ImportedModel,
        device: Device,
        tuning_log: TuningLog,
        fleet: Fleet,
        builders: Builders,
    ) -> None:
        """``model`` is the ONNX file that ``imported`` came from."""
        self._job = job
        self._model = model
        self._imported = imported
        self._device = device
        self._log = tuning_log
        self._fleet = fleet
        self._builders = builders
        self._evaluator = replace(EVALUATOR, cold_cache=job.spec.cold_cache)

    async def finish(self, stage: Stage) -> ModelResult:
        """Compile, verify, measure and package; what the log already has is not made again.

        Raises JobFailed if the result is wrong or can't be measured.
        """
        known = {}
        for task in self._imported.tasks:
            key = task.workload_key
            known[key] = await asyncio.to_thread(
                self._log.evidence, key, self._device.kind, self._job.spec.cold_cache
            )
        choices = selections(known)
        versions = await self._builders.run(tool_versions)
        key = self._key(choices, versions)
        packaged = await asyncio.to_thread(self._log.package, key)
        if packaged is not None:
            return packaged[0]
        await stage("compiling the untuned and the tuned model")
        untuned, tuned, examples = await self._make(choices)
        await stage("verifying and timing the whole model")
        required = await self._builders.run(cpu_flags, self._job.spec.target_json)
        manifests = [self._manifest(choice, versions, required) for choice in choices]
        engines = engines_used(self._device)
        onnx = await self._builders.run(_fixed_model, self._model, self._job.spec.shapes)
        measurement = await self._measure(untuned, tuned, examples, manifests[0], engines, onnx)
        best, fastest = _best(measurement, len(choices))
        result, package = await self._package(
            tuned[best], manifests[best], measurement, fastest, engines, onnx
        )
        await asyncio.to_thread(self._log.add_package, key, self._job.job_id, result, package)
        return result

    def _key(self, choices: Sequence[Selection], versions: Mapping[str, str]) -> str:
        """What the package is made of: model, device, records and tools."""
        records = [sorted(record.candidate.key for record in c.values()) for c in choices]
        made_of = [
            MANIFEST_VERSION,
            self._job.spec.identity,
            self._device.kind,
            records,
            dict(versions),
            dict(self._device.engine_versions),
        ]
        return sha256_hex(canonical_json(made_of).encode())

    async def _make(self, choices: Sequence[Selection]) -> tuple[bytes, list[bytes], bytes]:
        """Objects of the untuned model and of each choice, and the examples."""
        spec, module = self._job.spec, self._imported.module_json
        traces: list[dict[str, str]] = [{}]
        traces += [{key: o.candidate.trace_json for key, o in c.items()} for c in choices]
        examples, untuned, *tuned = await asyncio.gather(
            self._builders.run(make_examples, self._model, spec.shapes, EXAMPLES, spec.seed),
            *(self._builders.run(compile_model, module, spec.target_json, t) for t in traces),
        )
        return untuned, tuned, examples

    def _manifest(
        self,
        best: Selection,
        versions: Mapping[str, str],
        required: Sequence[str],
    ) -> Manifest:
        spec = self._job.spec
        records = tuple(
            Record(
                task.name,
                task.workload_key,
                best[task.workload_key].candidate.key,
                task.weight,
                best[task.workload_key].pooled_us,
            )
            for task in self._imported.tasks
            if task.workload_key in best
        )
        return Manifest(
            model_file=f"{spec.model_name}.onnx",
            model_sha256=spec.model_sha256,
            target_json=spec.target_json,
            cpu_features=tuple(required),
            inputs=tuple((tensor.name, tensor.spec) for tensor in self._imported.inputs),
            outputs=tuple((tensor.name, tensor.spec) for tensor in self._imported.outputs),
            records=records,
            tool_versions={**self._device.tool_versions, **versions},
            cold_cache=self._evaluator.cold_cache,
        )

    async def _measure(
        self,
        untuned: bytes,
        tuned: Sequence[bytes],
        examples: bytes,
        manifest: Manifest,
        engines: Mapping[str, EngineUsed],
        onnx: bytes,
    ) -> ModelMeasurement:
        """All variants in one run on the device; the packages are run as users will run them."""
        names = [UNTUNED, *(_tuned(index) for index in range(len(tuned)))]
        variants = []
        for name, objects in zip(names, [untuned, *tuned], strict=True):
            _, wheel = await asyncio.to_thread(write_wheel, objects, manifest)
            variants.append(ModelVariant(name, Artifact.of(wheel)))
        for used in engines.values():
            described = engine_manifest(manifest, used)
            _, wheel = await asyncio.to_thread(write_engine_wheel, onnx, described)
            variants.append(ModelVariant(used.name, Artifact.of(wheel)))
        work = ModelWork(
            tuple(variants), Artifact.of(examples), self._evaluator, self._device.num_threads
        )
        return await self._fleet.measure_model(self._job.job_id, self._device.kind, work)

    async def _package(
        self,
        objects: bytes,
        manifest: Manifest,
        measurement: ModelMeasurement,
        tuned: VariantResult,
        engines: Mapping[str, EngineUsed],
        onnx: bytes,
    ) -> tuple[ModelResult, bytes]:
        """What is the fastest on the device, as a wheel, and what was measured."""
        by_name = {variant.name: variant for variant in measurement.variants}
        tuned_ms = _latency_ms("tuned", tuned)
        untuned_ms = _latency_ms(UNTUNED, by_name.get(UNTUNED))
        peers = tuple(engine_result(used, by_name.get(name)) for name, used in engines.items())
        chosen = choose_engine(tuned_ms, peers)
        packaged = by_name[chosen] if chosen != OWN else tuned
        manifest = replace(
            manifest,
            latency=Latency(
                untuned_ms,
                tuned_ms,
                {peer.name: peer.latency_ms for peer in peers},
                measurement.circumstances.device,
                packaged.max_abs_error,
            ),
        )
        if chosen == OWN:
            filename, package = await asyncio.to_thread(write_wheel, objects, manifest)
        else:
            described = engine_manifest(manifest, engines[chosen])
            filename, package = await asyncio.to_thread(write_engine_wheel, onnx, described)
        interval_s = median_interval(tuned.repeats_s)
        result = ModelResult(
            untuned_ms=untuned_ms,
            tuned_ms=tuned_ms,
            max_abs_error=packaged.max_abs_error,
            max_rel_error=packaged.max_rel_error,
            package_filename=filename,
            package_sha256=sha256_hex(package),
            package_size_bytes=len(package),
            tuned_low_ms=interval_s[0] * 1e3 if interval_s else None,
            tuned_high_ms=interval_s[1] * 1e3 if interval_s else None,
            engines=peers,
            engine=chosen,
        )
        return result, package


def _tuned(index: int) -> str:
    return f"tuned-{index}"


def _best(measurement: ModelMeasurement, count: int) -> tuple[int, VariantResult]:
    """Index and result of the fastest right choice; if none is right, the first one's failure."""
    by_name = {variant.name: variant for variant in measurement.variants}
    results = [by_name[_tuned(index)] for index in range(count) if _tuned(index) in by_name]
    if not results:
        raise JobFailed("the device did not measure the tuned model")
    return min(
        enumerate(results),
        key=lambda item: float("inf") if item[1].latency_ms is None else item[1].latency_ms,
    )


def _fixed_model(model: bytes, shapes: Mapping[str, Shape]) -> bytes:
    """The ONNX file with its inputs' shapes fixed, as the package has them."""
    from coordinator.frontend.onnx_model import load_model

    fixed: bytes = load_model(model, shapes).SerializeToString()
    return fixed


def _latency_ms(name: str, result: VariantResult | None) -> float:
    """The variant's latency; raises JobFailed with its error if it has none."""
    if result is None:
        raise JobFailed(f"the device did not measure the {name} model")
    if result.status is MeasurementStatus.WRONG_OUTPUT:
        raise JobFailed(
            f"the {name} model differs from ONNX Runtime, so it is not packaged: {result.error}"
        )
    if result.latency_ms is None:
        raise JobFailed(f"the {name} model failed on the device: {result.error}")
    return result.latency_ms
