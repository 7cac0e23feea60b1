"""exp, erf and tanh as the farm's kernels compute them, against the exact values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import te, tirx
from tvm.s_tir import Schedule

from device_agent.build import code_generation, code_target
from tests.kernels import target_json

EXACT = {
    "exp": np.exp,
    "erf": np.vectorize(math.erf),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}
FARTHEST = {"exp": 87.0, "erf": 5.0, "tanh": 12.0, "sigmoid": 80.0}
SIZE = 1 << 16


def kernel(function: str, lanes: int, dtype: str = "float32") -> Any:
    """Of ``SIZE`` numbers, in vectors if ``lanes`` is more than 1."""
    x = te.placeholder((SIZE,), dtype, "x")
    y = te.compute((SIZE,), lambda i: getattr(tirx, function)(x[i]), "y")
    named = te.create_prim_func([x, y]).with_attr("global_symbol", "main")
    schedule = Schedule(tvm.IRModule({"main": named}))
    if lanes > 1:
        (loop,) = schedule.get_loops(schedule.get_sblock("y"))
        schedule.vectorize(schedule.split(loop, [None, lanes])[1])
    with code_generation():
        return tvm.compile(schedule.mod, target=code_target(target_json()))


def values(executable: Any, x: Any) -> Any:
    given, taken = tvm.runtime.tensor(x), tvm.runtime.tensor(np.zeros_like(x))
    executable.jit()["main"](given, taken)
    return taken.numpy()


@pytest.mark.parametrize("lanes", [1, 8, 16])
@pytest.mark.parametrize("function", EXACT)
def test_a_function_is_as_exact_as_float32_allows(function: str, lanes: int) -> None:
    x = np.linspace(-FARTHEST[function], FARTHEST[function], SIZE).astype(np.float32)
    x[: SIZE // 4] *= np.float32(1e-4)  # near zero, too
    exact = EXACT[function](x.astype(np.float64))
    found = values(kernel(function, lanes), x)
    units = np.abs(found - exact) / np.spacing(np.abs(exact).astype(np.float32))
    assert units.max() < (2.0 if function == "exp" else 6.0)


@pytest.mark.parametrize("function", ["exp", "erf", "tanh", "sigmoid"])
def test_vectors_call_no_library(function: str) -> None:
    assembly = kernel(function, 8).mod.inspect_source("asm")
    assert not [line for line in assembly.splitlines() if f"{function}f" in line or "expf" in line]


@pytest.mark.parametrize("lanes", [1, 8])
def test_far_away_and_what_is_no_number(lanes: int) -> None:
    x = np.zeros(SIZE, np.float32)
    x[:5] = [np.nan, np.inf, -np.inf, 1e30, -1e30]
    for function, high, low in (("erf", 1.0, -1.0), ("tanh", 1.0, -1.0), ("sigmoid", 1.0, 0.0)):
        found = values(kernel(function, lanes), x)
        assert np.isnan(found[0])
        np.testing.assert_allclose(found[1:5], [high, low, high, low], atol=3e-7)
    found = values(kernel("exp", lanes), x)
    assert np.isnan(found[0])
    assert (found[[1, 3]] > 2e38).all()
    assert (found[[2, 4]] < 2e-38).all()
    assert (found[5:] == 1.0).all()


@pytest.mark.parametrize("function", ["exp", "erf", "tanh"])
def test_double_precision_is_the_librarys(function: str) -> None:
    x = np.linspace(-3, 3, SIZE)
    found = values(kernel(function, 1, "float64"), x)
    np.testing.assert_allclose(found, EXACT[function](x), rtol=1e-14, atol=1e-15)


def test_vectors_of_erf_in_double_precision_are_refused() -> None:
    with pytest.raises(Exception, match="no vectors of erf in float64"):
        kernel("erf", 4, "float64")
