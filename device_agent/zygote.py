"""The process that forks one child per candidate: ``python -m device_agent.zygote``.

Started by exec from the agent, so that neither gRPC nor a thread of the agent is in it. It loads
all that a kernel needs once; a child is then ready in milliseconds and takes nothing with it when
it crashes. Requests come on standard input as frames, answers go to standard output. It ends when
its standard input is closed.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from device_agent import containment, inputs
from device_agent.forking import Child, ChildOutcome, HangUpError
from device_agent.frames import (
    Frame,
    FrameError,
    read_frame,
    take_standard_streams,
    write_frame,
)
from device_agent.kernel_child import CHECK, LOAD, Answer, ChildTask, KernelChild, parse_answer
from device_agent.runtime import Runtime, load_runtime
from device_agent.workload_spec import WorkloadSpec
from device_agent.workloads import (
    Workload,
    WorkloadCache,
    decode_line,
    first_wrong,
    private_copy,
    seeded_inputs,
    shared_outputs,
)
from protos import errors
from protos.records import MeasurementStatus

log = logging.getLogger(__name__)

QUOTED_BYTES = 80

LIVES = 3.0
"""Time-outs of CPU that a child gets: to be loaded, to be checked, to be timed."""


class Zygote:
    """Answers requests until the pipe is closed. ``cpus`` and ``num_threads`` are the device's."""

    def __init__(
        self,
        runtime: Runtime,
        requests: int,
        answers: int,
        *,
        cpus: tuple[int, ...],
        num_threads: int,
        scratch: Path,
    ) -> None:
        self._runtime = runtime
        self._requests = requests
        self._answers = answers
        self._cpus = cpus
        self._num_threads = num_threads
        self._scratch = scratch
        self._workloads = WorkloadCache()
        self._pids: set[int] = set()
        self._children: dict[int, tuple[Child, Workload]] = {}
        """Those that have loaded a candidate, by their pid, and what it computes."""

    def serve(self) -> None:
        """Answer until nobody asks any more."""
        do = {
            "prepare": self._prepare,
            "load": self._load,
            "check": self._check,
            "sample": self._sample,
            "end": self._end,
        }
        try:
            while (frame := read_frame(self._requests)) is not None:
                started = time.monotonic()
                answer = do[frame.header["op"]](frame)
                answer["busy_s"] = time.monotonic() - started
                write_frame(self._answers, answer)
        finally:
            for child, _workload in self._children.values():
                child.end()

    def _forked(self, artifact: bytes, workload: Workload, cpu_s: float) -> Child:
        """A child for this artifact; the agent is told its pid."""
        task = ChildTask(artifact, self._cpus, self._num_threads, workload.inputs, workload.outputs)
        answer = KernelChild(self._runtime, task).answer
        child = Child(answer, cpu_s * self._num_threads, self._scratch, self._pids)
        write_frame(self._answers, {"child": child.pid})
        return child

    def _ask(
        self, child: Child, question: Mapping[str, Any], timeout_s: float
    ) -> tuple[MeasurementStatus, str, Answer | None]:
        """Status, error, and the answer if it is one; a child that failed has ended."""
        outcome = child.ask(question, timeout_s, self._requests)
        answer = None
        if not outcome.timed_out and not outcome.signal_number:
            parse = partial(parse_answer, timed=question != LOAD)
            with contextlib.suppress(ValueError):
                answer = decode_line(outcome.answer, parse)
        status, error = verdict(outcome, answer, timeout_s)
        if status is not MeasurementStatus.OK:
            child.end()
            self._children.pop(child.pid, None)
        return status, error, answer

    def _prepare(self, frame: Frame) -> dict[str, Any]:
        """Make the inputs, run the reference on them in a child and keep its outputs."""
        spec = WorkloadSpec.from_header(frame.header["workload"])
        timeout_s = float(frame.header["timeout_s"])
        try:
            inputs.check_dtypes(spec.args)
            made = Workload(spec, seeded_inputs(spec), (), shared_outputs(spec.output_specs))
        except (errors.BadRequest, MemoryError, ValueError) as error:
            return {"error": f"the inputs can't be made: {error}"}
        child = self._forked(frame.blobs[0], made, timeout_s)
        for question in (LOAD, CHECK):
            status, problem, _answer = self._ask(child, question, timeout_s)
            if status is not MeasurementStatus.OK:
                return {"error": f"the reference kernel failed: {problem}", "pid": child.pid}
        child.end()
        reference = tuple(private_copy(output) for output in made.outputs)
        self._workloads.add(replace(made, reference=reference))
        return {"error": "", "pid": child.pid}

    def _load(self, frame: Frame) -> dict[str, Any]:
        """Load a candidate into a child, which then waits."""
        key = str(frame.header["workload"])
        used = any(workload.spec.key == key for _child, workload in self._children.values())
        workload = self._workloads.get(key) if used else self._workloads.move(key)
        if workload is None:
            return {"unknown_workload": True}
        timeout_s = float(frame.header["timeout_s"])
        child = self._forked(frame.blobs[0], workload, LIVES * timeout_s)
        self._children[child.pid] = (child, workload)
        status, error, _answer = self._ask(child, LOAD, timeout_s)
        return {"pid": child.pid, "status": status.name, "error": error}

    def _check(self, frame: Frame) -> dict[str, Any]:
        """Run a candidate and compare its outputs, here, where it can't have changed the truth."""
        child, workload = self._children[int(frame.header["child"])]
        for output, truth in zip(workload.outputs, workload.reference, strict=True):
            inputs.poison(output, inputs.poison_byte(truth))
        status, error, answer = self._ask(child, CHECK, float(frame.header["timeout_s"]))
        if answer is None or status is not MeasurementStatus.OK:
            return {"status": status.name, "error": error}
        max_abs_error, wrong = first_wrong(workload.reference, workload.outputs)
        if wrong:
            self._end(frame)
            status, error = MeasurementStatus.WRONG_OUTPUT, wrong
        return {
            "status": status.name,
            "error": error,
            "run_s": answer.repeats_s[0],
            "max_abs_error": max_abs_error,
            "threads": answer.threads,
        }

    def _sample(self, frame: Frame) -> dict[str, Any]:
        """Time a candidate that was right, by a plan."""
        child, _workload = self._children[int(frame.header["child"])]
        status, error, answer = self._ask(
            child, frame.header["plan"], float(frame.header["timeout_s"])
        )
        right = answer is not None and status is MeasurementStatus.OK
        repeats_s = list(answer.repeats_s) if answer is not None and right else []
        return {"status": status.name, "error": error, "repeats_s": repeats_s}

    def _end(self, frame: Frame) -> dict[str, Any]:
        """End the child of a candidate, if it has not ended."""
        child, _workload = self._children.pop(int(frame.header["child"]), (None, None))
        if child is not None:
            child.end()
        return {}


