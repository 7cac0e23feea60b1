"""The process in which an agent compiles: ``python -m device_agent.build_process``.

It has the compiler loaded and builds one candidate after the other: requests come on standard input
as frames, answers go to standard output. It ends when its standard input is closed.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from device_agent import containment
from device_agent.build import build_kernel, tool_versions
from device_agent.frames import read_frame, take_standard_streams, write_frame
from protos import errors

NICE = 15
"""Candidates that are loaded meanwhile go first: they are soon done."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve one agent; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m device_agent.build_process")
    parser.add_argument("--target", required=True)
    parser.add_argument("--cpus", required=True)
    parser.add_argument("--parent", required=True, type=int, help="we end when it does")
    options = parser.parse_args(arguments)
    containment.die_with_parent(options.parent)
    requests, answers = take_standard_streams()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the agent decides when we end
    os.sched_setaffinity(0, [int(cpu) for cpu in options.cpus.split(",")])
    os.nice(NICE)
    write_frame(answers, {"tools": tool_versions()})
    while (frame := read_frame(requests)) is not None:
        workload, trace = (blob.decode() for blob in frame.blobs)
        try:
            outcome = build_kernel(workload, trace, options.target)
        except errors.FarmError as error:
            write_frame(answers, {"refused": str(error)})
            continue
        built = [] if outcome.artifact is None else [outcome.artifact.data]
        write_frame(answers, {"status": outcome.status.name, "error": outcome.error}, built)
    return 0


if __name__ == "__main__":
    sys.exit(main())
