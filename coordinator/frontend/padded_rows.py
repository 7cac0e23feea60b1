"""How many rows of a map or matrix are computed, so that register tiles divide them.

A tile divides rows and columns, and a prime number of them leaves tiles of one row. Then a few more
rows are computed than there are: they read the last row again, and are not written.
"""

from __future__ import annotations

TILE_ROWS = range(3, 7)
"""How many rows a register tile may have that reads each vector of weights often enough. With four
to two vectors in each, they and what they are multiplied with fill the sixteen registers of AVX2;
seven rows leave too few for two, and one is too little for its latency."""


def padded_rows(rows: int, columns: int = 1) -> int:
    """How many rows, each of ``columns``, are computed for this many: as many, or the next number
    that a tile divides. What is lower than a tile stays as it is."""
    if rows < TILE_ROWS[0] or any(_divides(size, rows, columns) for size in TILE_ROWS):
        return rows
    return padded_rows(rows + 1, columns)


def _divides(size: int, rows: int, columns: int) -> bool:
    """Whether there is a rectangle of this size that divides rows and columns."""
    return any(
        size % high == 0 and rows % high == 0 and columns % (size // high) == 0
        for high in range(1, size + 1)
    )
