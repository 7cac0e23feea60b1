"""What a measured batch counts for in its job."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import numpy as np

from coordinator.search.proposer import Outcome, Proposal
from coordinator.tuner import Tuner
from cost_model.features import CANDIDATE_WIDTH
from protos.records import Candidate, Measurement, MeasurementStatus, Task, TrialCounts

TASK = Task("t", "w", "{}", 1, (), 1, 1e6)


class FakeSearch:
    """Takes what it is told; the real one is a Ray actor."""

    batch_size = 16

    def __init__(self) -> None:
        self.observed: list[Outcome] = []

    async def observe(self, _workload_key: str, outcomes: list[Outcome]) -> None:
        self.observed += outcomes


class FakeLearning:
    """Learns nothing; the real one trains on a Ray actor."""

    async def learn(self, *_batch: object) -> None:
        return


def test_a_suspect_measurement_is_no_trial() -> None:
    search = FakeSearch()
    tuner = Tuner(cast(Any, None), [TASK], cast(Any, search), cast(Any, FakeLearning()), list)
    statuses = (
        MeasurementStatus.OK,
        MeasurementStatus.CRASHED,
        MeasurementStatus.SUSPECT,
        MeasurementStatus.DEVICE_LOST,
    )
    proposals, measurements = [], []
    for number, status in enumerate(statuses):
        candidate = Candidate("w", f"trace {number}")
        features = np.zeros(CANDIDATE_WIDTH, np.float32)
        proposals.append(Proposal(candidate, features, None))
        repeats_s = (1e-3,) if status is MeasurementStatus.OK else ()
        measurements.append(
            Measurement("w", candidate.key, status, f"lease {number}", repeats_s=repeats_s)
        )
    (run,) = tuner.runs
    asyncio.run(tuner._take_in(run, proposals, measurements))
    assert tuner.counts == TrialCounts(total=3, ok=1, failed=2)
    assert run.trials == 3
    assert proposals[2].candidate.key not in run.outcomes
    assert [o.candidate for o in search.observed] == [p.candidate for p in proposals[:2]]


def test_what_comes_late_is_counted_once_and_never_measured_again() -> None:
    search = FakeSearch()
    tuner = Tuner(cast(Any, None), [TASK], cast(Any, search), cast(Any, FakeLearning()), list)
    (run,) = tuner.runs
    candidates = [Candidate("w", f"trace {number}") for number in range(3)]
    proposals = [Proposal(c, np.zeros(CANDIDATE_WIDTH, np.float32), None) for c in candidates]
    ok, suspect, crashed = (
        Measurement("w", candidate.key, status, "an earlier lease", repeats_s=repeats_s)
        for candidate, status, repeats_s in zip(
            candidates,
            (MeasurementStatus.OK, MeasurementStatus.SUSPECT, MeasurementStatus.CRASHED),
            ((1e-3,), (1e-3,), ()),
            strict=True,
        )
    )
    late = list(zip(candidates, (ok, suspect, crashed), strict=True))
    elsewhere = Candidate("another", "trace")
    for _ in range(2):
        tuner.take_late([*late, (elsewhere, ok)])
        assert tuner.counts == TrialCounts(total=2, ok=1, failed=1, from_log=2)
    assert set(run.outcomes) == {candidates[0].key, candidates[2].key}
    asyncio.run(tuner._take_in(run, proposals[:1], [ok]))  # it was under way here, too
    assert tuner.counts.total == 2
