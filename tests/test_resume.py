"""A coordinator that is killed again and again finishes its job as if nothing had happened."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.farm import agent
from tests.test_tune import (
    PATIENCE_S,
    finals,
    free_port,
    one_core_target,
    rows,
    run,
    serve,
    small_model,
    trials,
    wait_for_devices,
)

KILLS = 20
TRIALS = 240
LONGEST_S = 6.0
"""How long after it is ready a coordinator is killed at the latest."""


def kill_all(coordinator: subprocess.Popen[str]) -> None:
    """kill -9 of the coordinator and of everything that it has started, as a power cut does it."""
    family = [*psutil.Process(coordinator.pid).children(recursive=True)]
    coordinator.kill()
    for process in family:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    coordinator.wait()
    psutil.wait_procs(family, 10)


def state(log: Path, job_id: str) -> str:
    ((found,),) = rows(log, f"SELECT state FROM jobs WHERE job_id = '{job_id}'")
    return str(found)


def tuned(log: Path, folder: Path, kills: int) -> dict[str, object]:
    """The job's result, as JSON, after that many kills at random moments of it."""
    moments = random.Random(0)
    port, target = free_port(), one_core_target()
    address = f"127.0.0.1:{port}"
    model = small_model(folder / "small net.onnx")
    job_id = ""
    kept: set[tuple[str, str]] = set()
    with agent(port, "board", target, "0"):
        for _ in range(kills):
            with serve(log, port) as coordinator:
                if not job_id:
                    wait_for_devices(address, 1)
                    asked = ("submit", str(model), "--trials", str(TRIALS))
                    submitted = run(*asked, "--coordinator", address, cwd=folder)
                    assert submitted.returncode == 0, submitted.stderr
                    job_id = submitted.stdout.strip()
                time.sleep(moments.uniform(0.0, LONGEST_S))
                kill_all(coordinator)
            now = set(trials(log))
            assert kept <= now, "what was acknowledged is lost"
            kept = now
        if kills:
            assert state(log, job_id) in ("QUEUED", "RUNNING"), "killed after the job was done"
        with serve(log, port):
            if not job_id:
                wait_for_devices(address, 1)
                asked = ("submit", str(model), "--trials", str(TRIALS))
                job_id = run(*asked, "--coordinator", address, cwd=folder).stdout.strip()
            watched = run("jobs", "watch", job_id, "--coordinator", address, cwd=folder)
            assert watched.returncode == 0, watched.stderr
            shown = run("jobs", "show", job_id, "--json", "--coordinator", address, cwd=folder)
    assert kept <= set(trials(log))
    found: dict[str, object] = json.loads(shown.stdout)
    return found


@pytest.mark.timeout(900)
def test_a_job_survives_twenty_kills(tmp_path: Path) -> None:
    disturbed, calm = tmp_path / "disturbed", tmp_path / "calm"
    results = {}
    for folder, kills in ((disturbed, KILLS), (calm, 0)):
        folder.mkdir()
        log = folder / "log.db"
        results[folder] = tuned(log, folder, kills)
        measured = trials(log)
        # The budget is spent to the last trial, and nothing was measured twice.
        assert len(measured) == len({candidate for _, candidate in measured}) == TRIALS
        assert finals(log)
        assert list((folder / "packages").glob("*.whl"))
        ((integrity,),) = rows(log, "PRAGMA integrity_check")
        assert integrity == "ok"
    for result in results.values():
        assert result["trials"]["total"] == TRIALS  # type: ignore[index]
    # The search went on where it was: what it found is as good, give or take two machines' noise.
    best = {
        folder: sum(task["tuned_us"] * task["weight"] for task in result["tasks"])  # type: ignore[attr-defined]
        for folder, result in results.items()
    }
    assert best[disturbed] < 1.5 * best[calm]
    assert PATIENCE_S > LONGEST_S
