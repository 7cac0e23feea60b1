"""One task's search: batches are new, replay to the same program, and survive a restart."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import tvm
from tvm import te
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import Trace

from coordinator.search.evolution import Evolution
from coordinator.search.proposer import (
    SERIAL_BELOW_FLOPS,
    TRIED,
    Outcome,
    Proposer,
    SearchConfig,
    best_outcomes,
)
from coordinator.search.seeds import Elsewhere
from coordinator.search.traces import trace_to_json, uses_threads
from cost_model.features import CANDIDATE_WIDTH, Features
from cost_model.model import CostModel, Prediction, Sample
from device_agent.build import build_kernel
from protos.records import UNTUNED_TRACE, Candidate, MeasurementStatus, Task
from tests.kernels import matmul, matmul_args, target_json, workload_json

SMALL = SearchConfig(batch=8, fresh=16)
TARGET = target_json(2)
LARGE_FLOPS = 10 * SERIAL_BELOW_FLOPS


def _task(flops: float = LARGE_FLOPS) -> Task:
    return Task("matmul", "k" * 32, workload_json(matmul()), 1, matmul_args(), 1, flops)


def _proposer(flops: float = LARGE_FLOPS, seed: int = 0, max_failure: float = 1.0) -> Proposer:
    return Proposer(_task(flops), TARGET, seed, replace(SMALL, max_failure=max_failure))


def test_batches_may_be_proposed_ahead_and_stay_distinct() -> None:
    proposer = _proposer()
    keys = [p.candidate.key for _ in range(3) for p in proposer.propose()]
    assert len(keys) >= 16
    assert len(set(keys)) == len(keys)


def test_a_proposal_carries_its_features_and_builds() -> None:
    proposal = _proposer().propose()[0]
    assert proposal.features.shape == (CANDIDATE_WIDTH,)
    assert proposal.score is None
    outcome = build_kernel(_task().workload_json, proposal.candidate.trace_json, TARGET)
    assert outcome.status is MeasurementStatus.OK, outcome.error


def test_the_same_seed_proposes_the_same_first_batch() -> None:
    first, again = _proposer(seed=7).propose(), _proposer(seed=7).propose()
    assert {p.candidate.key for p in first} == {p.candidate.key for p in again}


def test_a_restarted_search_knows_what_was_measured() -> None:
    """Features come back the same from the text of a trace, and nothing is proposed twice."""
    before = _proposer()
    measured = before.propose()
    outcomes = [Outcome(p.candidate, 10.0 + i) for i, p in enumerate(measured)]
    untuned = Outcome(Candidate("k" * 32, UNTUNED_TRACE), 500.0)
    after = _proposer()
    features = after.recall([untuned, *outcomes])
    assert set(features) == {p.candidate.key for p in measured}
    for proposal in measured:
        np.testing.assert_allclose(features[proposal.candidate.key], proposal.features, rtol=1e-5)
    proposed = {p.candidate.key for p in after.propose()}
    assert not proposed & set(features)


def test_a_trace_that_can_not_be_replayed_is_left_out_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    alien = Candidate("k" * 32, '[[["GetSBlock",[],["no such block","main"],["b0"]]],[]]')
    assert _proposer().recall([Outcome(alien, 1.0)]) == {}
    assert alien.key[:12] in caplog.text


def test_scores_come_from_the_model_in_use() -> None:
    proposer = _proposer()
    rows = [p.features for _ in range(4) for p in proposer.propose()]
    samples = [Sample("k", row, 10.0 + float(row[0])) for row in rows]
    model = CostModel.train(samples)
    proposer.use_model(model)
    for proposal in proposer.propose():
        assert proposal.score == pytest.approx(
            float(model.predict(proposal.features[None]).score[0])
        )


class FailingModel:
    """Every second program that it sees is likely to fail, and scores best; a stand-in for a model
    that has seen a device hang."""

    def __init__(self) -> None:
        self.likely: dict[bytes, bool] = {}

    def predict(self, features: Features) -> Prediction:
        for row in features:
            self.likely.setdefault(row.tobytes(), len(self.likely) % 2 == 0)
        likely = np.array([self.likely[row.tobytes()] for row in features], dtype=float)
        return Prediction(0.5 + likely / 2, np.zeros(len(features)), 0.9 * likely)


def test_what_may_make_a_fragile_device_hang_is_not_proposed() -> None:
    for max_failure, wanted in ((0.05, False), (1.0, True)):
        proposer, model = _proposer(max_failure=max_failure), FailingModel()
        proposer.use_model(cast(Any, model))
        proposals = [p for _ in range(3) for p in proposer.propose()]
        assert len(proposals) > 16
        assert any(model.likely[p.features.tobytes()] for p in proposals) is wanted


def test_an_uncertain_program_may_be_worth_more_than_a_good_one() -> None:
    """The batch is chosen by the expected gain over the best that was measured, not by score."""

    class UnsureModel:
        """Knows every program to be as good as the best, but for one it knows nothing of."""

        def __init__(self) -> None:
            self.unsure = b""

        def predict(self, features: Features) -> Prediction:
            unsure = np.array([row.tobytes() == self.unsure for row in features], dtype=float)
            score = np.full(len(features), 0.9) - 0.05 * unsure
            return Prediction(score, 0.3 * unsure, np.zeros(len(features)))

    proposer, model = _proposer(), UnsureModel()
    first = proposer.propose()
    proposer.observe([Outcome(p.candidate, 10.0) for p in first])
    proposer.use_model(cast(Any, model))
    proposer._explore(8)
    model.unsure = proposer._pool[-1].features.tobytes()
    ranked = proposer._ranked(proposer._pool)
    assert ranked[0].features.tobytes() == model.unsure


def test_a_batch_is_as_large_as_is_asked_for_and_seeds_come_first() -> None:
    proposer = _proposer()
    assert len(proposer.propose(5)) == 5
    other = _proposer()
    (fast,) = proposer.propose(1)
    alien = Candidate("k" * 32, '[[["GetSBlock",[],["no such block","main"],["b0"]]],[]]')
    (seeded,) = other.seed([alien, fast.candidate])
    assert seeded.candidate == fast.candidate
    np.testing.assert_allclose(seeded.features, fast.features, rtol=1e-5)
    other.observe([Outcome(seeded.candidate, 1.0)])
    assert other._measured[0][0] == 1.0


class ModelThatDislikes:
    """A stand-in for a trained model, which would dislike others."""

    def __init__(self, disliked: list[Features]) -> None:
        self._disliked = disliked

    def predict(self, features: Features) -> Prediction:
        found = [any(np.allclose(row, one) for one in self._disliked) for row in features]
        return Prediction(1.0 - np.array(found, dtype=float), *np.zeros((2, len(features))))


def _factors(candidate: Candidate) -> list[Any]:
    """What was chosen in a trace, but for how loops are divided among threads."""
    decisions = [value for _, value in json.loads(candidate.trace_json)[1]]
    return [value[2:] if isinstance(value, list) else value for value in decisions]


def test_what_is_best_elsewhere_is_tried_with_threads_and_without() -> None:
    threaded = _proposer().propose()  # a large task's, whose programs have threads but for a few
    best = [p.candidate for p in threaded if uses_threads(p.candidate.trace_json)][:4]
    seeds = [Elsewhere(candidate) for candidate in best]
    small = _proposer(2.0 * 64**3)
    adapted = [p.candidate for p in small.adapt(seeds, 4)]
    assert [uses_threads(c.trace_json) for c in adapted] == [True, False, True, False]
    for index in (0, 2):
        assert (
            _factors(adapted[index]) == _factors(adapted[index + 1]) == _factors(best[index // 2])
        )
    following = [p.candidate for p in small.propose()]
    assert not {c.key for c in adapted} & {c.key for c in following}
    waiting = [_factors(c) for c in following]
    assert all(_factors(c) in waiting for c in best[2:]), "the others wait in the pool"
    large = [p.candidate for p in _proposer().adapt(seeds, 4)]
    assert [_factors(c) for c in large] == [_factors(c) for c in best], "it needs its threads"
    assert len(_proposer(2.0 * 64**3).adapt(seeds[:1], 4)) == 2


def test_a_model_chooses_all_but_the_best_of_elsewhere() -> None:
    threaded = [p for p in _proposer().propose() if uses_threads(p.candidate.trace_json)][:4]
    seeds = [Elsewhere(p.candidate) for p in threaded]
    knowing = _proposer()
    disliked = [p.features for p in (threaded[0], *threaded[2:])]
    knowing.use_model(cast(Any, ModelThatDislikes(disliked)))
    chosen = [p.candidate for p in knowing.adapt(seeds, 4)]
    assert len({c.key for c in chosen}) == 4
    assert chosen[0] == threaded[0].candidate, "whatever the model says"
    assert not {c.key for c in chosen} & {p.candidate.key for p in threaded[2:]}
    width = {"mcpu": "x86-64-v4", "mtriple": "x86_64-linux-gnu"}
    other = Proposer(_task(), json.dumps({"kind": "llvm", "num-cores": 2, **width}), 0, SMALL)
    other.use_model(cast(Any, ModelThatDislikes([])))
    fitted = [p.candidate for p in other.adapt([replace(s, lanes=4) for s in seeds], 4)]
    tiles = [lanes for seed in seeds for lanes in _lanes(seed.candidate)]
    assert [lanes for c in fitted for lanes in _lanes(c)] == [4 * lanes for lanes in tiles]


def _lanes(candidate: Candidate) -> list[int]:
    """The lanes of the register tile's vector in a trace; empty if it has none."""
    decisions = [value for _, value in json.loads(candidate.trace_json)[1]]
    return [value[3] for value in decisions if isinstance(value, list) and len(value) == 4][-1:]


