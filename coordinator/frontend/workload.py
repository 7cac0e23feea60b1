"""Fused operators as workloads: a canonical form, and a key that is the same everywhere.

The structural hash of an IRModule does not see names, but a trace finds its blocks by name. Names
come from the model a function was found in (``lv200_red``), so the same operator in two models has
other names. The canonical form gives blocks and buffers numbers instead: then equal keys mean that
every trace of one applies to the other.
"""

from __future__ import annotations

import json
from typing import Any

from protos.records import TensorSpec, canonical_json, sha256_hex

KEY_VERSION = "workload-1"
"""Changed when the key of an unchanged operator changes, so that old records stop answering."""

ENTRY = "main"


def workload_key(mod: Any) -> str:
    """32 hex digits that name the computation of ``mod``, an IRModule with one function ``main``.

    The same in every process and on every architecture, blind to the names of variables and
    blocks, different for different shapes and dtypes.
    """
    import tvm_ffi

    signature = [[list(arg.shape), arg.dtype] for arg in argument_specs(mod[ENTRY])]
    structural = tvm_ffi.structural_hash(mod) & (2**64 - 1)
    text = canonical_json([KEY_VERSION, f"{structural:016x}", signature])
    return sha256_hex(text.encode())[:32]


def canonical_workload(function: Any) -> Any:
    """The IRModule whose ``main`` is this PrimFunc, with numbered blocks and buffers."""
    import tvm

    module = tvm.IRModule({ENTRY: function.with_attr("global_symbol", ENTRY)})
    graph = json.loads(tvm.ir.save_json(module))
    _number_names(graph["nodes"])
    return tvm.ir.load_json(json.dumps(graph))


def _number_names(nodes: list[dict[str, Any]]) -> None:
    """Rename in TVM's JSON graph, where each node stands after those that it refers to."""
    blocks = buffers = 0
    for node in list(nodes):
        fields: Any = node.get("data")
        if node["type"] == "s_tir.SBlock":
            if nodes[fields["name_hint"]]["data"] == "root":
                continue
            fields["name_hint"] = _add_string(nodes, f"block{blocks}")
            blocks += 1
        elif node["type"] == "ir.Var" and nodes[fields["ty"]]["type"] == "tirx.BufferType":
            fields["name"] = _add_string(nodes, f"buffer{buffers}")
            buffers += 1


def _add_string(nodes: list[dict[str, Any]], text: str) -> int:
    nodes.append({"type": "ffi.String", "data": text})
    return len(nodes) - 1


def argument_specs(function: Any) -> tuple[TensorSpec, ...]:
    """Shape and dtype of each parameter, inputs first.

    Raises ValueError for a parameter that is no tensor of fixed shape.
    """
    from tvm.tirx.buffer import BufferType

    specs = []
    for parameter in function.params:
        kind = parameter.ty
        if not isinstance(kind, BufferType):
            raise ValueError(f"parameter {parameter.name!r} is a scalar, not a tensor")
        try:
            shape = tuple(int(dim) for dim in kind.shape)
        except TypeError:
            raise ValueError(f"parameter {parameter.name!r} has an open shape") from None
        specs.append(TensorSpec(shape, str(kind.dtype)))
    return tuple(specs)
