"""A coordinator that is killed again and again finishes its job as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from coordinator import ray_runtime
from tests.conftest import keep_alive
from tests.farm import agent
from tests.test_tune import (
    ROUGH,
    finals,
    free_port,
    one_core_target,
    rows,
    run,
    serve,
    small_model,
    trials,
    wait_for_devices,
    wait_until,
)

EARLY, LATE = 14, 6
"""Kills soon after a coordinator is ready, while it starts, imports, reads the log or begins to
build; and soon after it has measured something new."""

EARLY_S, LATE_S = 4.0, 1.0
"""How long after that, at most."""

TRIALS = 200


@pytest.fixture(scope="module")
def ray_address() -> Iterator[str]:
    """A Ray that outlives the coordinators which use it; to start one takes longer than a life."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with ray_runtime.running(2):
        for child in psutil.Process().children(recursive=True):
            if child.pid not in before:
                keep_alive(child.pid)
        import ray  # reads its settings when it is imported

        yield str(ray.get_runtime_context().gcs_address)


def kill(coordinator: subprocess.Popen[str]) -> None:
    """kill -9."""
    coordinator.kill()
    coordinator.wait()


def state(log: Path, job_id: str) -> str:
    ((found,),) = rows(log, f"SELECT state FROM jobs WHERE job_id = '{job_id}'")
    return str(found)


def submit(model: Path, address: str, folder: Path) -> str:
    """Submit the job once a device is there; its id."""
    wait_for_devices(address, 1)
    asked = ("submit", str(model), "--trials", str(TRIALS), *ROUGH)
    submitted = run(*asked, "--coordinator", address, cwd=folder)
    assert submitted.returncode == 0, submitted.stderr
    return submitted.stdout.strip()


def wait_for_more(log: Path, coordinator: subprocess.Popen[str]) -> None:
    """Until something has been measured that was not in the log before."""
    before = len(trials(log))
    wait_until(lambda: len(trials(log)) > before, coordinator)


def tuned(folder: Path, cpu: int, kills: Sequence[bool], ray_address: str) -> dict[str, Any]:
    """The job's result, as JSON, after these kills, each early or (True) late."""
    folder.mkdir()
    log, port, target = folder / "log.db", free_port(), one_core_target()
    address, model = f"127.0.0.1:{port}", small_model(folder / "small net.onnx")
    moments, job_id = random.Random(0), ""
    kept: set[tuple[str, str]] = set()
    with agent(port, f"board-{cpu}", target, str(cpu)):
        for late in kills:
            with serve(log, port, "--ray-address", ray_address) as coordinator:
                job_id = job_id or submit(model, address, folder)
                if late:
                    wait_for_more(log, coordinator)
                time.sleep(moments.uniform(0.0, LATE_S if late else EARLY_S))
                kill(coordinator)
            assert state(log, job_id) in ("QUEUED", "RUNNING"), "killed after the job was done"
            now = set(trials(log))
            assert kept <= now, "what was acknowledged is lost"
            kept = now
        with serve(log, port, "--ray-address", ray_address):
            job_id = job_id or submit(model, address, folder)
            watched = run("jobs", "watch", job_id, "--coordinator", address, cwd=folder)
            assert watched.returncode == 0, watched.stderr
            shown = run("jobs", "show", job_id, "--json", "--coordinator", address, cwd=folder)
    assert kept <= set(trials(log))
    found: dict[str, Any] = json.loads(shown.stdout)
    return found


@pytest.mark.timeout(900)
def test_a_job_survives_twenty_kills(tmp_path: Path, ray_address: str) -> None:
    disturbed, calm = tmp_path / "disturbed", tmp_path / "calm"
    kills = [*[False] * EARLY, *[True] * LATE]
    random.Random(1).shuffle(kills)
    cpus = sorted(os.sched_getaffinity(0))
    with ThreadPoolExecutor() as pool:
        jobs = {
            disturbed: pool.submit(tuned, disturbed, cpus[0], kills, ray_address),
            calm: pool.submit(tuned, calm, cpus[-1], [], ray_address),
        }
        results = {folder: job.result() for folder, job in jobs.items()}
    for folder, result in results.items():
        measured = trials(folder / "log.db")
        # The budget is spent to the last trial, and nothing was measured twice.
        assert result["trials"]["total"] == TRIALS
        assert len(measured) == len({candidate for _, candidate in measured}) == TRIALS
        assert finals(folder / "log.db")
        assert list((folder / "packages").glob("*.whl"))
    # The search went on where it was: what it found is about as good.
    best_us = {
        folder: sum(task["tuned_us"] * task["weight"] for task in result["tasks"])
        for folder, result in results.items()
    }
    assert best_us[disturbed] < 1.5 * best_us[calm]