def test_what_is_best_with_shorter_vectors_is_tried_with_those_of_this_cpu() -> None:
    narrow, wide = (
        json.dumps({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "num-cores": 2, "mcpu": cpu})
        for cpu in ("x86-64-v2", "x86-64-v4")
    )
    config = replace(SMALL, batch=16)
    there = [p.candidate for p in Proposer(_task(), narrow, 0, config).propose()]
    tiled = [candidate for candidate in there if _lanes(candidate) == [4]]
    assert tiled
    proposer = Proposer(_task(), wide, 0, config)
    adapted = [p.candidate for p in proposer.adapt([Elsewhere(c, 4) for c in tiled], 16)]
    assert adapted
    assert {lanes for candidate in adapted for lanes in _lanes(candidate)} == {16}
    same = Proposer(_task(), wide, 0, config).adapt([Elsewhere(c, 16) for c in tiled], 16)
    assert {lanes for p in same for lanes in _lanes(p.candidate)} == {4}, "they are of such a CPU"
    unknown = Proposer(_task(), wide, 0, config).adapt([Elsewhere(c) for c in tiled], 16)
    assert {lanes for p in unknown for lanes in _lanes(p.candidate)} == {16}
    again = Proposer(_task(), narrow, 1, config).adapt([Elsewhere(c) for c in tiled], 16)
    assert [p.candidate for p in again] == tiled, "full vectors that fit may be from such a CPU"
    assert not {c.key for c in adapted} & {p.candidate.key for p in proposer.propose()}


