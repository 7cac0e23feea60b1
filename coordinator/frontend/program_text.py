"""A workload's program as people read it."""

from __future__ import annotations

import tvm

from protos.errors import BadRequest


def program_text(workload_json: str) -> str:
    """TVM's script of a serialised workload; raises BadRequest if this TVM can't read it."""
    try:
        return str(tvm.ir.load_json(workload_json).script())
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise BadRequest(
            f"this version of TVM ({tvm.__version__}) can't read the workload's program: "
            f"{str(error).splitlines()[0]}"
        ) from error
