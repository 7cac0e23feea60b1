"""The process that forks one child per measurement: ``python -m device_agent.zygote``.

Started by exec from the agent, so that neither gRPC nor a thread of the agent is in it. It loads
all that a kernel needs once; a child is then ready in milliseconds and takes nothing with it when
it crashes. Requests come on standard input as frames, answers go to standard output. It ends when
its standard input is closed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from device_agent import containment, inputs
from device_agent.forking import ChildOutcome, HangUpError, run_child
from device_agent.frames import Frame, FrameError, read_frame, write_frame
from device_agent.kernel_child import NO_PARTS, Answer, ChildTask, Parts, parse_answer, run_task
from device_agent.runtime import Runtime, load_runtime
from device_agent.workloads import (
    Workload,
    WorkloadCache,
    WorkloadSpec,
    decode_line,
    first_wrong,
    private_copy,
    seeded_inputs,
    shared_outputs,
)
from protos import errors
from protos.records import EvaluatorConfig, MeasurementStatus

log = logging.getLogger(__name__)

QUOTED_BYTES = 80


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

    def serve(self) -> None:
        """Answer until nobody asks any more."""
        while (frame := read_frame(self._requests)) is not None:
            started = time.monotonic()
            answer = self._prepare(frame) if frame.header["op"] == "prepare" else self._check(frame)
            answer["busy_s"] = time.monotonic() - started
            write_frame(self._answers, answer)

    def _run(self, task: ChildTask) -> tuple[ChildOutcome, Answer | None]:
        """The outcome, and the answer if it is one."""
        outcome = run_child(
            lambda: run_task(self._runtime, task),
            task.evaluator.timeout_s,
            self._num_threads,
            self._scratch,
            self._requests,
            lambda pid: write_frame(self._answers, {"child": pid}),
        )
        if outcome.timed_out or outcome.signal_number:
            return outcome, None
        with contextlib.suppress(ValueError):
            return outcome, decode_line(outcome.answer, parse_answer)
        return outcome, None

    def _prepare(self, frame: Frame) -> dict[str, Any]:
        """Make the inputs, run the reference on them in a child and keep its outputs."""
        spec = WorkloadSpec.from_header(frame.header["workload"])
        try:
            inputs.check_dtypes(spec.args)
            made = seeded_inputs(spec)
            outputs = shared_outputs(spec.output_specs)
        except (errors.BadRequest, MemoryError, ValueError) as error:
            return {"error": f"the inputs can't be made: {error}"}
        task = ChildTask(
            artifact=frame.blobs[0],
            cpus=self._cpus,
            num_threads=self._num_threads,
            inputs=made,
            outputs=outputs,
            evaluator=EvaluatorConfig(timeout_s=float(frame.header["timeout_s"])),
            timed=False,
        )
        outcome, answer = self._run(task)
        if answer is None or answer.status is not MeasurementStatus.OK:
            _status, problem = verdict(outcome, answer, task.evaluator.timeout_s)
            return {"error": f"the reference kernel failed: {problem}"}
        reference = tuple(private_copy(output) for output in outputs)
        self._workloads.add(Workload(spec, made, reference, outputs))
        return {"error": ""}

    def _check(self, frame: Frame) -> dict[str, Any]:
        """Run a candidate and compare its outputs, here, where it can't have changed the truth."""
        asked = time.monotonic()
        workload = self._workloads.get(str(frame.header["workload"]))
        if workload is None:
            return {"unknown_workload": True}
        for output, truth in zip(workload.outputs, workload.reference, strict=True):
            inputs.poison(output, inputs.poison_byte(truth))
        task = ChildTask(
            artifact=frame.blobs[0],
            cpus=self._cpus,
            num_threads=self._num_threads,
            inputs=workload.inputs,
            outputs=workload.outputs,
            evaluator=EvaluatorConfig(**frame.header["evaluator"]),
            best_us=float(frame.header["best_us"]),
            asked=asked,
        )
        outcome, answer = self._run(task)
        status, error = verdict(outcome, answer, task.evaluator.timeout_s)
        if answer is None or status is not MeasurementStatus.OK:
            return _measured(status, error)
        compared_from = time.monotonic()
        max_abs_error, wrong = first_wrong(workload.reference, workload.outputs)
        check_s = answer.parts.check_s + time.monotonic() - compared_from
        parts = dataclasses.replace(answer.parts, check_s=check_s)
        if wrong:
            return _measured(MeasurementStatus.WRONG_OUTPUT, wrong, max_abs_error, parts=parts)
        return _measured(status, "", max_abs_error, answer.repeats_s, answer.threads, parts)


def _measured(
    status: MeasurementStatus,
    error: str,
    max_abs_error: float = 0.0,
    repeats_s: Sequence[float] = (),
    threads: int = 0,
    parts: Parts = NO_PARTS,
) -> dict[str, Any]:
    return {
        "status": status.name,
        "error": error,
        "max_abs_error": max_abs_error,
        "repeats_s": list(repeats_s),
        "threads": threads,
        **dataclasses.asdict(parts),
    }


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


def _take_standard_streams() -> tuple[int, int]:
    """Move the protocol away from descriptors 0 and 1, where libraries print."""
    requests, answers = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    return requests, answers


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve one agent; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m device_agent.zygote")
    parser.add_argument("--cpus", required=True)
    parser.add_argument("--threads", required=True, type=int)
    parser.add_argument("--scratch", required=True, type=Path, help="removed at the end")
    options = parser.parse_args(arguments)
    try:
        return _serve(options)
    finally:
        shutil.rmtree(options.scratch, ignore_errors=True)


def _serve(options: argparse.Namespace) -> int:
    cpus = tuple(int(cpu) for cpu in options.cpus.split(","))
    requests, answers = _take_standard_streams()
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


def evaluator_header(config: EvaluatorConfig) -> dict[str, Any]:
    """The policy as JSON values."""
    return dataclasses.asdict(config)


if __name__ == "__main__":
    sys.exit(main())
