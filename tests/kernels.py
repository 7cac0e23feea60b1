"""Real kernels for tests, good and bad, built by TVM. Importing this module imports TVM."""

# No ``from __future__ import annotations``: TVMScript reads the annotations' values.

import functools
import json
import platform

import tvm
from tvm import te
from tvm.s_tir import Schedule
from tvm.script import tirx as T  # noqa: N812 - as TVMScript is written

from device_agent.build import build_kernel
from protos.records import Artifact, MeasurementStatus, TensorSpec, canonical_json

N = 64
"""Every faulty kernel maps one vector of this length to another."""

VECTORS = (TensorSpec((N,), "float32"),) * 2
INTEGERS = (TensorSpec((N,), "int32"),) * 2


def target_json(num_cores: int = 1) -> str:
    """A target that every CPU of this machine's architecture runs."""
    if platform.machine() == "aarch64":
        cpu = {"mtriple": "aarch64-linux-gnu", "mcpu": "generic", "mattr": ["+neon"]}
    else:
        cpu = {"mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v2"}
    return canonical_json({"kind": "llvm", "num-cores": num_cores, **cpu})


def workload_json(function: "tvm.tirx.PrimFunc") -> str:
    """The text of a module with this function as ``main``."""
    module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    return str(tvm.ir.save_json(module))


def built(function: "tvm.tirx.PrimFunc", trace_json: str = "") -> Artifact:
    """The artifact of a function; fails the test if it does not build."""
    outcome = build_kernel(workload_json(function), trace_json, target_json())
    assert outcome.status is MeasurementStatus.OK, outcome.error
    assert outcome.artifact is not None
    return outcome.artifact


def matmul(size: int = 64, dtype: str = "float32") -> "tvm.tirx.PrimFunc":
    """C = A × B."""
    a = te.placeholder((size, size), dtype, name="A")
    b = te.placeholder((size, size), dtype, name="B")
    k = te.reduce_axis((0, size), name="k")
    c = te.compute((size, size), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="C")
    return te.create_prim_func([a, b, c])


def matmul_args(size: int = 64, dtype: str = "float32") -> tuple[TensorSpec, ...]:
    """Its parameters."""
    return (TensorSpec((size, size), dtype),) * 3


def matmul_trace(size: int = 64, parallel: bool = True) -> str:
    """A trace that reorders its loops and, if ``parallel``, divides the rows among threads."""
    schedule = Schedule(tvm.IRModule({"main": matmul(size).with_attr("global_symbol", "main")}))
    i, j, k = schedule.get_loops(schedule.get_sblock("C"))
    schedule.reorder(i, k, j)
    if parallel:
        schedule.parallel(i)
    return json.dumps(schedule.trace.as_json(False))


def copy(dtype: str) -> "tvm.tirx.PrimFunc":
    """B = A."""
    a = te.placeholder((N,), dtype, name="A")
    return te.create_prim_func([a, te.compute((N,), lambda i: a[i], name="B")])


@T.prim_func(s_tir=True)
def _doubled(A: T.Buffer((N,), "float32"), B: T.Buffer((N,), "float32")):  # noqa: N803
    for i in range(N):
        B[i] = A[i] * T.float32(2)


@T.prim_func(s_tir=True)
def _wrong(A: T.Buffer((N,), "float32"), B: T.Buffer((N,), "float32")):  # noqa: N803
    for i in range(N):
        B[i] = A[i] * T.float32(2) + T.if_then_else(i == 7, T.float32(0.25), T.float32(0))


@T.prim_func(s_tir=True)
def _silent(A: T.Buffer((N,), "float32"), B: T.Buffer((N,), "float32")):  # noqa: N803
    T.evaluate(0)


@T.prim_func(s_tir=True)
def _segfault(A: T.Buffer((N,), "float32"), B: T.Buffer((N,), "float32")):  # noqa: N803
    for i in range(N):
        B[T.int64(1) << T.int64(44)] = A[i]


@T.prim_func(s_tir=True)
def _endless(A: T.Buffer((N,), "float32"), B: T.Buffer((N,), "float32")):  # noqa: N803
    for i in T.serial(T.int64(1) << T.int64(60)):
        B[i % T.int64(N)] = B[i % T.int64(N)] * T.float32(1.0001) + A[i % T.int64(N)]


@T.prim_func(s_tir=True)
def _exits(A: T.Buffer((N,), "float32"), B: T.Buffer((N,), "float32")):  # noqa: N803
    T.evaluate(T.call_extern("int32", "exit", 3))


@T.prim_func(s_tir=True)
def _aborts(A: T.Buffer((N,), "float32"), B: T.Buffer((N,), "float32")):  # noqa: N803
    T.evaluate(T.call_extern("int32", "abort"))


@T.prim_func(s_tir=True)
def _babbles(A: T.Buffer((N,), "float32"), B: T.Buffer((N,), "float32")):  # noqa: N803
    T.evaluate(T.call_extern("int64", "write", 3, A.data, T.int64(4 * N)))
    for i in range(N):
        B[i] = A[i] * T.float32(2)


@T.prim_func(s_tir=True)
def _forks_and_hangs(A: T.Buffer((N,), "float32"), B: T.Buffer((N,), "float32")):  # noqa: N803
    T.evaluate(T.call_extern("int32", "fork"))
    T.evaluate(T.call_extern("int32", "setsid"))
    T.evaluate(T.call_extern("uint32", "sleep", T.uint32(600)))


@T.prim_func(s_tir=True)
def _scribbles(A: T.Buffer((N,), "float32"), B: T.Buffer((N,), "float32")):  # noqa: N803
    for i in range(N):
        A[i] = T.float32(5)
    for i in range(N):
        B[i] = T.float32(10)


@T.prim_func(s_tir=True)
def _ones(A: T.Buffer((N,), "int32"), B: T.Buffer((N,), "int32")):  # noqa: N803
    for i in range(N):
        B[i] = 1


@T.prim_func(s_tir=True)
def _rendezvous(A: T.Buffer((N,), "int32"), B: T.Buffer((N,), "int32")):  # noqa: N803
    # The first half waits for the second, so it ends only if two threads run at once.
    for i in T.parallel(2):
        if i == 0:
            while B[N - 1] != 1:
                T.evaluate(T.call_extern("int32", "usleep", T.uint32(100)))
            for j in range(N // 2):
                B[j] = 1
        else:
            for j in range(N // 2):
                B[N // 2 + j] = 1


FAULTS = {
    "doubled": _doubled,
    "wrong": _wrong,
    "silent": _silent,
    "segfault": _segfault,
    "endless": _endless,
    "exits": _exits,
    "aborts": _aborts,
    "babbles": _babbles,
    "forks": _forks_and_hangs,
    "scribbles": _scribbles,
    "ones": _ones,  # of integers, as the next
    "rendezvous": _rendezvous,
}


@functools.cache
def kernel(name: str) -> Artifact:
    """A kernel of ``FAULTS``; ``doubled`` is the truth for all but ``rendezvous`` (``ones``)."""
    return built(FAULTS[name])
