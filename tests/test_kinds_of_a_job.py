"""Jobs that choose their devices, and jobs for several kinds of them, on a coordinator."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from coordinator.cli.report import report_of_coordinator, report_of_log
from coordinator.client import FarmClient
from coordinator.farm import Farm as PythonFarm
from coordinator.results.html_report import html_report
from protos.errors import Conflict, JobFailed, NotFound
from protos.records import Job, JobSpec, JobState, Priority, sha256_hex
from tests.farm import PATIENCE_S, agent, served, until
from tests.models import small_model
from tests.test_security_farm import run

CPU = str(min(os.sched_getaffinity(0)))
REAL = '{"kind":"llvm","mtriple":"x86_64-linux-gnu","mcpu":"x86-64-v2","num-cores":1}'
ONE = '{"kind":"llvm","mtriple":"x86_64-linux-gnu","mcpu":"x86-64-v3","num-cores":4}'
OTHER = '{"kind":"llvm","mtriple":"x86_64-linux-gnu","mcpu":"x86-64-v3","num-cores":2}'
TRIALS = 6


@dataclass(frozen=True)
class Farm:
    """A coordinator with a real device, two replayed ones of one kind, and one of another."""

    log: Path
    client: FarmClient
    model: Path

    def submit(self, target_json: str = "", trials: int = 100_000, **asked: object) -> Job:
        model = small_model()
        spec = JobSpec("small", sha256_hex(model), target_json, trials, canary_drift=100.0)
        return self.client.submit(replace(spec, **asked), model)  # type: ignore[arg-type]

    def until(self, job: Job, condition: Callable[[Job], bool]) -> Job:
        return until(self.client, job, condition)

    def kind(self, device: str) -> str:
        return next(s.kind for s in self.client.devices() if s.device.name == device)

    def command(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return run(*map(str, arguments), "--coordinator", self.client.address)


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    folder = tmp_path_factory.mktemp("farm")
    model = folder / "small.onnx"
    model.write_bytes(small_model())
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(served(folder))
        stack.enter_context(agent(port, "real", REAL, cpus=CPU, labels=["shelf=1"]))
        for name, target, rack in (("a", ONE, "1"), ("b", ONE, "2"), ("c", OTHER, "1")):
            labels = [f"rack={rack}"]
            stack.enter_context(agent(port, name, target, replay="5ms", labels=labels))
        client = stack.enter_context(FarmClient(f"127.0.0.1:{port}"))
        deadline = time.monotonic() + PATIENCE_S
        while len(client.devices()) < 4:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield Farm(folder / "log.db", client, model)


def test_one_job_has_a_package_for_one_kind_and_says_why_there_is_none_for_the_other(
    farm: Farm, tmp_path: Path
) -> None:
    """Replayed devices run no whole models, so that part fails; the real one's does not."""
    kinds = {name: farm.kind(name)[:8] for name in ("real", "a")}
    done = farm.command(
        *("submit", farm.model, "--device", "real", "--device", kinds["a"], "--watch"),
        *("--canary-drift", "10000", "--trials", TRIALS, "--out", tmp_path),
    )
    job_id = done.stdout.split()[0]
    job = farm.client.job(job_id)
    good, bad = job.parts
    assert done.returncode == 3, "not all of it is done"
    assert (job.state, good.state, bad.state) == (
        JobState.FAILED,
        JobState.DONE,
        JobState.FAILED,
    ), done.stderr
    assert [part.job_id for part in job.parts] == [f"{job_id}.1", f"{job_id}.2"]
    for title in (f"{job_id}.1 (kind {kinds['real']})", f"{job_id}.2 (kind {kinds['a']})"):
        assert f"a part of it is {title}" in done.stderr
    assert f"{job_id}.2 (kind {kinds['a']}): the whole model could not be" in done.stderr
    assert good.trials.total == TRIALS, "the budget is each kind's"
    assert bad.trials.total == TRIALS
    (wheel,) = tmp_path.glob("*/*.whl")
    assert wheel.parent.name == kinds["real"]
    assert wheel.read_bytes() == farm.client.package(good.job_id)
    with pytest.raises(Conflict, match=rf"fetch those of its parts: {job_id}\.1 "):
        farm.client.package(job_id)

    assert good.result is not None
    assert f"{good.result.tuned_ms:.3f}" in done.stdout.partition("Fused operators")[0]
    for report in (
        report_of_log(str(farm.log), job_id),
        report_of_coordinator(farm.client.address, job_id),
    ):
        assert [part.job.state for part in report.parts] == [good.state, bad.state]
        assert all(part.history.records for part in report.parts)
        assert f"kind {kinds['real']}: Operators" in html_report(report, 0.0)


