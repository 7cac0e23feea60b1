"""Products with one-hot rows as look-ups.

Exporters write an embedding as one: each number is compared with all that it may be, and the row of
zeros with a one in it is multiplied with the table. The result is a row of the table, or zeros.
"""

from __future__ import annotations

from typing import Any

from .expressions import OpPattern, is_constant, is_operator, mutate, shape_of, tidied


def look_up(module: Any) -> Any:
    """The module with such products as kernels that read the table."""
    return tidied(mutate(module, _looked_up))


def _looked_up(mutator: Any, call: Any) -> Any:
    import numpy as np
    from tvm import relax, te, tirx

    if not is_operator(call, "relax.matmul") or not is_constant(call.args[1]):
        return call
    table = call.args[1].value.numpy()
    numbers = _numbers(mutator, call.args[0])
    if numbers is None or table.ndim != 2 or str(call.ty.dtype) != str(table.dtype):
        return call
    count, columns = table.shape
    rows = np.concatenate([table, np.zeros_like(table[:1])])  # the last one for unknown numbers

    def row(n: Any, w: Any) -> Any:
        def element(*place: Any) -> Any:
            number = n[*place[:-1], 0]
            known = tirx.all(number >= 0, number < count)
            return w[tirx.Select(known, number, count), place[-1]]

        return te.compute((*n.shape[:-1], columns), element, "look_up")

    # TVM takes what is indexed by what was read for something that nothing can be fused with.
    return mutator.builder_.call_te(
        row,
        numbers,
        relax.const(rows),
        primfunc_name_hint="look_up",
        primfunc_attrs={"op_pattern": OpPattern.INJECTIVE},
    )


def _numbers(mutator: Any, rows: Any) -> Any | None:
    """The integers (…, 1) that one-hot ``rows`` are made of; None if they are something else."""
    import numpy as np

    made = _bound(mutator, rows, "relax.astype")
    compared = _bound(mutator, made.args[0], "relax.equal") if made is not None else None
    if compared is None:
        return None
    constants = [argument for argument in compared.args if is_constant(argument)]
    numbers = [argument for argument in compared.args if not is_constant(argument)]
    if len(constants) != 1 or not str(numbers[0].ty.dtype).startswith("int"):
        return None
    known, shape = constants[0].value.numpy(), shape_of(compared)
    in_order = known.size == shape[-1] and np.array_equal(known.ravel(), np.arange(known.size))
    whole = shape_of(numbers[0]) == (*shape[:-1], 1) and known.shape[-1:] == shape[-1:]
    return numbers[0] if in_order and whole else None


def _bound(mutator: Any, expression: Any, name: str) -> Any | None:
    """The call of this operator that a variable is bound to, if it is."""
    from tvm import relax

    bound = mutator.lookup_binding(expression) if isinstance(expression, relax.Var) else None
    return bound if bound is not None and is_operator(bound, name) else None
