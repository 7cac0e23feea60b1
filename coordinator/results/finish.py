"""The end of a job: the best records compiled into a package, verified, measured and kept."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from coordinator.fleet.builders import Builders
from coordinator.fleet.fleet import Fleet
from coordinator.frontend.importer import ImportedModel
from coordinator.frontend.target import cpu_flags
from coordinator.package.manifest import MANIFEST_VERSION, Latency, Manifest, Record
from coordinator.package.wheel import PartFiles
from coordinator.results.compile import compile_parts, refused_traces
from coordinator.results.difference import Difference
from coordinator.results.engine_parts import CannotRun, engine_part
from coordinator.results.engines import (
    NOT_RUN,
    choose_engine,
    engine_manifest,
    engine_result,
    engines_used,
)
from coordinator.results.memory import weights_bytes, workspace_bytes
from coordinator.results.mixture import Mixture, MixtureSearch, is_worth_a_look
from coordinator.results.packaged import Packaged
from coordinator.results.selection import (
    THREAD_HANDICAPS_US,
    USUAL_HANDICAPS_US,
    Selection,
    selections,
)
from coordinator.results.threads import EVALUATOR as THREADS_EVALUATOR
from coordinator.results.threads import thread_results, with_fewer
from coordinator.results.verify import make_examples
from coordinator.tuning_log import Evidence, TuningLog
from device_agent.build import tool_versions
from protos.engines import REFERENCE_ENGINE
from protos.errors import JobFailed
from protos.median import median_interval
from protos.records import (
    MIXED,
    OWN,
    UNTUNED,
    Artifact,
    Device,
    EvaluatorConfig,
    Job,
    MeasurementStatus,
    ModelMeasurement,
    ModelResult,
    ModelVariant,
    ModelWork,
    RegionResult,
    Shape,
    ThreadResult,
    VariantResult,
    canonical_json,
    sha256_hex,
)

log = logging.getLogger(__name__)

EXAMPLES = 5
"""Seeded inputs that the package's output is compared on."""

EVALUATOR = EvaluatorConfig(number=1, repeat=20, min_repeat_ms=40, timeout_s=120.0)
"""How the whole model is timed: rounds in which every variant takes its turn."""

_WRONG = "the {} model differs from ONNX Runtime, so it is not packaged"

Stage = Callable[[str], Awaitable[None]]


@dataclass(frozen=True)
class _Choice:
    """One way to make the model of our own code: its algorithms, and a record for each kernel."""

    imported: ImportedModel
    selection: Selection

    @property
    def traces(self) -> dict[str, str]:
        """By workload key."""
        return {key: item.candidate.trace_json for key, item in self.selection.items()}


