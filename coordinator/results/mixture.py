"""A model of which some regions run in our own code and others in an engine, if that may pay.

Its regions are timed on the device in everything that can run them, each alone, with the way in and
out; a placement is chosen by those times (``placement``), its neighbours in one engine are joined,
and the result is one more way to run the model, to be verified and timed as a whole like the
others.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from coordinator.frontend.importer import Region, find_regions, import_regions
from coordinator.package.manifest import EngineUsed, Manifest
from coordinator.package.wheel import PartFiles
from coordinator.results.compile import compile_parts
from coordinator.results.packaged import Measure, Packaged, Run
from coordinator.results.placement import Cost, Placement, place, shares
from coordinator.results.verify import slice_examples
from protos.records import OWN, EvaluatorConfig, JobSpec, RegionResult

log = logging.getLogger(__name__)

MOST_REGIONS = 8
"""More would be timed more finely, and each takes some seconds of the device."""

WITHIN = 2.0
"""If the best engine takes more than this times our own time, or the other way round, regions are
not looked at: where one is twice as fast as the other, it is so nearly everywhere."""

EXAMPLES = 2

EVALUATOR = EvaluatorConfig(number=1, repeat=10, min_repeat_ms=20, timeout_s=120.0)


def is_worth_a_look(own_ms: float, engines_ms: Sequence[float]) -> bool:
    """Whether a mixture might beat both."""
    return bool(engines_ms) and 1 / WITHIN <= min(engines_ms) / own_ms <= WITHIN


def costs(
    alone_ms: Sequence[Mapping[str, float]],
    whole_ms: Mapping[str, float],
    kernels_ms: Sequence[float],
) -> list[dict[str, Cost]]:
    """What each region costs in each engine, alone and inside of more.

    Of our own code the kernels' times say what a region takes inside; their sum is scaled to what
    the whole model takes.
    """
    found: list[dict[str, Cost]] = [{} for _ in alone_ms]
    for name, whole in whole_ms.items():
        able = [number for number, region in enumerate(alone_ms) if name in region]
        given = shares([alone_ms[number][name] for number in able], whole) if able else []
        for number, cost in zip(able, given, strict=True):
            found[number][name] = cost
    scale = whole_ms.get(OWN, 0.0) / (sum(kernels_ms) or 1.0)
    for region, kernels in zip(found, kernels_ms, strict=True):
        if OWN in region and kernels:
            region[OWN] = replace(region[OWN], inner_ms=kernels * scale)
    return found


@dataclass(frozen=True)
class Mixture:
    """The way to run the model, and what each region took in what."""

    way: Packaged
    regions: tuple[RegionResult, ...]


@dataclass(frozen=True)
class MixtureSearch:
    """What it takes to look for one: the job's model, the records of the tuned one in ``traces``
    with its ``algorithms`` and what their kernels take, its manifest, the device's
    engines; a builder's ``run``, and ``measure`` on the device."""

    spec: JobSpec
    model: bytes
    traces: Mapping[str, str]
    algorithms: Mapping[str, int]
    kernel_us: Mapping[str, float]
    manifest: Manifest
    engines: Mapping[str, EngineUsed]
    cold_cache: bool
    run: Run
    measure: Measure

    async def find(self, whole_ms: Mapping[str, float]) -> Mixture | None:
        """A mixture that should be faster than each of ``whole_ms``, the whole model's times in our
        own code and in the engines; None if there is none."""
        spec = self.spec
        starts = await self.run(find_regions, self.model, spec.shapes, MOST_REGIONS)
        if len(starts) < 2:
            return None
        regions = await self._import(starts, [True] * len(starts))
        examples = await self.run(
            slice_examples, self.model, spec.shapes, starts, EXAMPLES, spec.seed
        )
        alone_ms = [
            await self._time(region, given) for region, given in zip(regions, examples, strict=True)
        ]
        placement = place(costs(alone_ms, whole_ms, self._kernels_ms(regions)))
        log.info("regions take %s ms: %s", alone_ms, placement)
        if placement is None or len(set(placement.engines)) == 1:
            return None
        results = tuple(
            RegionResult(region.first, region.last, engine, took_ms)
            for region, engine, took_ms in zip(regions, placement.engines, alone_ms, strict=True)
        )
        return Mixture(await self._join(starts, placement), results)

    def _kernels_ms(self, regions: Sequence[Region]) -> list[float]:
        """What our own kernels of each region take, those without a record left out."""
        return [
            sum(count * self.kernel_us.get(key, 0.0) for key, count in region.kernels.items()) / 1e3
            for region in regions
        ]

    async def _import(self, starts: Sequence[int], wanted: Sequence[bool]) -> tuple[Region, ...]:
        spec = self.spec
        regions: tuple[Region, ...] = await self.run(
            import_regions,
            self.model,
            spec.shapes,
            spec.target_json,
            starts,
            wanted,
            self.algorithms,
        )
        return regions

    async def _time(self, region: Region, examples: bytes) -> dict[str, float]:
        """Milliseconds of a region alone in everything that runs it right."""
        described = replace(
            self.manifest,
            inputs=tuple((tensor.name, tensor.spec) for tensor in region.inputs),
            outputs=tuple((tensor.name, tensor.spec) for tensor in region.outputs),
            engines=tuple(self.engines.values()),
        )
        ways = {
            name: Packaged((_in_engine(region, name),), replace(described, engines=(used,)))
            for name, used in self.engines.items()
        }
        if region.ours is not None:
            ways[OWN] = Packaged(await self._compile(region), described)
        evaluator = replace(EVALUATOR, cold_cache=self.cold_cache)
        measurement = await self.measure(ways, examples, evaluator)
        return {
            variant.name: variant.latency_ms
            for variant in measurement.variants
            if variant.latency_ms is not None
        }

    async def _compile(self, region: Region) -> tuple[PartFiles, ...]:
        parts: tuple[PartFiles, ...] = await self.run(
            compile_parts, (region.ours,), self.spec.target_json, self.traces
        )
        return parts

    async def _join(self, starts: Sequence[int], placement: Placement) -> Packaged:
        """The placed regions, neighbours in one engine as one part."""
        joined = [
            (engine, next(iter(group))[0])
            for engine, group in groupby(
                zip(starts, placement.engines, strict=True), key=lambda item: item[1]
            )
        ]
        names = [engine for engine, _ in joined]
        regions = await self._import(
            [start for _, start in joined], [engine == OWN for engine in names]
        )
        parts: list[PartFiles] = []
        for engine, region in zip(names, regions, strict=True):
            if engine == OWN:
                parts += await self._compile(region)
            else:
                parts.append(_in_engine(region, engine))
        used = tuple(used for name, used in self.engines.items() if name in names)
        return Packaged(tuple(parts), replace(self.manifest, engines=used))


def _in_engine(region: Region, engine: str) -> PartFiles:
    inputs = tuple(tensor.name for tensor in region.inputs)
    outputs = tuple(tensor.name for tensor in region.outputs)
    return PartFiles(engine, inputs, outputs, region.onnx)
