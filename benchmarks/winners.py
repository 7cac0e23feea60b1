"""Winners, and whether they hold: near-best candidates of a task, who is declared, who was right.

A set is eight candidates of one task that are close to its best: programs are drawn, timed, the
fastest mutated, and timed again. The farm declares a winner as a job does, by its finals
(``coordinator.search.finals``: the best few of the single measurements are timed again in rounds).
Stock declares the candidate of the set whose one measurement was the fastest. Then all of the set
are timed in turn for long, in processes that have the machine, and that is taken for the truth: in
each process the least of the rounds, as what disturbs a program only ever adds to its time
(docs/decisions/0015-the-least-sample.md).
"""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.lone_device import PATIENT_LEASES, LoneDevice, untuned
from benchmarks.timing import Contender
from coordinator.finals import final_evaluator
from coordinator.search.evolution import Evolution, Program
from coordinator.search.finals import FinalsConfig, Standing, decide, heats, order
from coordinator.search.traces import trace_to_json
from coordinator.tuning_log import Evidence
from device_agent.build import build_kernel, register_intrinsics
from protos.records import Artifact, Candidate, Task, sha256_hex

DRAWN = 16
"""Programs drawn at random, and as many mutated from the fastest of them."""

PARENTS = 4
CLOSE = 8
TOLERANCE = 0.01
"""A winner is wrong if another one is faster by more than this share."""


@dataclass(frozen=True)
class CloseSet:
    """Near-best candidates of one task, fastest first, with their single measurements."""

    task: Task
    seed: int
    reference: Artifact
    kernels: tuple[Contender, ...]
    traces: tuple[str, ...]
    latencies_us: tuple[float, ...]


def close_set(
    task: Task, target: str, seed: int, device: LoneDevice, drawn: int = DRAWN, least: int = 2
) -> CloseSet:
    """Draw, time, mutate, time; raises RuntimeError if fewer than ``least`` run."""
    import tvm

    register_intrinsics(target)
    module = tvm.ir.load_json(task.workload_json)
    evolution = Evolution(module, tvm.target.Target(json.loads(target)), task.name, seed)
    reference = untuned(task, target)
    found: dict[str, tuple[float, Contender, str, Program]] = {}

    def try_out(programs: Sequence[Program]) -> None:
        built = [(p, _built(task, trace_to_json(p.trace), target)) for p in programs]
        new = [(p, k) for p, k in built if k is not None and k.name not in found]
        best_us = min((us for us, *_ in found.values()), default=0.0)
        kernels = [kernel for _, kernel in new]
        fastest = min(found.values(), key=lambda item: item[0])[1] if found else None
        measured = device.measure(
            *(task, reference, kernels, best_us), leases=PATIENT_LEASES, pacemaker=fastest
        )
        for (program, kernel), measurement in zip(new, measured, strict=True):
            if measurement is not None and measurement.latency_us is not None:
                trace = trace_to_json(program.trace)
                found[kernel.name] = (measurement.latency_us, kernel, trace, program)

    threads = [False] * drawn
    try_out(evolution.sample(threads))
    fastest = sorted(found.values(), key=lambda item: item[0])[:PARENTS]
    if fastest:
        try_out(evolution.mutate([program for *_, program in fastest], threads))
    close = sorted(found.values(), key=lambda item: item[0])[:CLOSE]
    if len(close) < least:
        raise RuntimeError(
            f"{task.name}, seed {seed}: too few could be timed; is the machine quiet?"
        )
    latencies, fastest_kernels, traces, _ = zip(*close, strict=True)
    return CloseSet(task, seed, reference, fastest_kernels, traces, latencies)


def _built(task: Task, trace: str, target: str) -> Contender | None:
    outcome = build_kernel(task.workload_json, trace, target)
    if outcome.artifact is None:
        return None
    return Contender(sha256_hex(outcome.artifact.data)[:12], outcome.artifact.data, outcome.args)


def farms_winner(close: CloseSet, device: LoneDevice, config: FinalsConfig | None = None) -> str:
    """The name of the one that the farm's finals declare."""
    config = config or FinalsConfig()
    kernels = {kernel.name: kernel for kernel in close.kernels}
    known = [
        Evidence(Candidate(close.task.workload_key, trace), latency_us, kernel.name)
        for kernel, trace, latency_us in zip(
            close.kernels, close.traces, close.latencies_us, strict=True
        )
    ]
    winners: list[Standing] = []
    for heat in heats(known, config):
        standings = {item.artifact_sha256: Standing(item.artifact_sha256) for item in heat}
        for played in range(config.rounds):
            again = order(decide(list(standings.values()), config).again, played)
            if not again:
                break
            measured = device.measure(
                close.task,
                close.reference,
                [kernels[name] for name in again],
                evaluator=final_evaluator(device.evaluator),
                pacemaker=close.kernels[0],
            )
            for name, measurement in zip(again, measured, strict=True):
                if measurement is not None:
                    standings[name] = standings[name].after(measurement.repeats_s)
        leader = decide(list(standings.values()), config).leader
        if leader is not None:
            winners.append(standings[leader])
    if not winners:
        return close.kernels[0].name
    return min(winners, key=lambda one: one.latency_s).key


def loss(winner: str, processes_s: Mapping[str, Sequence[float]]) -> float:
    """By what share the best of the others was faster than the winner; negative if it was slower.

    ``processes_s`` has what each took in each process, in the same order; of two, the median of the
    ratios counts.
    """
    mine = processes_s[winner]
    ratios = [
        statistics.median(a / b for a, b in zip(mine, theirs, strict=True))
        for name, theirs in processes_s.items()
        if name != winner
    ]
    return max(ratios) - 1.0


def flip_rate(losses: Sequence[float]) -> float:
    """Share of the winners that were beaten by more than ``TOLERANCE``."""
    return sum(share > TOLERANCE for share in losses) / len(losses)


def shuffled(close: CloseSet) -> list[Contender]:
    """The candidates in an order that says nothing of how fast they are."""
    kernels = list(close.kernels)
    random.Random(close.seed).shuffle(kernels)
    return kernels