def test_neither_leads_before_enough_of_both_were_tried() -> None:
    proposer = _proposer(2.0 * 64**3)
    shares = []
    for round_ in range(6):
        batch = proposer.propose()
        serial = [not uses_threads(p.candidate.trace_json) for p in batch]
        shares.append(sum(serial) / len(serial))
        took_us = [10.0 + round_ if alone else 100.0 for alone in serial]
        proposer.observe([Outcome(p.candidate, us) for p, us in zip(batch, took_us, strict=True)])
        if min(proposer._tried.values()) >= TRIED:
            break
        assert proposer._serial_share() == 0.5
    assert all(0.25 <= share <= 0.75 for share in shares)
    assert proposer._serial_share() == 0.9


def test_small_kernels_are_also_tried_without_threads() -> None:
    proposals = [
        p for proposer in (_proposer(2.0 * 64**3),) for _ in range(3) for p in proposer.propose()
    ]
    serial = [p for p in proposals if not uses_threads(p.candidate.trace_json)]
    assert len(proposals) / 4 < len(serial) < len(proposals)
    built = build_kernel(_task().workload_json, serial[0].candidate.trace_json, TARGET)
    assert built.artifact is not None, built.error
    assert b"ParallelLaunch" not in built.artifact.data
    proposer = _proposer()
    large = [p for _ in range(3) for p in proposer.propose()]
    few = [p for p in large if not uses_threads(p.candidate.trace_json)]
    assert len(few) < len(large) / 4  # MetaSchedule itself leaves it out now and then


def _evolution() -> Evolution:
    return Evolution(matmul(), tvm.target.Target(json.loads(TARGET)), "matmul", 0)


def test_a_program_is_made_with_or_without_threads_whatever_its_parent_was() -> None:
    evolution = _evolution()
    kinds = [False, True] * 4
    sampled = evolution.sample(kinds)
    mutated = evolution.mutate(sampled, kinds * 2)
    made = [*sampled, *mutated]
    assert all(p.serial for p, serial in zip(made, kinds * 3, strict=True) if serial)
    assert sum(not p.serial for p in made) > 8  # the loops of a few allow no threads
    for program in made:
        trace = trace_to_json(program.trace)
        assert uses_threads(trace) is not program.serial
        schedule = Schedule(matmul())
        Trace.apply_json_to_schedule(json.loads(trace), schedule)
        script = str(schedule.mod.script())
        assert ("T.parallel" in script) is not program.serial
        assert "T.vectorized" in script
    assert len({p.hash for p in made}) == 24


def test_a_replayed_program_is_the_same_and_not_made_again() -> None:
    made = _evolution().sample([False] * 4)
    other = _evolution()
    replayed = [other.replay(trace_to_json(p.trace)) for p in made]
    assert [p.hash for p in replayed] == [p.hash for p in made]
    for program, again in zip(made, replayed, strict=True):
        np.testing.assert_array_equal(program.features, again.features)
    assert not {p.hash for p in other.sample([False] * 4)} & {p.hash for p in made}


def test_a_space_that_is_used_up_gives_fewer() -> None:
    """A vector of eight numbers can be scheduled in a few ways only."""
    scale = te.placeholder((8,), "float32", "a")
    out = te.compute((8,), lambda i: scale[i] * 2.0, "out")
    module = tvm.IRModule({"main": te.create_prim_func([scale, out])})
    evolution = Evolution(module, tvm.target.Target(json.loads(TARGET)), "scale", 0)
    found = evolution.sample([False] * 64)
    assert 0 < len(found) < 64


def test_the_fastest_outcomes_are_remembered_first() -> None:
    outcomes = [Outcome(Candidate("k", str(i)), us) for i, us in enumerate([3.0, None, 1.0, 2.0])]
    assert [o.latency_us for o in best_outcomes(outcomes, 3)] == [1.0, 2.0, 3.0]
    assert best_outcomes(outcomes, 9)[-1].latency_us is None
