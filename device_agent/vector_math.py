"""exp, erf and tanh as arithmetic on vectors, in place of a call of C's library for each number.

LLVM has no vectors of these functions of its own: it takes a vector apart and calls ``expf`` for
each lane, 3 to 5 ns each, where what is here takes a tenth of that. Sigmoid, SiLU, GELU and softmax
are made of them. TVM's ``topi.fast_exp`` and its like are tensors beside the operator, which a
schedule has to place; these are put in when the schedule is done, so that workloads and traces stay
as they are.

Within two units in the last place of the exact value for exp, and a few for erf and tanh; NaN stays
NaN. exp does not reach 0 and infinity: it ends at 1.2e-38 and 2.4e38. Only for float32; other types
are left to the library.

Sources: exp is Cephes' (S. L. Moshier, ``expf.c``) with the rounding by addition of a large number,
tanh is Eigen's (``generic_fast_tanh_float``), erf is XLA's (``ErfImpl32``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

LEVEL = 99
"""Of a rule in TVM's registry; its own have 10, and the highest is taken."""

EXP_RANGE = (-87.33654, 88.37626)
"""Outside of it the result is that of the nearer end: 2^n must be a normal number."""

LOG2_E = 1.44269504088896341
LN_2 = (0.693359375, -2.12194440e-4)
"""The logarithm of 2 in two parts, of which the first has few digits, so that n times it is exact."""

ROUNDER = 12582912.0
"""1.5 * 2^23: added to a number, its lowest bits are the number's nearest integer."""

EXP = (
    *(1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3),
    *(4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1),
)

ERF_LIMIT = 3.832506856900711
"""From here on erf is 1 in float32."""

ERF_NUMERATOR = (
    *(0.00022905065861350646, 0.0034082910107109506, 0.050955695062380861),
    *(0.18520832239976145, 1.128379143519084),
)
ERF_DENOMINATOR = (
    *(-1.1791602954361697e-7, 0.000023547966471313185, 0.0010179625278914885),
    *(0.014070470171167667, 0.11098505178285362, 0.49746925110067538, 1.0),
)

TANH_LIMIT = 7.90531110763549805
"""From here on tanh is 1 in float32."""

TANH_NUMERATOR = (
    *(-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11),
    *(5.12229709037114e-08, 1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03),
)
TANH_DENOMINATOR = (
    *(1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03),
    4.89352518554385e-03,
)


@functools.cache
def register() -> None:
    """From now on kernels that this process builds for CPUs have them."""
    from tvm.ir import register_op_attr
    from tvm.tirx import register_intrin_lowering

    register_op_attr("tirx.erf", "TVectorizable", True, LEVEL)  # the others are
    for name, rule in (("exp", _exp), ("erf", _erf), ("tanh", _tanh)):
        register_intrin_lowering(f"tirx.{name}", "llvm", f=_for_float32(rule, name), level=LEVEL)


def _for_float32(rule: Callable[[Any, Any], Any], name: str) -> Callable[[Any], Any]:
    """The rule as TVM calls it: an expression for a call of the function."""

    def lower(call: Any) -> Any:
        from tvm import tirx

        dtype = str(call.ty.dtype)
        kind, _, lanes = dtype.partition("x")
        if kind == "float32":
            return rule(_Constants(dtype), call.args[0])
        if name == "erf":
            if lanes:
                raise NotImplementedError(f"no vectors of erf in {kind}, only in float32")
            return call  # TVM's rule for any target comes next
        return tirx.call_llvm_pure_intrin(call.ty, f"llvm.{name}", call.args[0])

    return lower


class _Constants:
    """Numbers in the type of the argument, a float32 or a vector of them."""

    def __init__(self, dtype: str) -> None:
        self._lanes = dtype.partition("x")[2]

    def real(self, value: float) -> Any:
        return self._of(value, "float32")

    def integer(self, value: int) -> Any:
        return self._of(value, "int32")

    def as_integer(self, value: Any) -> Any:
        """The bits of float32 as int32."""
        return self._reinterpret("int32", value)

    def as_real(self, value: Any) -> Any:
        """The bits of int32 as float32."""
        return self._reinterpret("float32", value)

    def _of(self, value: float, dtype: str) -> Any:
        from tvm import tirx

        scalar = tirx.const(value, dtype)
        return tirx.Broadcast(scalar, int(self._lanes)) if self._lanes else scalar

    def _reinterpret(self, dtype: str, value: Any) -> Any:
        from tvm import tirx

        return tirx.reinterpret(f"{dtype}x{self._lanes}" if self._lanes else dtype, value)


def _exp(of: _Constants, x: Any) -> Any:
    """2^n * e^r, where r is what is left when n times the logarithm of 2 is taken off."""

    def with_shifted(x: Any) -> Any:
        return _let(x * of.real(LOG2_E) + of.real(ROUNDER), lambda t: with_rounded(x, t))

    def with_rounded(x: Any, shifted: Any) -> Any:
        n = shifted - of.real(ROUNDER)
        return _let(
            n, lambda n: with_rest(x - n * of.real(LN_2[0]) - n * of.real(LN_2[1]), shifted)
        )

    def with_rest(rest: Any, shifted: Any) -> Any:
        return _let(rest, lambda r: power_of_two(shifted) * e_to(r))

    def power_of_two(shifted: Any) -> Any:
        # The sum's lowest bits are n; where a float's exponent is, they make it 2^n.
        exponent = of.as_integer(shifted) << of.integer(23)
        return of.as_real(exponent + of.integer(127 << 23))

    def e_to(r: Any) -> Any:
        return _polynomial(of, EXP, r) * (r * r) + r + of.real(1.0)

    return _let(_between(of, EXP_RANGE, x), with_shifted)


def _erf(of: _Constants, x: Any) -> Any:
    return _odd(of, x, ERF_LIMIT, ERF_NUMERATOR, ERF_DENOMINATOR)


def _tanh(of: _Constants, x: Any) -> Any:
    return _odd(of, x, TANH_LIMIT, TANH_NUMERATOR, TANH_DENOMINATOR)


def _odd(
    of: _Constants,
    x: Any,
    limit: float,
    numerator: Sequence[float],
    denominator: Sequence[float],
) -> Any:
    """x P(x²) / Q(x²), x no further from zero than ``limit``."""

    def rational(x: Any) -> Any:
        return _let(
            x * x,
            lambda s: x * _polynomial(of, numerator, s) / _polynomial(of, denominator, s),
        )

    return _let(_between(of, (-limit, limit), x), rational)


def _between(of: _Constants, ends: tuple[float, float], x: Any) -> Any:
    """x, or the end that it is beyond. The comparisons are false for NaN, which comes out again."""
    from tvm import tirx

    low, high = of.real(ends[0]), of.real(ends[1])
    return tirx.Max(low, tirx.Min(high, x))


def _polynomial(of: _Constants, coefficients: Sequence[float], x: Any) -> Any:
    """By Horner's rule, the highest power's coefficient first."""
    value = of.real(coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + of.real(coefficient)
    return value


def _let(value: Any, body: Callable[[Any], Any]) -> Any:
    """The body of a variable that is computed once."""
    from tvm import tirx

    variable = tirx.Var("v", value.ty)
    return tirx.Let(variable, value, body(variable))
