"""What a Relax expression is, without importing TVM where nothing is lowered."""

from __future__ import annotations

from typing import Any


def is_operator(expression: Any, name: str) -> bool:
    """Whether it is a call of the operator ``relax.…``."""
    from tvm import ir, relax

    return (
        isinstance(expression, relax.Call)
        and isinstance(expression.op, ir.Op)
        and expression.op.name == name
    )


def is_constant(expression: Any) -> bool:
    """Whether its value is in the module."""
    from tvm.ir.expr import GenericConst

    return isinstance(expression, GenericConst)
