"""Actors on a real Ray: restarts, time-outs, errors that keep their type; builders on top."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from coordinator import ray_runtime
from coordinator.fleet import builders as builders_module
from coordinator.fleet.builders import Builders, BuildWorker
from coordinator.ray_runtime import Actor, ActorLost
from device_agent.build import BuildOutcome
from protos.errors import BadModel
from protos.records import UNTUNED_TRACE, Candidate, MeasurementStatus, Task
from tests.conftest import keep_alive
from tests.kernels import matmul, matmul_args, target_json, workload_json


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with ray_runtime.running(1):
        for child in psutil.Process().children(recursive=True):
            if child.pid not in before:
                keep_alive(child.pid)
        yield


class Worker:
    def __init__(self) -> None:
        self.calls = 0

    def count(self) -> tuple[int, int]:
        self.calls += 1
        return self.calls, os.getpid()

    def die(self) -> None:
        os._exit(1)

    def hang(self) -> None:
        time.sleep(600)

    def refuse(self) -> None:
        raise BadModel("not a model")


def test_an_actor_keeps_its_state_and_is_replaced_when_it_dies_or_hangs() -> None:
    async def scenario() -> None:
        actor = Actor(Worker, "worker")
        try:
            _, first = await actor.call("count")
            assert await actor.call("count") == (2, first)
            with pytest.raises(ActorLost, match="die"):
                await actor.call("die")
            calls, second = await actor.call("count")
            assert (calls, second != first) == (1, True)
            with pytest.raises(TimeoutError):
                await actor.call("hang", timeout_s=0.5)
            calls, third = await actor.call("count")
            assert (calls, third != second) == (1, True)
            with pytest.raises(BadModel, match="not a model"):
                await actor.call("refuse")
            assert await actor.call("count") == (2, third)
        finally:
            actor.stop()

    asyncio.run(scenario())


def test_ray_listens_on_loopback_only() -> None:
    ours = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    listening = [
        connection.laddr.ip
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.pid in ours
    ]
    assert listening
    assert {ip for ip in listening if ip not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")} == set()


TASK = Task("matmul", "k" * 32, workload_json(matmul()), 1, matmul_args(), 1, 1.0)


def test_builders_answer_for_every_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        pool = Builders(1)
        try:
            untuned = Candidate(TASK.workload_key, UNTUNED_TRACE)
            built = await pool.build(TASK, untuned, target_json())
            assert built.status is MeasurementStatus.OK, built.error
            assert built.artifact is not None
            broken = Candidate(TASK.workload_key, '[[["NoSuchInstruction",[],[],[]]],[]]')
            failed = await pool.build(TASK, broken, target_json())
            assert failed.status is MeasurementStatus.BUILD_ERROR
            assert "NoSuchInstruction" in failed.error
            with pytest.raises(ActorLost):
                await pool.run(os._exit, 3)  # as a compiler that crashes
            again = await pool.build(TASK, untuned, target_json())
            assert again.artifact == built.artifact
            monkeypatch.setattr(builders_module, "BUILD_TIMEOUT_S", 0.001)
            slow = await pool.build(TASK, untuned, target_json())
            assert slow.status is MeasurementStatus.BUILD_TIMEOUT
        finally:
            pool.stop()

    asyncio.run(scenario())


def test_a_build_worker_that_dies_once_costs_no_candidate(tmp_path: Path) -> None:
    died = tmp_path / "died"

    class DyingWorker(BuildWorker):
        """A fake: no candidate is known of which the compiler dies."""

        def build(self, workload_json: str, trace_json: str, target_json: str) -> BuildOutcome:
            if not died.exists():
                died.touch()
                os._exit(9)
            return super().build(workload_json, trace_json, target_json)

    async def scenario() -> None:
        pool, untuned = Builders(1, DyingWorker), Candidate(TASK.workload_key, UNTUNED_TRACE)
        try:
            outcome = await pool.build(TASK, untuned, target_json())
            assert outcome.status is MeasurementStatus.OK, outcome.error
            assert died.exists()
        finally:
            pool.stop()

    asyncio.run(scenario())
