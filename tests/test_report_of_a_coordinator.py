"""A job's report by way of a coordinator is the report from its log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from coordinator.cli.report import report_of_coordinator, report_of_log
from coordinator.client import FarmClient
from coordinator.farm_service import FarmService
from coordinator.fleet.builders import Builders
from coordinator.fleet.fleet import Fleet
from coordinator.job_measurements import RECORDS_PER_PIECE, joined, pieces
from coordinator.jobs import Jobs
from coordinator.results.html_report import html_report
from coordinator.tuning_log import TuningLog
from protos import convert, farm_pb2_grpc, rpc
from protos.errors import NotFound, ProtocolViolation
from protos.records import (
    UNTUNED_TRACE,
    Candidate,
    Device,
    DeviceLimits,
    History,
    HistoryRecord,
    JobMeasurements,
    MeasurementStatus,
)
from tests.test_results_report import JOB
from tests.test_tuning_log import KIND, failed, new_job, ok

ROOT = Path(__file__).resolve().parent.parent
TRIALS = 2 * RECORDS_PER_PIECE + 5
LIMITS = DeviceLimits("d1", 100.0, 10.0, 50.0, 32 << 20)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[TuningLog]:
    opened = TuningLog.open(str(tmp_path / "log.db"))
    yield opened
    opened.close()


def finished_job(log: TuningLog) -> str:
    """A job with a result and more measurements than one message carries; its id."""
    job_id = new_job(log, "k1", "k2", "k3")
    base, crashed = Candidate("k2", UNTUNED_TRACE), Candidate("k1", "crashed")
    rows: list[Any] = [
        (job_id, KIND, base, ok(base, "lease-0", 3e-4), None),
        (job_id, KIND, crashed, failed(crashed, "lease-0", MeasurementStatus.CRASHED), None),
    ]
    for number in range(TRIALS - 1):
        candidate = Candidate("k2", f"[{number}]")
        latency_s = 2e-4 - number * 5e-8
        rows.append((job_id, KIND, candidate, ok(candidate, "lease-1", latency_s), None))
    log.record_many(rows)
    log.set_limits(KIND, LIMITS)
    tasks = tuple(replace(task, flops=1e5, moved_bytes=4000) for task in JOB.tasks)
    assert JOB.result is not None
    labelled = replace(JOB.result, labels={"price-per-hour": "0.35"})
    log.save_job(replace(JOB, job_id=job_id, tasks=tasks, result=labelled))
    return job_id


@contextlib.asynccontextmanager
async def farm_service(log: TuningLog) -> AsyncIterator[str]:
    """What a coordinator tells its clients, by its address; nothing runs jobs."""
    fleet = Fleet(log)
    service = FarmService(Jobs(log, fleet, Builders(0), embedded=False), fleet, log)
    server = grpc.aio.server(options=list(rpc.SERVER_OPTIONS))
    farm_pb2_grpc.add_FarmServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(grace=None)


def asked(log: TuningLog, question: Callable[[str], Any]) -> Any:
    """What a blocking client is answered, given the coordinator's address."""

    async def scenario() -> Any:
        async with farm_service(log) as address:
            return await asyncio.to_thread(question, address)

    return asyncio.run(scenario())


def sections(page: str) -> list[str]:
    return [str(found) for found in re.findall(r'<section id="([^"]+)"', page)]


def test_both_pages_are_made_of_the_same(log: TuningLog) -> None:
    job_id = finished_job(log)
    there = asked(log, lambda address: report_of_coordinator(address, "latest"))
    here = report_of_log(log.url, job_id)
    assert replace(there, source=here.source) == here
    assert len(here.history.records) == TRIALS + 1
    assert here.limits == LIMITS
    page = html_report(there, 0.0)
    assert page.replace(there.source, here.source) == html_report(here, 0.0)
    assert {"latency", "efficiency", "operators", "roofline", "curve", "cost"} <= {*sections(page)}
    assert "curve-picture" in page
    assert "roofline-picture" in page


def test_the_command_makes_both_pages_alike(log: TuningLog, tmp_path: Path) -> None:
    job_id = finished_job(log)

    def report(name: str, *source: str) -> tuple[dict[str, Any], list[str]]:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "coordinator.cli.main", "report", job_id, "--json"),
                *("--html", name, *source),
            ],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        found.pop("log")
        return found, sections((tmp_path / name).read_text(encoding="utf-8"))

    there = asked(log, lambda address: report("there.html", "--coordinator", address))
    here = report("here.html", "--log", log.url)
    assert there == here
    assert here[0]["tuning"]["devices"] == ["d1"]
    assert here[0]["tuning"]["curve"][-1]["trials"] == TRIALS


def test_a_job_that_measured_nothing(log: TuningLog) -> None:
    new_job(log)
    device = Device("d1", '{"kind":"llvm"}', "a CPU", (0,), 1)
    log.upsert_device(device)
    log.set_limits(device.kind, LIMITS)
    there = asked(log, lambda address: report_of_coordinator(address, "latest"))
    assert (there.history, there.limits) == (History(), LIMITS)
    log.upsert_device(replace(device, name="d2", cpu_model="another CPU"))
    there = asked(log, lambda address: report_of_coordinator(address, "latest"))
    assert there.limits is None, "it may be either kind"


def test_a_job_that_is_not_there(log: TuningLog) -> None:
    def refused(address: str) -> str:
        with FarmClient(address) as farm, pytest.raises(NotFound) as caught:
            farm.measurements("j-nothere")
        return str(caught.value)

    assert "no job 'j-nothere'" in asked(log, refused)
    with pytest.raises(NotFound, match="has no job yet"):
        asked(log, lambda address: report_of_coordinator(address, "latest"))


@pytest.mark.parametrize("count", [0, 1, RECORDS_PER_PIECE, 2 * RECORDS_PER_PIECE + 1])
def test_pieces_are_small_and_make_the_whole(count: int) -> None:
    worst = HistoryRecord(
        *(1.7e9, "w" * 64, "c" * 64, MeasurementStatus.WRONG_OUTPUT, 0.1, 0.1, "é" * 128),
        untuned=True,
    )
    records = tuple(replace(worst, measured_at=float(number)) for number in range(count))
    whole = JobMeasurements(History(records, {"w": 1.0}, "kind"), LIMITS)
    taken = list(pieces(whole))
    assert len(taken) == max(1, -(-count // RECORDS_PER_PIECE))
    assert joined(taken) == whole
    for piece in taken:
        assert convert.to_message(piece).ByteSize() < rpc.MAX_MESSAGE_BYTES / 16


def test_nothing_is_no_answer() -> None:
    with pytest.raises(ProtocolViolation, match="without their first piece"):
        joined([])
