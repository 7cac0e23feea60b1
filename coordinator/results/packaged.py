"""One way to run a model, before and after it is a file."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from coordinator.package.manifest import Latency, Manifest
from coordinator.package.wheel import PartFiles, write_wheel


@dataclass(frozen=True)
class Packaged:
    """One way to run the model, as a package holds it."""

    parts: tuple[PartFiles, ...]
    manifest: Manifest

    async def wheel(self, latency: Latency | None = None) -> tuple[str, bytes]:
        """File name and bytes."""
        described = replace(self.manifest, latency=latency)
        return await asyncio.to_thread(write_wheel, self.parts, described)