class Finisher:
    """Packages one job. Lives on the coordinator's event loop."""

    def __init__(
        self,
        job: Job,
        model: bytes,
        imported: Sequence[ImportedModel],
        device: Device,
        tuning_log: TuningLog,
        fleet: Fleet,
        builders: Builders,
    ) -> None:
        """``model`` is the ONNX file that ``imported`` came from, with the algorithms that are
        compared (``Composition.compared``): the last is with direct convolutions only."""
        self._job = job
        self._model = model
        self._imported = imported
        self._direct = imported[-1]
        self._device = device
        self._log = tuning_log
        self._fleet = fleet
        self._builders = builders
        self._evaluator = replace(EVALUATOR, cold_cache=job.spec.cold_cache)
        self._engines = engines_used(device)
        self._cannot_run: dict[str, str] = {}  # why, of engines that can't run the whole model

    async def finish(self, stage: Stage) -> ModelResult:
        """Compile, verify, measure and package; what the log already has is not made again.

        Raises JobFailed if the result is wrong or can't be measured.
        """
        versions = await self._builders.run(tool_versions)
        answering = self._fleet.registry.toolchains(self._device.kind, versions)
        known = {}
        for key in dict.fromkeys(task.workload_key for one in self._imported for task in one.tasks):
            known[key] = await asyncio.to_thread(
                self._log.evidence,
                *(key, self._device.kind, self._job.spec.cold_cache, answering),
            )
        for choose in (self._as_they_are, self._that_apply):  # the second takes some seconds
            choices = await choose(known)
            key = self._key(choices, versions)
            packaged = await asyncio.to_thread(self._log.package, key)
            if packaged is not None:
                return replace(packaged[0], labels=self._device.labels)
        await stage("compiling the untuned and the tuned model")
        ways, examples = await self._make(choices, versions)
        await stage("verifying and timing the whole model")
        measurement = await self._measure(ways, examples)
        best = _best(measurement, len(choices))
        self._warn_of_wrong(measurement, choices)
        await self._refuse_wrong(stage, measurement, best, choices, ways, examples)
        regions: tuple[RegionResult, ...] = ()
        mixture = await self._mixture(stage, ways, measurement, best, choices, examples)
        if mixture is not None:
            regions = mixture.regions
        if mixture is not None and mixture.way is not None:
            ways = {UNTUNED: ways[UNTUNED], best.name: ways[best.name], MIXED: mixture.way} | {
                name: ways[name] for name in self._engines if name in ways
            }
            await stage("verifying and timing a mixture with other engines")
            measurement = await self._measure(ways, examples)
            best = next(one for one in measurement.variants if one.name == best.name)
        imported = choices[_index(best.name)].imported
        result, package = await self._package(ways, measurement, best)
        result = replace(
            result,
            regions=regions,
            operators={task.workload_key: task.weight for task in imported.tasks},
            threads=await self._threads(stage, ways, measurement, best, examples),
            weights_bytes=await self._builders.run(
                weights_bytes, self._model, self._job.spec.shapes
            ),
            workspace_bytes=await self._builders.run(
                workspace_bytes,
                imported.parts,
                self._job.spec.target_json,
            ),
        )
        await asyncio.to_thread(self._log.add_package, key, self._job.job_id, result, package)
        return result

    def _choices(self, known: Mapping[str, Sequence[Evidence]]) -> list[_Choice]:
        found: list[_Choice] = []
        for imported in self._imported:
            own = {task.workload_key: known[task.workload_key] for task in imported.tasks}
            handicaps_us = USUAL_HANDICAPS_US if found else THREAD_HANDICAPS_US
            found += [_Choice(imported, one) for one in selections(own, handicaps_us)]
        return found

    async def _as_they_are(self, known: dict[str, list[Evidence]]) -> list[_Choice]:
        return self._choices(known)

    async def _that_apply(self, known: dict[str, list[Evidence]]) -> list[_Choice]:
        """The choices of records, without those whose traces don't apply."""
        tasks = {task.workload_key: task for one in self._imported for task in one.tasks}
        while True:
            choices = self._choices(known)
            refused: set[tuple[str, str]] = await self._builders.run(
                refused_traces,
                tuple(tasks.values()),
                self._job.spec.target_json,
                [choice.traces for choice in choices],
            )
            if not refused:
                return choices
            for key, trace in refused:
                log.warning(
                    "job %s: a record of workload %s is left out, its trace does not apply: %.500s",
                    *(self._job.job_id, key, trace),
                )
                known[key] = [one for one in known[key] if one.candidate.trace_json != trace]

    def _key(self, choices: Sequence[_Choice], versions: Mapping[str, str]) -> str:
        """What the package is made of: model, device, records and tools."""
        records = [sorted(record.candidate.key for record in c.selection.values()) for c in choices]
        made_of = [
            MANIFEST_VERSION,
            self._job.spec.identity,
            self._device.kind,
            records,
            dict(versions),
            dict(self._device.engine_versions),
        ]
        return sha256_hex(canonical_json(made_of).encode())

    async def _make(
        self, choices: Sequence[_Choice], versions: Mapping[str, str]
    ) -> tuple[dict[str, Packaged], bytes]:
        """Every way to run the model, by name: untuned, each choice, each engine; the examples."""
        spec = self._job.spec
        features = await self._builders.run(cpu_flags, spec.target_json)
        wanted = {UNTUNED: _Choice(self._direct, {})}
        wanted |= {_tuned(index): choice for index, choice in enumerate(choices)}
        manifests = {
            name: self._manifest(choice, versions, features) for name, choice in wanted.items()
        }
        untuned = manifests[UNTUNED]
        onnx, examples, *parts = await asyncio.gather(
            self._builders.run(_fixed_model, self._model, spec.shapes),
            self._builders.run(make_examples, self._model, spec.shapes, EXAMPLES, spec.seed),
            *(self._compile(choice) for choice in wanted.values()),
        )
        ways = {
            name: Packaged(made, manifests[name]) for name, made in zip(wanted, parts, strict=True)
        }
        inputs = tuple(tensor.name for tensor in self._direct.inputs)
        outputs = tuple(tensor.name for tensor in self._direct.outputs)
        for name, used in self._engines.items():
            whole = await self._builders.run(engine_part, name, onnx, inputs, outputs)
            if isinstance(whole, CannotRun):
                log.info("job %s: %s", self._job.job_id, whole.reason)
                self._cannot_run[name] = whole.reason
            else:
                ways[name] = Packaged((whole,), engine_manifest(untuned, used))
        return ways, examples

    async def _compile(self, choice: _Choice) -> tuple[PartFiles, ...]:
        parts: tuple[PartFiles, ...] = await self._builders.run(
            compile_parts, choice.imported.parts, self._job.spec.target_json, choice.traces
        )
        return parts

    def _manifest(
        self, choice: _Choice, versions: Mapping[str, str], features: Sequence[str]
    ) -> Manifest:
        spec, imported = self._job.spec, choice.imported
        records = tuple(
            Record(task.name, task.workload_key, item.candidate.key, task.weight, item.pooled_us)
            for task in imported.tasks
            if (item := choice.selection.get(task.workload_key)) is not None
        )
        needed = {REFERENCE_ENGINE} if imported.theirs else set()
        return Manifest(
            model_file=f"{spec.model_name}.onnx",
            model_sha256=spec.model_sha256,
            target_json=spec.target_json,
            cpu_features=tuple(features),
            inputs=tuple((tensor.name, tensor.spec) for tensor in imported.inputs),
            outputs=tuple((tensor.name, tensor.spec) for tensor in imported.outputs),
            records=records,
            tool_versions={**self._device.tool_versions, **versions},
            cold_cache=self._evaluator.cold_cache,
            engines=tuple(used for name, used in self._engines.items() if name in needed),
        )

    async def _mixture(
        self,
        stage: Stage,
        ways: Mapping[str, Packaged],
        measurement: ModelMeasurement,
        tuned: VariantResult,
        choices: Sequence[_Choice],
        examples: bytes,
    ) -> Mixture | None:
        """The model with some regions in another engine, if that may be faster than both."""
        timed = {one.name: one.latency_ms for one in measurement.variants}
        engines_ms = {name: ms for name in self._engines if (ms := timed.get(name)) is not None}
        own_ms = tuned.latency_ms
        if self._direct.theirs or own_ms is None:
            return None
        if not is_worth_a_look(own_ms, list(engines_ms.values())):
            return None
        await stage("timing each operator in the other engines")
        choice = choices[_index(tuned.name)]
        # A region may end inside of what is one kernel in the whole model.
        selection = {**choices[-1].selection, **choice.selection}
        search = MixtureSearch(
            spec=self._job.spec,
            model=self._model,
            examples=examples,
            traces=_Choice(choice.imported, selection).traces,
            algorithms=choice.imported.algorithms,
            kernel_us={
                key: item.pooled_us for key, item in selection.items() if item.pooled_us is not None
            },
            manifest=ways[tuned.name].manifest,
            engines={
                name: used
                for name, used in self._engines.items()
                if name in engines_ms or name in self._cannot_run
            },
            cold_cache=self._job.spec.cold_cache,
            run=self._builders.run,
            measure=self._measure,
        )
        return await search.find({OWN: own_ms, **engines_ms})

    async def _measure(
        self,
        ways: Mapping[str, Packaged],
        examples: bytes,
        evaluator: EvaluatorConfig | None = None,
        num_threads: int = 0,
        *,
        time_parts: bool = False,
    ) -> ModelMeasurement:
        """All of them in one run on the device, as users will run the packages; with all of its
        threads, if not told otherwise."""
        variants = []
        for name, way in ways.items():
            _, wheel = await way.wheel()
            variants.append(ModelVariant(name, Artifact.of(wheel)))
        work = ModelWork(
            tuple(variants),
            Artifact.of(examples),
            evaluator or self._evaluator,
            num_threads or self._device.num_threads,
            time_parts,
        )
        return await self._fleet.measure_model(self._job.job_id, self._device.kind, work)

    async def _threads(
        self,
        stage: Stage,
        ways: Mapping[str, Packaged],
        measurement: ModelMeasurement,
        tuned: VariantResult,
        examples: bytes,
    ) -> tuple[ThreadResult, ...]:
        """Every way to run the model with the device's threads and, but for the untuned, fewer."""
        names = {name: name for name in (*self._engines, MIXED)} | {tuned.name: OWN}
        timed = thread_results(
            measurement.variants, self._device.num_threads, {**names, UNTUNED: UNTUNED}
        )
        right = {one.name for one in measurement.variants if one.latency_ms is not None}
        again = {name: way for name, way in ways.items() if name in right and name in names}
        evaluator = replace(THREADS_EVALUATOR, cold_cache=self._evaluator.cold_cache)

        async def measure(count: int) -> ModelMeasurement:
            await stage(
                f"timing the whole model with {count} of {self._device.num_threads} threads"
            )
            return await self._measure(again, examples, evaluator, count)

        return timed + await with_fewer(self._device.num_threads, names, measure)

    def _warn_of_wrong(self, measurement: ModelMeasurement, choices: Sequence[_Choice]) -> None:
        """Of those that are left out because their outputs differ, where others are right."""
        wrong = {
            variant.name: variant.error
            for variant in measurement.variants
            if variant.status is MeasurementStatus.WRONG_OUTPUT
        }
        for index, choice in enumerate(choices):
            if (error := wrong.get(_tuned(index))) is not None:
                log.warning(
                    "job %s: a choice of records, with other algorithms for %d kinds of "
                    "convolutions, is left out, its outputs differ: %s",
                    *(self._job.job_id, len(choice.imported.algorithms), error),
                )

    async def _refuse_wrong(
        self,
        stage: Stage,
        measurement: ModelMeasurement,
        tuned: VariantResult,
        choices: Sequence[_Choice],
        ways: Mapping[str, Packaged],
        examples: bytes,
    ) -> None:
        """Raise JobFailed, with the first operator that differs, if the model is wrong."""
        (untuned,) = (one for one in measurement.variants if one.name == UNTUNED)
        wrong = next(
            (one for one in (untuned, tuned) if one.status is MeasurementStatus.WRONG_OUTPUT), None
        )
        if wrong is None:
            return
        await stage("finding the operator that differs")
        choice = _Choice(self._direct, {}) if wrong is untuned else choices[_index(tuned.name)]
        difference = Difference(
            *(self._job.spec, self._model, choice.imported, ways[wrong.name].manifest),
            *(self._builders.run, self._measure, examples),
        )
        if wrong is untuned:
            name, where = UNTUNED, await difference.of_import(EXAMPLES)
        else:
            name, where = "tuned", await difference.of_records(choice.selection)
        raise JobFailed(f"{_WRONG.format(name)}: {wrong.error}. {where}")

    async def _package(
        self, ways: Mapping[str, Packaged], measurement: ModelMeasurement, tuned: VariantResult
    ) -> tuple[ModelResult, bytes]:
        """What is the fastest on the device, as a wheel, and what was measured."""
        by_name = {variant.name: variant for variant in measurement.variants}
        tuned_ms = _latency_ms("tuned", tuned)
        untuned_ms = _latency_ms(UNTUNED, by_name.get(UNTUNED))
        peers = tuple(
            engine_result(used, by_name.get(name), self._cannot_run.get(name, NOT_RUN))
            for name, used in self._engines.items()
        )
        mixed = by_name.get(MIXED)
        mixed_ms = mixed.latency_ms if mixed is not None else None
        chosen = choose_engine(tuned_ms, peers, mixed_ms)
        packaged = by_name[chosen] if chosen != OWN else tuned
        latency = Latency(
            untuned_ms,
            tuned_ms,
            {peer.name: peer.latency_ms for peer in peers},
            measurement.circumstances.device,
            packaged.max_abs_error,
        )
        filename, package = await ways[packaged.name].wheel(latency)
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
            left_to_engine=self._direct.theirs,
            mixed_ms=mixed_ms,
            outputs=packaged.outputs,
            labels=self._fleet.registry.labels(measurement.circumstances.device),
        )
        return result, package


def _tuned(index: int) -> str:
    return f"tuned-{index}"


def _index(name: str) -> int:
    return int(name.removeprefix("tuned-"))


def _best(measurement: ModelMeasurement, count: int) -> VariantResult:
    """The fastest right choice's result; if none is right, the first one's failure."""
    by_name = {variant.name: variant for variant in measurement.variants}
    results = [by_name[_tuned(index)] for index in range(count) if _tuned(index) in by_name]
    if not results:
        raise JobFailed("the device did not measure the tuned model")
    return min(results, key=lambda one: float("inf") if one.latency_ms is None else one.latency_ms)


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
        raise JobFailed(f"{_WRONG.format(name)}: {result.error}")
    if result.latency_ms is None:
        raise JobFailed(f"the {name} model failed on the device: {result.error}")
    return result.latency_ms
