"""A model of which some regions run in our own code and others in an engine, if that may pay.

Its regions, about one for each convolution or matrix product, are timed on the device in everything
that can run them, each with the way in and out; a placement is chosen by those times
(``placement``), its neighbours in one engine are joined, and the result is one more way to run the
model, to be verified and timed as a whole like the others.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from coordinator.frontend.importer import Region, find_regions, import_regions
from coordinator.frontend.legalization import Algorithms
from coordinator.package.manifest import EngineUsed, Manifest
from coordinator.package.wheel import PartFiles
from coordinator.results.compile import compile_region
from coordinator.results.engine_parts import CannotRun, region_parts
from coordinator.results.packaged import Measure, Packaged, Run
from coordinator.results.placement import Cost, Placement, place, shares
from protos.engines import REFERENCE_ENGINE
from protos.errors import JobFailed
from protos.records import OWN, EvaluatorConfig, JobSpec, RegionResult

log = logging.getLogger(__name__)

MOST_REGIONS = 96
"""Each is compiled by itself."""

WITHIN = 2.0
"""If the best engine takes more than this times our own time, or the other way round, regions are
not looked at: where one is twice as fast as the other, it is so nearly everywhere."""

EVALUATOR = EvaluatorConfig(number=1, repeat=12, min_repeat_ms=40, timeout_s=120.0)


def is_worth_a_look(own_ms: float, engines_ms: Sequence[float]) -> bool:
    """Whether a mixture might beat both."""
    return bool(engines_ms) and 1 / WITHIN <= min(engines_ms) / own_ms <= WITHIN


def costs(
    alone_ms: Sequence[Mapping[str, float]],
    whole_ms: Mapping[str, float],
    kernels_ms: Sequence[float | None],
) -> list[dict[str, Cost]]:
    """What each region costs in each engine, alone and inside of more.

    Of our own code the kernels' times say what a region takes inside; their sum is scaled to what
    the whole model takes. Where they are not known, None, a region cuts through what is one kernel
    in the whole model; it takes its share there, as in an engine. An engine that can't run the
    whole model is taken to be as slow inside.
    """
    found: list[dict[str, Cost]] = [{} for _ in alone_ms]
    for name in dict.fromkeys(name for region in alone_ms for name in region):
        able = [number for number, region in enumerate(alone_ms) if name in region]
        whole = whole_ms.get(name, math.inf)
        given = shares([alone_ms[number][name] for number in able], whole)
        for number, cost in zip(able, given, strict=True):
            found[number][name] = cost
    ours = [(one, ms) for one, ms in zip(found, kernels_ms, strict=True) if OWN in one]
    shared = sum(region[OWN].inner_ms for region, ms in ours if not ms)
    scale = (whole_ms.get(OWN, 0.0) - shared) / (sum(ms for _, ms in ours if ms) or 1.0)
    for region, ms in ours:
        if ms:
            region[OWN] = replace(region[OWN], inner_ms=ms * scale)
    return found


@dataclass(frozen=True)
class Mixture:
    """What each region takes in what, and the model with each where it is fastest; ``way`` is None
    if that is the same engine for all."""

    way: Packaged | None
    regions: tuple[RegionResult, ...]


@dataclass(frozen=True)
class MixtureSearch:
    """What it takes to look for one: the job's model and examples, the records of the tuned one in
    ``traces`` with its ``algorithms`` and what their kernels take, its manifest, the device's
    engines; a builder's ``run``, and ``measure`` on the device."""

    spec: JobSpec
    model: bytes
    examples: bytes = field(repr=False)
    traces: Mapping[str, str]
    algorithms: Algorithms
    kernel_us: Mapping[str, float]
    manifest: Manifest
    engines: Mapping[str, EngineUsed]
    cold_cache: bool
    run: Run
    measure: Measure

    async def find(self, whole_ms: Mapping[str, float]) -> Mixture | None:
        """The placement that should be the fastest, by ``whole_ms``, the whole model's times in our
        own code and in the engines; None if the model has no regions, or none could be timed."""
        starts = await self.run(find_regions, self.model, self.spec.shapes, MOST_REGIONS)
        if len(starts) < 2:
            return None
        regions = await self._import(starts, [True] * len(starts))
        alone_ms = await self._time(regions)
        found = costs(alone_ms, whole_ms, self._kernels_ms(regions))
        placement = place(found)
        log.info("%d regions are placed: %s", len(regions), placement)
        if placement is None:
            return None
        results = tuple(
            RegionResult(
                *(region.first, region.last, engine, took_ms),
                {name: cost.inner_ms for name, cost in cost_of.items()},
            )
            for region, engine, took_ms, cost_of in zip(
                regions, placement.engines, alone_ms, found, strict=True
            )
        )
        mixed = len(set(placement.engines)) > 1
        return Mixture(await self._join(starts, placement) if mixed else None, results)

    def _kernels_ms(self, regions: Sequence[Region]) -> list[float | None]:
        """What our own kernels of each region take; None where one has no record, unless it only
        moves numbers, as those at a region's ends do."""
        return [
            None
            if region.arithmetic - self.kernel_us.keys()
            else sum(n * self.kernel_us.get(key, 0.0) for key, n in region.kernels.items()) / 1e3
            for region in regions
        ]

    async def _import(self, starts: Sequence[int], wanted: Sequence[bool]) -> tuple[Region, ...]:
        spec = self.spec
        regions: tuple[Region, ...] = await self.run(
            *(import_regions, self.model, spec.shapes, spec.target_json),
            *(starts, wanted, self.algorithms),
        )
        return regions

    async def _time(self, regions: Sequence[Region]) -> list[dict[str, float]]:
        """Milliseconds that each region takes in everything that runs it right.

        The model is cut into its regions, and all are run one after the other: once all of ours,
        and once all in each engine. What can't run there runs in ONNX Runtime meanwhile.
        """
        able: dict[str, list[PartFiles | None]] = {
            name: await self._in_engine(name, regions) for name in self.engines
        }
        able[OWN] = list(await asyncio.gather(*map(self._compile, regions)))
        others = able.get(REFERENCE_ENGINE, [None] * len(regions))
        ways = {}
        for name, parts in able.items():
            filled = [part or other for part, other in zip(parts, others, strict=True)]
            whole = [part for part in filled if part is not None]
            if len(whole) == len(regions) and any(parts):
                ways[name] = self._packaged(whole)
        evaluator = replace(EVALUATOR, cold_cache=self.cold_cache)
        measurement = await self.measure(ways, self.examples, evaluator, time_parts=True)
        found: list[dict[str, float]] = [{} for _ in regions]
        for variant in measurement.variants:
            if len(variant.part_s) != len(regions):
                log.info("no region is timed in %s: %s", variant.name, variant.error)
                continue
            for region, part, seconds in zip(
                found, able[variant.name], variant.part_s, strict=True
            ):
                if part is not None:
                    region[variant.name] = seconds * 1e3
        return found

    async def _in_engine(self, name: str, regions: Sequence[Region]) -> list[PartFiles | None]:
        """Each region as a part of this engine's; None where the engine can't run it."""
        parts: list[PartFiles | CannotRun] = await self.run(region_parts, name, regions)
        for region, part in zip(regions, parts, strict=True):
            if isinstance(part, CannotRun):
                log.info("from %s to %s: %s", region.first, region.last, part.reason)
        return [None if isinstance(part, CannotRun) else part for part in parts]

    async def _compile(self, region: Region) -> PartFiles | None:
        """A region as a part of our own code; None if it can't be imported or compiled."""
        if region.ours is None:
            return None
        try:
            parts: tuple[PartFiles, ...] = await self.run(
                compile_region, region.ours, self.spec.target_json, self.traces
            )
        except JobFailed as error:
            log.warning("from %s to %s: %s", region.first, region.last, error)
            return None
        return parts[0]

    def _packaged(self, parts: Sequence[PartFiles]) -> Packaged:
        names = {part.engine for part in parts}
        used = tuple(used for name, used in self.engines.items() if name in names)
        return Packaged(tuple(parts), replace(self.manifest, engines=used))

    async def _join(self, starts: Sequence[int], placement: Placement) -> Packaged | None:
        """The placed regions, neighbours in one engine as one part; None if one of these can't be
        made, though its regions could."""
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
        parts = []
        for engine, region in zip(names, regions, strict=True):
            if engine == OWN:
                part = await self._compile(region)
            else:
                (part,) = await self._in_engine(engine, [region])
            if part is None:
                log.warning("no mixture: %s can't run all from %s on", engine, region.first)
                return None
            parts.append(part)
        return self._packaged(parts)
