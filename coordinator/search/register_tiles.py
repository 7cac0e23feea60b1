"""Which tiles of an output are accumulated in registers (pure): drawn among those that fit.

What makes a matrix product fast is known (Goto and van de Geijn, "Anatomy of High-Performance
Matrix Multiplication", ACM TOMS 2008, section 4): as many vectors of the output as fit into the
registers. The schedules around a tile are in ``tile_sketches.py``.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
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

NEAR_SHARE = 0.5
"""Of the changes, those that keep the loops around a tile but for one step, or as far as another
tile allows; the others divide them anew. What is good around one tile often is around its like."""

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


def _apart(first: Sequence[int], second: Sequence[int]) -> float:
    """How far factors are from others: by how many doublings."""
    return sum(abs(math.log2(a / b)) for a, b in zip(first, second, strict=True))


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
        """Factors that differ in the tile, the division among threads, or the reduction; of the
        first two, half of the time, as little as may be."""
        count = len(self._loops.spatial)
        tile = self._tile_of(factors)
        what = rng.choice(("tile", "threads", "reduction"))
        if what == "reduction":
            return (*factors[:count], *self._reduce(tile, rng))
        near, outer = rng.random() < NEAR_SHARE, [f[0] for f in factors[:count]]
        if what == "tile":
            tile = self._neighbour(tile, rng)
        elif near:
            outer = self._shifted(tile, outer, rng)
        divided = self._around(tile, outer, serial) if near else self._divide(tile, rng, serial)
        return (*divided, *self._reduction_of(factors, tile, rng))

    def _shifted(self, tile: Tile, outer: Sequence[int], rng: random.Random) -> list[int]:
        """The next number of outer iterations, more or fewer, for one of the loops."""
        extents = self._extents(tile)
        axis = rng.choice([i for i, extent in enumerate(extents) if extent > 1] or [0])
        choices = divisors(extents[axis])
        index = choices.index(outer[axis])
        near = [i for i in (index - 1, index + 1) if 0 <= i < len(choices)] or [index]
        return [choices[rng.choice(near)] if i == axis else o for i, o in enumerate(outer)]

    def refit(
        self, factors: Factors, lanes: int | None, rng: random.Random, serial: bool
    ) -> Factors:
        """Factors for this CPU like those that were found for vectors of ``lanes`` elements and for
        other threads: as many vectors in a tile, and the same around it, as near as the extents
        and an equal share for each thread allow. If nobody knows for what they were found, tiles
        of full vectors that fit into the registers stay."""
        count, found = len(self._loops.spatial), self._tile_of(factors)
        tile = self._tile_like(found, lanes)
        divided = self._around(tile, [f[0] for f in factors[:count]], serial)
        return (*divided, *self._reduction_of(factors, tile, rng))

    def _tile_like(self, found: Tile, lanes: int | None) -> Tile:
        full = lanes is None and found.lanes >= self._loops.width
        alike = full or lanes == self._loops.width
        if alike and any(_distance(found, own) == 0 for own in self._tiles):
            return found
        wanted = found.lanes * self._loops.width / (lanes or found.lanes)

        def distance(tile: Tile) -> tuple[float, float, float]:
            apart = _apart(tile.registers, found.registers)
            return abs(math.log2(tile.lanes / wanted)), apart, -tile.weight

        return min(self._tiles, key=distance)

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
        outer: list[int] = []
        for _ in range(DRAWS):
            outer = [rng.choice(divisors(extent)) for extent in self._extents(tile)]
            if serial or math.prod(outer) % self._loops.threads == 0:
                break
        return self._spatial(tile, outer)

    def _around(self, tile: Tile, wanted: Sequence[int], serial: bool) -> Factors:
        """What is around the tile, with the outer loops that are nearest to those that are wanted;
        of equally near ones, the first is divided."""
        threads = 1 if serial else self._loops.threads
        choices = itertools.product(*(divisors(extent) for extent in self._extents(tile)))

        def distance(outer: Sequence[int]) -> tuple[bool, float, list[int]]:
            uneven = math.prod(outer) % threads != 0
            return uneven, _apart(outer, wanted), [-factor for factor in outer]

        return self._spatial(tile, min(choices, key=distance))

    def _extents(self, tile: Tile) -> list[int]:
        """Of what is around the tile."""
        extents = [e // r for e, r in zip(self._loops.spatial, tile.registers, strict=True)]
        extents[-1] //= tile.lanes
        return extents

    def _spatial(self, tile: Tile, outer: Sequence[int]) -> Factors:
        pairs = zip(outer, self._extents(tile), tile.registers, strict=True)
        spatial = [(first, extent // first, register) for first, extent, register in pairs]
        return (*spatial[:-1], (*spatial[-1], tile.lanes))

    def _reduce(self, tile: Tile, rng: random.Random) -> Factors:
        left, chosen = self._most(tile), []
        for extent in reversed(self._loops.reduction):
            unrolled = rng.choice([d for d in divisors(extent) if d <= left])
            left //= unrolled
            chosen.append((extent // unrolled, unrolled))
        return tuple(reversed(chosen))

    def _reduction_of(self, factors: Factors, tile: Tile, rng: random.Random) -> Factors:
        """The reduction's factors, or others if so much can't be unrolled around this tile."""
        reduction = factors[len(self._loops.spatial) :]
        fits = math.prod(f[1] for f in reduction) <= self._most(tile)
        return reduction if fits else self._reduce(tile, rng)

    def _most(self, tile: Tile) -> int:
        return max(1, min(MAX_UNROLLED_REDUCTION, MAX_UNROLLED // tile.vectors))
