"""One task's search: an evolution whose programs are kept, ranked anew by every cost model.

A proposer is asked for a batch, told what was measured, and asked again, in any order: a batch may
be proposed before the last one was measured. What steers it is what was measured and the cost model
(docs/decisions/0010-a-pool-instead-of-generations.md).
"""

from __future__ import annotations

import json
import logging
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coordinator.search.evolution import Evolution, Program
from coordinator.search.seeds import Elsewhere
from coordinator.search.traces import trace_to_json, uses_threads
from cost_model.features import CANDIDATE_WIDTH, Features
from cost_model.gain import expected_gain
from cost_model.model import CostModel, Prediction
from device_agent.build import register_intrinsics
from protos.records import UNTUNED_TRACE, Candidate, Task

log = logging.getLogger(__name__)

SERIAL_BELOW_FLOPS = 5e6
"""A task with less arithmetic is tried without threads too: some tens of microseconds for one core,
of which a thread pool's start and join, and the data that changes cores, take back a good part.
MetaSchedule's own space makes every kernel parallel (docs/decisions/0007-serial-candidates.md)."""

THREADS_COST_US = 5.0
"""What threads cost in a model beyond what a kernel measured by itself shows."""

SERIAL_SHARES = (0.5, 0.9, 0.2)
"""Share of a batch without threads: at first, when those lead, when they trail."""

TRIED = 8
"""Measured programs of either kind before one of them can be said to lead."""


@dataclass(frozen=True)
class SearchConfig:
    """How a batch is found (measured: docs/performance.md)."""

    batch: int = 16
    fresh: int = 32
    """New programs that a batch is chosen from, besides those that the pool has kept; without a
    cost model there is nothing to choose by, and only the batch itself is made."""
    fresh_first: int = 128
    """Of a task of which nothing was measured yet, if a cost model knows others: with nothing to
    mutate, the model has only this choice."""
    rounds: int = 2
    """Each makes its share of the fresh ones, from parents that the one before may have found."""
    pool: int = 256
    """Programs that were not good enough for a batch yet, kept for a better cost model."""
    parents: int = 32
    """The fastest that were measured, and the best by score in the pool, that are mutated."""
    random_share: float = 0.25
    """Share of the fresh ones that are drawn from the whole space instead of mutated."""
    eps_greedy: float = 0.1
    """Share of a batch that is chosen without asking the cost model."""
    max_failure: float = 1.0
    """A candidate that fails with a greater chance is never proposed."""


@dataclass(frozen=True)
class Proposal:
    """A candidate, its features, and the cost model's score; None if there was no model."""

    candidate: Candidate
    features: Features
    score: float | None


@dataclass(frozen=True)
class Outcome:
    """What became of a candidate: latency in microseconds, None if it failed."""

    candidate: Candidate
    latency_us: float | None


