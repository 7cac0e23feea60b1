"""A build worker with a named defect: of some candidates it makes programs that crash, hang, or are
fast because they leave half of their work out. With ``EVERY_SHARE`` it has all defects that a
measurement can have by a program's fault.

Everything else is real: the broken program is scheduled, lowered, built, sent, loaded and run like
any other, and it is for the device's checks to find out. Which candidates are hit is decided by
their traces, so whoever reads the log afterwards knows which of them must not count.
"""

from __future__ import annotations

import enum
import json
import time
from typing import Any

from coordinator.fleet.builders import BuildWorker
from device_agent.build import BuildOutcome
from device_agent.forking import ANSWERS
from protos import host_lock
from protos.records import UNTUNED_TRACE, sha256_hex


class Defect(enum.Enum):
    """What is wrong with a program; ``NONE`` with most of them."""

    NONE = "none"
    CRASHES = "crashes"
    HANGS = "hangs"
    WRONG = "wrong"
    BABBLES = "babbles"
    """It writes where its process answers."""
    NOT_TO_BE_LOADED = "not to be loaded"
    """It calls a function that is nowhere."""
    NEVER_BUILT = "never built"
    """It is the compiler that hangs."""


Shares = tuple[tuple[Defect, float], ...]

SHARES: Shares = ((Defect.CRASHES, 1 / 16), (Defect.HANGS, 1 / 64), (Defect.WRONG, 1 / 12))
"""Of the candidates. One that hangs costs its device the whole time-out."""

EVERY_SHARE: Shares = (
    *SHARES,
    (Defect.BABBLES, 1 / 24),
    (Defect.NOT_TO_BE_LOADED, 1 / 24),
    (Defect.NEVER_BUILT, 1 / 96),
)

HANGS_S = 3600
"""For longer than anybody waits."""


def defect_of(trace_json: str, shares: Shares = SHARES) -> Defect:
    """What the miscompiler does to a candidate: never anything to an untuned program, with which
    the others are compared."""
    chance = int(sha256_hex(f"miscompiled {trace_json}".encode())[:13], 16) / 16**13
    for defect, share in shares:
        if chance < share and trace_json != UNTUNED_TRACE:
            return defect
        chance -= share
    return Defect.NONE


class MiscompilingWorker(BuildWorker):
    """Lives in an actor, in place of a ``BuildWorker``."""

    shares = SHARES

    def build(self, workload_json: str, trace_json: str, target_json: str) -> BuildOutcome:
        """One candidate to an object file, with its defect if it has one."""
        defect = defect_of(trace_json, self.shares)
        if defect is Defect.NONE:
            return super().build(workload_json, trace_json, target_json)
        right = super().build(workload_json, trace_json, target_json)
        if right.artifact is None:
            return right  # what does not build can't be broken
        if defect is Defect.NEVER_BUILT:
            time.sleep(HANGS_S)
        with host_lock.working():
            broken = broken_program(workload_json, trace_json, defect)
        return super().build(broken, UNTUNED_TRACE, target_json)


class MiscompilingEveryWay(MiscompilingWorker):
    """Lives in an actor; makes every defect."""

    shares = EVERY_SHARE


def broken_program(workload_json: str, trace_json: str, defect: Defect) -> str:
    """The scheduled program with the defect, as the text of a workload."""
    import tvm
    from tvm.s_tir import Schedule
    from tvm.s_tir.schedule import Trace

    schedule = Schedule(tvm.ir.load_json(workload_json))
    Trace.apply_json_to_schedule(json.loads(trace_json), schedule)
    program = schedule.mod["main"]
    root = program.body.block
    body = _with_half_the_work(root.body) if defect is Defect.WRONG else None
    if body is None:  # there is no loop that could be shortened: that one crashes, too
        body = _begins(root.body, defect)
    block = tvm.s_tir.SBlock(
        *(root.iter_vars, root.reads, root.writes, root.name_hint, body, root.init),
        *(root.alloc_buffers, root.match_buffers, root.annotations),
    )
    realize = tvm.s_tir.SBlockRealize(program.body.iter_values, program.body.predicate, block)
    return str(tvm.ir.save_json(tvm.IRModule({"main": program.with_body(realize)})))


def _begins(body: Any, defect: Defect) -> Any:
    """The program, but first it does what the defect is; it ends its process if that is none of
    its own."""
    from tvm import tirx

    if defect is Defect.HANGS:
        call = tirx.call_extern("uint32", "sleep", tirx.const(HANGS_S, "uint32"))
    elif defect is Defect.BABBLES:
        said = "what is no answer"
        call = tirx.call_extern("int64", "write", ANSWERS, said, tirx.const(len(said), "int64"))
    elif defect is Defect.NOT_TO_BE_LOADED:
        call = tirx.call_extern("int32", "a_function_that_is_nowhere")
    else:
        call = tirx.call_extern("int32", "abort")
    return tirx.SeqStmt([tirx.Evaluate(call), body])


def _with_half_the_work(body: Any) -> Any:
    """The program with half the turns of the outermost loop of its last stage; None if there is no
    loop of two turns or more."""
    from tvm import tirx

    if isinstance(body, tirx.SeqStmt):
        last = _with_half_the_work(body.seq[-1])
        return None if last is None else tirx.SeqStmt([*body.seq[:-1], last])
    if not isinstance(body, tirx.For):
        return None
    extent, inner, turns = body.extent, body.body, int(body.extent)
    if turns < 2:
        inner = _with_half_the_work(inner)
        if inner is None:
            return None
    else:
        extent = type(extent)(extent.ty, turns // 2)
    return tirx.For(
        *(body.loop_var, body.min, extent, body.kind, inner),
        *(body.thread_binding, body.annotations, body.step),
    )