def test_a_whole_job_is_paused_resumed_given_priority_and_cancelled(farm: Farm) -> None:
    job = farm.submit(where=("rack=1",))
    assert {part.spec.devices for part in job.parts} == {(farm.kind("a"),), (farm.kind("c"),)}
    farm.until(job, lambda now: all(part.trials.total > 0 for part in now.parts))
    assert farm.client.pause(job.job_id).state is JobState.PAUSED
    now = farm.client.job(job.job_id)
    assert [part.state for part in now.parts] == [JobState.PAUSED] * 2
    with pytest.raises(Conflict, match="paused already"):
        farm.client.pause(job.job_id)
    raised = farm.client.set_priority(job.job_id, Priority.HIGH)
    assert {one.spec.priority for one in (raised, *raised.parts)} == {Priority.HIGH}
    farm.client.resume(job.job_id)
    farm.until(job, lambda now: now.trials.total > raised.trials.total)
    # One part alone, by its own id; the other goes on.
    first, second = job.parts
    assert farm.client.cancel(first.job_id).state is JobState.CANCELLED
    before = farm.until(second, lambda now: now.state is JobState.RUNNING).trials.total
    farm.until(second, lambda now: now.trials.total > before)
    assert farm.client.job(job.job_id).state is JobState.RUNNING
    assert farm.client.cancel(job.job_id).state is JobState.CANCELLED
    with pytest.raises(Conflict, match="has ended already"):
        farm.client.cancel(job.job_id)
    ids = [one.job_id for one in farm.client.jobs()]
    assert job.job_id in ids
    assert second.job_id not in ids, "a part is within its job"


def test_only_devices_that_match_get_the_work(farm: Farm) -> None:
    job = farm.submit(ONE, where=("rack=2",), trials=40)
    job = farm.until(job, lambda now: now.state.ended)
    records = farm.client.measurements(job.job_id).history.records
    # What was measured for an earlier job answers for the same bytes; no device was busy then.
    worked = {record.device for record in records if record.busy_s}
    assert worked == {"b"}, "a is of the same kind, in another rack"


def test_conditions_that_no_device_meets_are_said_at_once_and_why(farm: Farm) -> None:
    done = farm.command("submit", farm.model, "--target", ONE, "--where", "rack=9")
    assert done.returncode == 0, done.stderr
    job_id = done.stdout.strip()
    assert "no device that was ever seen is a device of its target with rack=9" in done.stderr
    assert "a (rack is 1), b (rack is 2)" in done.stderr
    waits = "waiting for a device of its target with rack=9: a (rack is 1), b (rack is 2)"
    assert farm.until(farm.client.job(job_id), lambda now: now.stage == waits)
    farm.client.cancel(job_id)
    for option, complaint in (
        (("--where", "rack"), "is no condition on a device"),
        (("--device", "nobody"), "no device and no kind of device is called 'nobody'"),
    ):
        refused = farm.command("submit", farm.model, *option)
        assert (refused.returncode, complaint in refused.stderr) == (2, True)


def test_a_job_for_whatever_has_a_label_waits_until_something_has(farm: Farm) -> None:
    job = farm.submit(where=("rack=7",))
    assert job.spec.target_json == ""
    assert "no device that was ever seen" in job.stage
    farm.until(job, lambda now: now.stage.startswith("waiting for a device with rack=7: "))
    port = int(farm.client.address.rpartition(":")[2])
    with agent(port, "late", OTHER, replay="5ms", labels=["rack=7"]):
        now = farm.until(job, lambda now: now.trials.total > 0)
        assert json.loads(now.spec.target_json) == json.loads(OTHER)
        assert now.spec.devices == (farm.kind("c"),)
        farm.client.cancel(job.job_id)


def test_a_kind_is_measured_by_name_from_python(farm: Farm) -> None:
    with PythonFarm(farm.client.address) as python:
        with pytest.raises(JobFailed, match="the whole model could not be measured"):
            python.measure(small_model(), "c", trials=2)
        with pytest.raises(NotFound, match="'nobody'"):
            python.measure(small_model(), "nobody")
