"""Traces of MetaSchedule's own records, for the canonical form of their workloads.

A trace finds its blocks by name, and the canonical form has other names
(``coordinator.frontend.workload``). Both forms are scheduled side by side: the block that a trace
means in the one is at the same place in the other.
"""

from __future__ import annotations

from typing import Any

from protos.records import UNTUNED_TRACE

_GET_BLOCK = "GetSBlock"

_WITHOUT_EFFECT = {
    *(_GET_BLOCK, "GetLoops", "GetChildBlocks", "GetProducers", "GetConsumers"),
    *("GetOutputBlocks", "EnterPostproc"),
}


def translated(trace: Any, original: Any, canonical: Any) -> str:
    """The text of the trace that does to ``canonical`` what ``trace`` does to ``original``.

    Raises ValueError if it does something else.
    """
    import tvm_ffi

    from coordinator.search.traces import trace_to_json

    instructions, decisions = trace
    names = _names(original, canonical)
    renamed: list[Any] = []
    for index, instruction in enumerate(instructions):
        kind, inputs, attributes, outputs = instruction
        if kind == _GET_BLOCK:
            name, function = attributes
            if name not in names:  # one that this trace has made
                before = [item for item in decisions if item[0] < index]
                first = _scheduled([instructions[:index], before], original).mod
                names |= _names(first, _scheduled([renamed, before], canonical).mod)
            attributes = [names[name], function]
        renamed.append([kind, inputs, attributes, outputs])
    there = _scheduled(trace, original).mod
    schedule = _scheduled([renamed, decisions], canonical)
    if tvm_ffi.structural_hash(there) != tvm_ffi.structural_hash(_like(schedule.mod, there)):
        raise ValueError("the trace makes another program of the workload's canonical form")
    if all(instruction[0] in _WITHOUT_EFFECT for instruction in renamed):
        return UNTUNED_TRACE
    return trace_to_json(schedule.trace)


def blocks(function: Any) -> list[Any]:
    """The blocks of a kernel, in the order of its text."""
    import tvm_ffi
    from tvm.s_tir import SBlock

    found: list[Any] = []
    tvm_ffi.structural_walk(function, [(SBlock, lambda block: found.append(block))], order="pre")
    return found


def _names(one: Any, other: Any) -> dict[str, str]:
    """The name in ``other`` of each block of ``one``."""
    pairs = zip(blocks(one["main"]), blocks(other["main"]), strict=True)
    return {str(block.name_hint): str(twin.name_hint) for block, twin in pairs}


def _like(module: Any, pattern: Any) -> Any:
    """The module with the symbol of another: the canonical form names its kernel itself."""
    import tvm

    attributes = pattern["main"].attrs
    symbol = attributes["global_symbol"] if attributes and "global_symbol" in attributes else None
    function = module["main"]
    if symbol is None:
        return tvm.IRModule({"main": function.without_attr("global_symbol")})
    return tvm.IRModule({"main": function.with_attr("global_symbol", symbol)})


def _scheduled(trace: Any, module: Any) -> Any:
    from tvm.s_tir import Schedule
    from tvm.s_tir.schedule import Trace

    schedule = Schedule(module)
    Trace.apply_json_to_schedule(trace, schedule)
    return schedule
