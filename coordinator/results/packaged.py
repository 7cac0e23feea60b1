"""One way to run a model, before and after it is a file."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from coordinator.package.manifest import Latency, Manifest
from coordinator.package.wheel import PartFiles, write_wheel
from protos.records import EvaluatorConfig, ModelMeasurement

Run = Callable[..., Awaitable[Any]]
"""Runs a function of the compiler's side where the compiler is: a builder's ``run``."""


@dataclass(frozen=True)
class Packaged:
    """One way to run the model, as a package holds it."""

    parts: tuple[PartFiles, ...]
    manifest: Manifest

    async def wheel(self, latency: Latency | None = None) -> tuple[str, bytes]:
        """File name and bytes."""
        described = replace(self.manifest, latency=latency)
        return await asyncio.to_thread(write_wheel, self.parts, described)


class Measure(Protocol):
    """Verifies and times ways to run a model, by name, in one run on the device."""

    async def __call__(
        self,
        ways: Mapping[str, Packaged],
        examples: bytes,
        evaluator: EvaluatorConfig | None = None,
        *,
        time_parts: bool = False,
    ) -> ModelMeasurement:
        """In the order of ``ways``; by default as whole models are timed. ``time_parts`` asks for
        the times of their parts, too."""
