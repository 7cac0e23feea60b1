"""Kernels that are written as TVMScript, in the form of those that TVM makes by itself."""

from __future__ import annotations

from typing import Any


def sizes(*numbers: int) -> str:
    """A shape, or the extents of loops."""
    return f"({', '.join(f'T.int64({number})' for number in numbers)})"


def parsed(source: str) -> Any:
    """The PrimFunc."""
    from tvm.script import from_source

    return from_source(source)