class Proposer:
    """The search for one task on one target."""

    def __init__(self, task: Task, target_json: str, seed: int, config: SearchConfig) -> None:
        import tvm

        register_intrinsics(target_json)
        module = tvm.ir.load_json(task.workload_json)
        target = tvm.target.Target(json.loads(target_json))
        self._task = task
        self._config = config
        self._model: CostModel | None = None
        self._evolution = Evolution(module, target, task.name, seed)
        self._random = random.Random(seed)
        self._pool: list[Program] = []
        self._proposed: dict[str, Program] = {}  # and not observed yet, by candidate key
        self._measured: list[tuple[float, Program]] = []  # the fastest, in order
        self._may_be_serial = task.flops < SERIAL_BELOW_FLOPS
        self._best_us = {True: math.inf, False: math.inf}  # by whether it is serial
        self._tried = {True: 0, False: 0}  # likewise

    def use_model(self, model: CostModel | None) -> None:
        """Rank programs with ``model`` from now on; None: take them as they come."""
        self._model = model

    def propose(self, count: int | None = None) -> list[Proposal]:
        """The next batch of ``count`` (that of the configuration if None), none of it proposed or
        observed before; empty when the space is used up.

        Two programs that differ may still build the same object; that is for the builder to notice.
        """
        config, count = self._config, count or self._config.batch
        rounds, fresh = (config.rounds, config.fresh) if self._model else (1, count)
        if self._model and not self._measured:
            rounds, fresh = 1, config.fresh_first
        found: list[Program] = []
        for _ in range(rounds):
            found += self._explore(fresh // rounds)
        return self._proposals(self._choose(found, count))

    def seed(self, candidates: Sequence[Candidate]) -> list[Proposal]:
        """Proposals out of candidates that were measured by others or with other tools, without
        those that don't apply here."""
        found = (self._replay(candidate) for candidate in candidates)
        return self._proposals([program for program in found if program is not None])

    def adapt(self, elsewhere: Sequence[Elsewhere], count: int) -> list[Proposal]:
        """At most ``count`` proposals out of candidates of other kinds of device, the best first,
        with this CPU's vectors and threads; the others wait in the pool.

        What is best with threads there may be best without them here, or the other way round: of a
        small task, each is tried both ways. A cost model that has learnt of such CPUs chooses all
        but the best of them among the others and new ones."""
        each = [self._refitted(one) for one in elsewhere]
        programs = [program for some in each for program in some]
        alike = any(self._evolution.is_alike(one.lanes) for one in elsewhere)
        taken = count if self._model is None or not alike else min(count, len(each[0]))
        first, self._pool = programs[:taken], [*self._pool, *programs[taken:]]
        if taken < count:
            fresh = self._explore(self._config.fresh_first)
            first += self._choose(fresh, count - len(first))
        return self._proposals(first)

    def _refitted(self, one: Elsewhere) -> list[Program]:
        serial = not uses_threads(one.candidate.trace_json)
        ways = [serial, not serial] if self._may_be_serial else [False]
        try:
            return self._evolution.refit(one.candidate.trace_json, one.lanes, ways)
        except Exception as error:  # TVM's errors share no narrower base
            self._warn(one.candidate, error)
            return []

    def _proposals(self, programs: Sequence[Program]) -> list[Proposal]:
        known = self._model is not None and bool(programs)
        scores = self._predict(programs).score.tolist() if known else [None] * len(programs)
        proposals = []
        for program, score in zip(programs, scores, strict=True):
            candidate = Candidate(self._task.workload_key, trace_to_json(program.trace))
            self._proposed[candidate.key] = program
            proposals.append(Proposal(candidate, program.features, score))
        return proposals

    def _replay(self, candidate: Candidate) -> Program | None:
        """The program of a trace from the log; None, with a warning, if this version of the
        compiler refuses it."""
        try:
            return self._evolution.replay(candidate.trace_json)
        except Exception as error:  # TVM's errors share no narrower base
            self._warn(candidate, error)
            return None

    def _warn(self, candidate: Candidate, error: Exception) -> None:
        log.warning(
            "task %s: candidate %s of the log can't be replayed: %s",
            *(self._task.name, candidate.key[:12], error),
        )

    def _explore(self, count: int) -> list[Program]:
        """About ``count`` new programs, which are in the pool now, and the pool ranked."""
        parents = [program for _, program in self._measured]
        ranked = self._pool[: self._config.parents] if self._model else []
        drawn = math.ceil(count * self._config.random_share) if parents or ranked else count
        found = self._evolution.sample(self._kinds(drawn))
        for some, share in ((parents, 0.5 if ranked else 1.0), (ranked, 0.5 if parents else 1.0)):
            if some:
                wanted = self._kinds(round((count - drawn) * share))
                found += self._evolution.mutate(some, wanted)
        self._pool = self._ranked([*self._pool, *found])
        return found

    def _kinds(self, count: int) -> list[bool]:
        """For each of ``count`` programs, whether it is to do without threads."""
        if not self._may_be_serial:
            return [False] * count
        serial = min(count, int(count * self._serial_share() + self._random.random()))
        kinds = [True] * serial + [False] * (count - serial)
        self._random.shuffle(kinds)
        return kinds

    def _serial_share(self) -> float:
        first, leading, trailing = SERIAL_SHARES
        if min(self._tried.values()) < TRIED or math.inf in self._best_us.values():
            return first
        return leading if self._best_us[True] < self._best_us[False] + THREADS_COST_US else trailing

    def _predict(self, programs: Sequence[Program]) -> Prediction:
        assert self._model is not None
        rows = [program.features for program in programs]
        return self._model.predict(np.reshape(rows, (len(rows), CANDIDATE_WIDTH)))

    def _ranked(self, programs: Sequence[Program]) -> list[Program]:
        """By what each should win over the best that was measured, most first, without those that
        are too likely to fail; as they came if there is no model."""
        if self._model is None or not programs:
            return list(programs)
        prediction = self._predict(programs)
        best = self._predict([self._measured[0][1]]).score[0] if self._measured else 0.0
        gains = expected_gain(prediction, best)
        order = sorted(range(len(programs)), key=lambda i: (-gains[i], -prediction.score[i]))
        return [programs[i] for i in order if prediction.failure[i] <= self._config.max_failure]

    def _choose(self, found: Sequence[Program], count: int) -> list[Program]:
        """Take a batch out of the pool: by score, a few of the newly found ones whatever theirs."""
        config = self._config
        allowed = {program.hash for program in self._pool}
        lucky = [
            program
            for program in found
            if program.hash in allowed and self._random.random() < config.eps_greedy
        ]
        lucky = lucky[: round(count * config.eps_greedy)] if self._model else []
        queues = {kind: [p for p in self._pool if p.serial is kind] for kind in (True, False)}
        chosen = {program.hash: program for program in lucky}
        for serial in self._kinds(count + len(lucky)):
            queue = queues[serial] or queues[not serial]
            if len(chosen) == count or not queue:
                break
            program = queue.pop(0)
            chosen[program.hash] = program
        left = [program for program in self._pool if program.hash not in chosen]
        self._pool = left[: config.pool]
        return list(chosen.values())

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Take in what was measured: the fastest are the parents of what comes next."""
        for outcome in outcomes:
            program = self._proposed.pop(outcome.candidate.key, None)
            if outcome.latency_us is None or outcome.candidate.trace_json == UNTUNED_TRACE:
                continue
            if program is None:
                program = self._evolution.replay(outcome.candidate.trace_json)
            serial = program.serial
            self._tried[serial] += 1
            self._best_us[serial] = min(self._best_us[serial], outcome.latency_us)
            self._measured.append((outcome.latency_us, program))
        self._measured.sort(key=lambda measured: measured[0])
        del self._measured[self._config.parents :]

    def recall(self, outcomes: Sequence[Outcome]) -> dict[str, Features]:
        """Observe what the log remembers; returns the features by candidate key.

        A trace that this version of the compiler refuses is left out, with a warning.
        """
        features: dict[str, Features] = {}
        for outcome in outcomes:
            if outcome.candidate.trace_json == UNTUNED_TRACE:
                continue
            program = self._replay(outcome.candidate)
            if program is None:
                continue
            key = outcome.candidate.key
            features[key] = program.features
            self._proposed[key] = program
            self.observe([outcome])
        return features


def best_outcomes(outcomes: Sequence[Outcome], limit: int) -> list[Outcome]:
    """The ``limit`` most telling of a task's outcomes: the fastest first, then failures."""
    return sorted(outcomes, key=lambda o: float("inf") if o.latency_us is None else o.latency_us)[
        :limit
    ]