def verdict(
    outcome: ChildOutcome, answer: Answer | None, timeout_s: float
) -> tuple[MeasurementStatus, str]:
    """What the end of a child says of its candidate, before its outputs are looked at."""
    if outcome.timed_out:
        return MeasurementStatus.TIMED_OUT, f"killed after {timeout_s:g} s"
    if answer is not None:
        return answer.status, answer.error
    if outcome.babbled or (outcome.answer and not outcome.signal_number):
        quoted = outcome.answer[:QUOTED_BYTES]
        return MeasurementStatus.GARBAGE, f"the child answered {quoted!r}; it {outcome.how}"
    return MeasurementStatus.CRASHED, f"the child {outcome.how} without an answer"


def _exit(_number: int, _frame: object) -> NoReturn:
    raise SystemExit(0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve one agent; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m device_agent.zygote")
    parser.add_argument("--cpus", required=True)
    parser.add_argument("--threads", required=True, type=int)
    parser.add_argument("--scratch", required=True, type=Path, help="removed at the end")
    parser.add_argument("--parent", required=True, type=int, help="we end when it does")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _exit)
    try:
        containment.die_with_parent(options.parent, signal.SIGTERM)
        return _serve(options)
    finally:
        shutil.rmtree(options.scratch, ignore_errors=True)


def _serve(options: argparse.Namespace) -> int:
    cpus = tuple(int(cpu) for cpu in options.cpus.split(","))
    requests, answers = take_standard_streams()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the agent decides when we end
    os.sched_setaffinity(0, cpus)
    isolated = containment.leave_network()
    containment.become_subreaper()
    try:
        runtime = load_runtime()
    except (errors.FarmError, OSError) as error:
        write_frame(answers, {"ready": False, "error": str(error)})
        return 1
    gc.collect()
    gc.freeze()  # children would copy what the collector touches
    write_frame(
        answers,
        {"ready": True, "network": not isolated, "threads": containment.count_threads()},
    )
    with contextlib.suppress(BrokenPipeError, HangUpError):
        try:
            Zygote(
                runtime,
                requests,
                answers,
                cpus=cpus,
                num_threads=options.threads,
                scratch=options.scratch,
            ).serve()
        except FrameError as error:
            log.error("the agent sent what is no request: %s", error)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
