"""The replay benchmark's own arithmetic and parts; never a share that was measured."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from benchmarks import replay
from benchmarks.operators import matmul
from benchmarks.proposing import imported_task
from benchmarks.replay import Leased
from device_agent.build import build_kernel
from protos.records import UNTUNED_TRACE
from tests.kernels import target_json


def _leases(*ends_and_busy: tuple[float, float]) -> list[Leased]:
    return [Leased(at, busy_s, 2) for at, busy_s in ends_and_busy]


def test_utilisation_begins_when_every_device_has() -> None:
    moments = {
        # Warm at 2.0, so the span goes from 2.5 to 5.0.
        "early": _leases((0.5, 0.4), (1.0, 0.4), (2.5, 0.4), (3.0, 0.5), (5.0, 1.5)),
        "late": _leases((2.0, 0.1), (3.0, 1.0), (4.0, 0.5)),
    }
    found = replay.utilisations(moments)
    assert found == pytest.approx({"early": 2.0 / 2.5, "late": 1.5 / 2.0})
    with_end = replay.utilisations(moments, ending=5.0)
    assert with_end == pytest.approx({"early": 2.0 / 2.5, "late": 1.5 / 3.0})
    figures = replay.figures(moments)
    assert figures["replay_utilisation"] == pytest.approx(0.75)
    assert figures["replay_utilisation_with_end"] == pytest.approx(0.5)
    assert figures["replay_trials_per_s"] == pytest.approx(14 / 4.5)


def test_a_device_that_did_too_little_was_not_used() -> None:
    moments = {
        "busy": _leases((1.0, 1.0), (2.0, 1.0)),
        "once": _leases((1.5, 1.0)),
        "before": _leases((0.1, 0.1)),
    }
    assert replay.utilisations(moments) == {"busy": 0.0, "once": 0.0, "before": 0.0}


def test_the_job_on_replay_devices(tmp_path: Path) -> None:
    target = target_json(2)
    task = imported_task(matmul(16), target)
    untuned = build_kernel(task.workload_json, UNTUNED_TRACE, target)
    log = tmp_path / "log.db"
    asyncio.run(replay.tune(task, untuned, target, log, 64, devices=2, measurement="5ms"))
    moments = replay.read_moments(log)
    assert set(moments) == {"replay-0", "replay-1"}
    leases = [lease for device in moments.values() for lease in device]
    assert sum(lease.trials for lease in leases) == 64, "no two candidates have the same bytes"
    assert all(lease.busy_s >= 0.005 * lease.trials for lease in leases)
