"""exp, erf and tanh as arithmetic on vectors, in place of a call of C's library for each number.

LLVM has no vectors of these functions of its own: it takes a vector apart and calls ``expf`` for
each lane, 2.5 ns each and more (``benchmarks/functions.py``), where what is here takes 0.4.
Sigmoid, SiLU, GELU and softmax are made of them. TVM's ``topi.fast_exp`` and its like are tensors
beside the operator, which a schedule has to place; these are put in when the schedule is done, so
that workloads and traces stay as they are.

Within two units in the last place of the exact value for exp, and six for erf and tanh; NaN stays
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
"""The logarithm of 2 in two parts; the first has few digits, so that n times it is exact."""

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
            return rule(_Code(dtype), call.args[0])
        if name == "erf":
            if lanes:
                raise NotImplementedError(f"no vectors of erf in {kind}, only in float32")
            return call  # TVM's rule for any target comes next
        return tirx.call_llvm_pure_intrin(call.ty, f"llvm.{name}", call.args[0])

    return lower


class _Code:
    """Expressions in the type of the argument, float32 or a vector of it, and variables for what
    is used more than once."""

    def __init__(self, dtype: str) -> None:
        self._lanes = dtype.partition("x")[2]
        self._variables: list[tuple[Any, Any]] = []

    def real(self, value: float) -> Any:
        """A constant."""
        return self._constant(value, "float32")

    def integer(self, value: int) -> Any:
        """A constant of int32."""
        return self._constant(value, "int32")

    def as_integer(self, value: Any) -> Any:
        """The bits of float32 as int32."""
        return self._reinterpret("int32", value)

    def as_real(self, value: Any) -> Any:
        """The bits of int32 as float32."""
        return self._reinterpret("float32", value)

    def once(self, value: Any) -> Any:
        """A variable with this value."""
        from tvm import tirx

        variable = tirx.Var("v", value.ty)
        self._variables.append((variable, value))
        return variable

    def result(self, value: Any) -> Any:
        """The value as an expression with all variables in it."""
        from tvm import tirx

        for variable, bound in reversed(self._variables):
            value = tirx.Let(variable, bound, value)
        return value

    def between(self, low: float, high: float, x: Any) -> Any:
        """x, or the end that it is beyond; NaN, which no comparison is true of, comes out again."""
        from tvm import tirx

        return tirx.Max(self.real(low), tirx.Min(self.real(high), x))

    def polynomial(self, coefficients: Sequence[float], x: Any) -> Any:
        """By Horner's rule, the highest power's coefficient first."""
        value = self.real(coefficients[0])
        for coefficient in coefficients[1:]:
            value = value * x + self.real(coefficient)
        return value

    def _constant(self, value: float, dtype: str) -> Any:
        from tvm import tirx

        scalar = tirx.const(value, dtype)
        return tirx.Broadcast(scalar, int(self._lanes)) if self._lanes else scalar

    def _reinterpret(self, dtype: str, value: Any) -> Any:
        from tvm import tirx

        return tirx.reinterpret(f"{dtype}x{self._lanes}" if self._lanes else dtype, value)


def _exp(code: _Code, x: Any) -> Any:
    """2^n * e^r, where r is what is left when n times the logarithm of 2 is taken off."""
    real, once = code.real, code.once
    x = once(code.between(*EXP_RANGE, x))
    shifted = once(x * real(LOG2_E) + real(ROUNDER))
    n = once(shifted - real(ROUNDER))
    r = once(x - n * real(LN_2[0]) - n * real(LN_2[1]))
    # The sum's lowest bits are n; where a float's exponent is, they make it 2^n.
    exponent = code.as_integer(shifted) << code.integer(23)
    power = code.as_real(exponent + code.integer(127 << 23))
    return code.result(power * (code.polynomial(EXP, r) * (r * r) + r + real(1.0)))


def _erf(code: _Code, x: Any) -> Any:
    return _odd(code, code.between(-ERF_LIMIT, ERF_LIMIT, x), ERF_NUMERATOR, ERF_DENOMINATOR)


def _tanh(code: _Code, x: Any) -> Any:
    return _odd(code, code.between(-TANH_LIMIT, TANH_LIMIT, x), TANH_NUMERATOR, TANH_DENOMINATOR)


def _odd(code: _Code, x: Any, numerator: Sequence[float], denominator: Sequence[float]) -> Any:
    """x P(x²) / Q(x²)."""
    x = code.once(x)
    square = code.once(x * x)
    return code.result(
        x * code.polynomial(numerator, square) / code.polynomial(denominator, square)
    )
