"""Which tiles of an output are accumulated in registers (pure): drawn among those that fit.

What makes a matrix product fast is known (Goto and van de Geijn, "Anatomy of High-Performance
Matrix Multiplication", ACM TOMS 2008, section 4): as many vectors of the output as fit into the
registers. The schedules around a tile are in ``tile_sketches.py``.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

MIN_LANES = 4
"""A shorter innermost loop is not worth a vector."""

SPARE_REGISTERS = 2
"""Left for what is multiplied with the accumulators."""

MAX_UNROLLED = 128
"""Vector operations in the unrolled body; longer ones are slow to compile and fill the cache."""

MAX_UNROLLED_REDUCTION = 25
"""Steps of the reduction that are unrolled: a 5×5 kernel whole."""

STRIDED_LANES = 4
"""Single elements that cost as much code as a vector."""

DRAWS = 16
"""How often the division among threads is drawn before one that is uneven is taken."""

Factors = tuple[tuple[int, ...], ...]
"""Of each spatial loop (outer, inner, registers), the last one's with lanes; then of each reduction
loop (serial, unrolled)."""


@dataclass(frozen=True)
class Loops:
    """Extents of a reduction's loops, and what the CPU has for them."""

    spatial: tuple[int, ...]
    reduction: tuple[int, ...]
    width: int
    """Elements in the widest vector."""
    registers: int
    threads: int
    strided: bool = False
    """Neighbours along the last spatial loop are not neighbours in memory: vectors are put together
    from single elements, which is long code."""
    runs: int = 0
    """How many neighbours along the last spatial loop are neighbours in memory, and a vector must
    not have more; 0: all."""

    def vectors(self, lanes: int) -> int:
        """What a vector of this many lanes counts for in registers and in code."""
        return math.ceil(lanes / (min(self.width, STRIDED_LANES) if self.strided else self.width))

    @property
    def accumulators(self) -> int:
        """The most vectors that a tile may have."""
        return self.registers - SPARE_REGISTERS


def divisors(number: int) -> list[int]:
    """In ascending order."""
    low = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return low + [number // d for d in reversed(low) if d * d != number]


@dataclass(frozen=True)
class Tile:
    """One factor for each spatial loop, and how many lanes of the last one are a vector."""

    registers: tuple[int, ...]
    lanes: int
    vectors: int
    weight: float


def _distance(first: Tile, second: Tile) -> int:
    """In how many respects two tiles differ."""
    pairs = zip(first.registers, second.registers, strict=True)
    return sum(a != b for a, b in pairs) + (first.lanes != second.lanes)


def tiles(loops: Loops) -> list[Tile]:
    """Those that fit into the registers, with a weight each: full vectors, many of them."""
    found = []
    for lanes in divisors(loops.spatial[-1]):
        uneven = lanes > loops.width and lanes % loops.width  # LLVM makes a mess of these
        if uneven or not MIN_LANES <= lanes <= 2 * loops.width:
            continue
        if (loops.runs or loops.spatial[-1]) % lanes:
            continue
        native = loops.vectors(lanes)
        # Half a vector is as fast as a whole one where the units are half as wide.
        vector = max(loops.width // 2, 1 << (min(lanes, loops.width) - 1).bit_length())
        filled = lanes / (math.ceil(lanes / loops.width) * vector)
        most = loops.accumulators // native
        choices: list[tuple[tuple[int, ...], int]] = [((), 1)]
        for extent in (*loops.spatial[:-1], loops.spatial[-1] // lanes):
            choices = [
                ((*factors, factor), product * factor)
                for factors, product in choices
                for factor in divisors(extent)
                if product * factor <= most
            ]
        found += [
            Tile(factors, lanes, product * native, filled**2 * product * native)
            for factors, product in choices
        ]
    return found


class TileSpace:
    """Draws and changes factors. Decisions only; raises ValueError if no tile fits."""

    def __init__(self, loops: Loops) -> None:
        self._loops = loops
        self._tiles = tiles(loops)
        if not self._tiles:
            raise ValueError(f"no vector fits into a last loop of {loops.spatial[-1]}")
        self._weights = [tile.weight for tile in self._tiles]

    def draw(self, rng: random.Random, serial: bool) -> Factors:
        """Factors at random."""
        (tile,) = rng.choices(self._tiles, self._weights)
        return (*self._divide(tile, rng, serial), *self._reduce(tile, rng))

    def change(self, factors: Factors, rng: random.Random, serial: bool) -> Factors:
        """Factors that differ in the tile, the division among threads, or the reduction."""
        count = len(self._loops.spatial)
        tile = self._tile_of(factors)
        what = rng.choice(("tile", "threads", "reduction"))
        if what == "reduction":
            return (*factors[:count], *self._reduce(tile, rng))
        if what == "tile":
            tile = self._neighbour(tile, rng)
        fits = self._unrolled(factors) <= self._most(tile)
        return (
            *self._divide(tile, rng, serial),
            *(factors[count:] if fits else self._reduce(tile, rng)),
        )

    def _neighbour(self, tile: Tile, rng: random.Random) -> Tile:
        """One that differs in one factor or in the lanes; any other one if there is none."""
        near = [other for other in self._tiles if _distance(tile, other) == 1]
        (found,) = rng.choices(near or self._tiles, [t.weight for t in near] or self._weights)
        return found

    def _tile_of(self, factors: Factors) -> Tile:
        spatial = factors[: len(self._loops.spatial)]
        registers, lanes = tuple(f[2] for f in spatial), spatial[-1][3]
        vectors = math.prod(registers) * self._loops.vectors(lanes)
        return Tile(registers, lanes, vectors, 1.0)

    def _divide(self, tile: Tile, rng: random.Random, serial: bool) -> Factors:
        """What is around the tile: outer loops, which threads share, and inner ones."""
        threads = self._loops.threads
        extents = [e // r for e, r in zip(self._loops.spatial, tile.registers, strict=True)]
        extents[-1] //= tile.lanes
        outer: list[int] = []
        for _ in range(DRAWS):
            outer = [rng.choice(divisors(extent)) for extent in extents]
            if serial or math.prod(outer) % threads == 0:
                break
        spatial = [
            (first, extent // first, register)
            for first, extent, register in zip(outer, extents, tile.registers, strict=True)
        ]
        return (*spatial[:-1], (*spatial[-1], tile.lanes))

    def _reduce(self, tile: Tile, rng: random.Random) -> Factors:
        left, chosen = self._most(tile), []
        for extent in reversed(self._loops.reduction):
            unrolled = rng.choice([d for d in divisors(extent) if d <= left])
            left //= unrolled
            chosen.append((extent // unrolled, unrolled))
        return tuple(reversed(chosen))

    def _unrolled(self, factors: Factors) -> int:
        return math.prod(f[1] for f in factors[len(self._loops.spatial) :])

    def _most(self, tile: Tile) -> int:
        return max(1, min(MAX_UNROLLED_REDUCTION, MAX_UNROLLED // tile.vectors))
