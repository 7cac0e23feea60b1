"""A build worker with a named defect: of some candidates it makes programs that crash, hang, or are
fast because they leave half of their work out.

Everything else is real: the broken program is scheduled, lowered, built, sent, loaded and run like
any other, and it is for the device's checks to find out. Which candidates are hit is decided by
their traces, so whoever reads the log afterwards knows which of them must not count.
"""

from __future__ import annotations

import enum
import json
from typing import Any

from coordinator.fleet.builders import BuildWorker
from device_agent.build import BuildOutcome
from protos import host_lock
from protos.records import UNTUNED_TRACE, sha256_hex


class Defect(enum.Enum):
    """What is wrong with a program; ``NONE`` with most of them."""

    NONE = "none"
    CRASHES = "crashes"
    HANGS = "hangs"
    WRONG = "wrong"


SHARES = ((Defect.CRASHES, 1 / 16), (Defect.HANGS, 1 / 64), (Defect.WRONG, 1 / 12))
"""Of the candidates. One that hangs costs its device the whole time-out."""


def defect_of(trace_json: str) -> Defect:
    """What the miscompiler does to a candidate: never anything to an untuned program, with which
    the others are compared."""
    chance = int(sha256_hex(f"miscompiled {trace_json}".encode())[:13], 16) / 16**13
    for defect, share in SHARES:
        if chance < share and trace_json != UNTUNED_TRACE:
            return defect
        chance -= share
    return Defect.NONE


class MiscompilingWorker(BuildWorker):
    """Lives in an actor, in place of a ``BuildWorker``."""

    def build(self, workload_json: str, trace_json: str, target_json: str) -> BuildOutcome:
        """One candidate to an object file, with its defect if it has one."""
        defect = defect_of(trace_json)
        if defect is Defect.NONE:
            return super().build(workload_json, trace_json, target_json)
        right = super().build(workload_json, trace_json, target_json)
        if right.artifact is None:
            return right  # what does not build can't be broken
        with host_lock.working():
            broken = broken_program(workload_json, trace_json, defect)
        return super().build(broken, UNTUNED_TRACE, target_json)


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
    """The program, but first it sleeps for longer than anybody waits, or ends its process."""
    from tvm import tirx

    if defect is Defect.HANGS:
        call = tirx.call_extern("uint32", "sleep", tirx.const(3600, "uint32"))
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
