"""One run of the fleet's benchmark: its processes, what they cost, and its ledger.

``measure`` starts a coordinator and the agents' processes, lets them settle, watches them for a
while from outside (``psutil``), ends them, and compares what the devices were acknowledged with
what the tuning log has.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import psutil
import sqlalchemy as sa

from benchmarks.fleet_plan import Answer, Plan, device
from benchmarks.process import QUOTED_CHARACTERS, ProcessFailed, progress
from coordinator.security.authority import Authority
from coordinator.tuning_log import TuningLog
from coordinator.tuning_log.identities import add_token
from coordinator.tuning_log.schema import measurements
from protos.enrolment import SECRET_BYTES, Token
from protos.identity import Identity, Role

AGENTS_PER_PROCESS = 125
TOKEN_GOOD_S = 3600.0
ENDS_WITHIN_S = 60.0
LOOK_EVERY_S = 1.0


@dataclass(frozen=True)
class Ran:
    """What became of a run with so many devices.

    ``per_s`` counts measurements in the ``window_s`` that was watched: those that were
    acknowledged, or those that ended if they were fewer. ``utilisation`` is the devices' share of
    it in which they measured. ``coordinator_cores`` and ``other_cores`` (of the agents' processes,
    all together) are CPU seconds a second. ``rss_mb`` is the coordinator's memory at the window's
    beginning, middle and end.
    """

    devices: int
    connected: int
    sessions: int
    joined_s: float
    window_s: float
    per_s: float
    utilisation: float
    wait_ms: float
    coordinator_cores: float
    cpu_ms: float
    other_cores: float
    rss_mb: tuple[float, float, float]
    acknowledged: int
    lost: int
    doubled: int


class Result(NamedTuple):
    """A line of a device's ledger; times in seconds (CLOCK_MONOTONIC), ``acknowledged`` None if it
    was not."""

    device: str
    lease_id: str
    candidate_key: str
    began: float
    ended: float
    acknowledged: float | None


class Look(NamedTuple):
    """At one moment: CPU seconds of the coordinator and of the agents, the coordinator's memory."""

    at: float
    cpu_s: float
    agents_cpu_s: float
    rss_bytes: int


@dataclass(frozen=True)
class Pace:
    """How long a run settles, and how long it is watched."""

    settle_s: float
    window_s: float


def measure(
    url: str,
    devices: int,
    answers: Sequence[Answer],
    pace: Pace,
    profile: Path | None = None,
) -> Ran:
    """One run on an empty log; raises ProcessFailed if a process of it does."""
    with tempfile.TemporaryDirectory(prefix="tunefarm-fleet-") as folder:
        plan = Plan(url, folder, devices, tuple(answers))
        plan_file = Path(folder) / "plan.json"
        plan.save(plan_file)
        authority = Authority.create(plan.authority, "benchmark")
        log = TuningLog.open(url)
        try:
            tokens = _tokens(log, authority, devices)
            with contextlib.ExitStack() as stack:
                run = _Run(stack, plan, plan_file, tokens, profile)
                joined_s, looks, connected, sessions = run.watched(pace)
            results = list(read_results(Path(folder)))
            lost, doubled = counted(log, results)
        finally:
            log.close()
    return _summary(devices, connected, sessions, joined_s, looks, results, (lost, doubled))


class _Run:
    """The processes of a run; they end with ``stack``."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        plan: Plan,
        plan_file: Path,
        tokens: Sequence[str],
        profile: Path | None,
    ) -> None:
        self._plan = plan
        profiling = (str(profile),) if profile else ()
        self._coordinator = stack.enter_context(
            _child("fleet_coordinator", str(plan_file), *profiling)
        )
        ports = json.loads(self._coordinator.answer())
        self._agents: list[_Child] = []
        for first in range(0, plan.devices, AGENTS_PER_PROCESS):
            mine = tokens[first : first + AGENTS_PER_PROCESS]
            numbers = (ports["enrol_port"], ports["port"], first, len(mine))
            agents = stack.enter_context(
                _child("replay_agents", str(plan_file), *map(str, numbers))
            )
            agents.say(*mine)
            self._agents.append(agents)
        progress(f"{plan.devices} devices: enrolling")
        for agents in self._agents:
            agents.answer()

    def watched(self, pace: Pace) -> tuple[float, list[Look], int, int]:
        """Seconds until all had joined, what was seen each second, how many were connected at the
        end, and how often devices joined."""
        progress(f"{self._plan.devices} devices: joining")
        began = time.monotonic()
        for agents in self._agents:
            agents.say("")
        for agents in self._agents:
            agents.answer()
        joined_s = time.monotonic() - began
        progress(f"{self._plan.devices} devices: measuring")
        self._coordinator.say("")
        self._coordinator.answer()
        time.sleep(pace.settle_s)
        looks = [self._look()]
        while looks[-1].at < looks[0].at + pace.window_s:
            time.sleep(min(LOOK_EVERY_S, pace.window_s))
            looks.append(self._look())
        self._coordinator.say("")
        connected = int(self._coordinator.answer())
        sessions = sum(int(answer) for answer in self._ended())
        self._coordinator.say("")
        self._coordinator.end()
        return joined_s, looks, connected, sessions

    def _ended(self) -> Iterator[str]:
        for agents in self._agents:
            agents.say_no_more()
        for agents in self._agents:
            yield agents.answer()
            agents.end()

    def _look(self) -> Look:
        coordinator = psutil.Process(self._coordinator.pid)
        agents_cpu_s = sum(_cpu_s(psutil.Process(agents.pid)) for agents in self._agents)
        return Look(
            time.monotonic(), _cpu_s(coordinator), agents_cpu_s, coordinator.memory_info().rss
        )


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


class _Child:
    """A process of the benchmark, which is quiet: what it says on standard error is kept."""

    def __init__(self, process: subprocess.Popen[str], errors: IO[str]) -> None:
        self._process = process
        self._errors = errors
        self.pid = process.pid

    def say(self, *lines: str) -> None:
        """Lines for its standard input."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("".join(f"{line}\n" for line in lines))
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failed() from None

    def say_no_more(self) -> None:
        """The end of its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def answer(self) -> str:
        """A line that it says; raises ProcessFailed if it has ended instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._failed()
        return line

    def end(self) -> None:
        """Wait for its end; raises ProcessFailed."""
        if self._process.wait(ENDS_WITHIN_S) != 0:
            raise self._failed()

    def _failed(self) -> ProcessFailed:
        status = self._process.wait(ENDS_WITHIN_S)
        self._errors.seek(0)
        said = self._errors.read()[-QUOTED_CHARACTERS:]
        return ProcessFailed(f"{self._process.args} ended with {status}:\n{said}")


@contextlib.contextmanager
def _child(module: str, *arguments: str) -> Iterator[_Child]:
    """It is killed at the end if it has not ended by itself."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            bufsize=1,
        ) as process,
    ):
        try:
            yield _Child(process, errors)
        finally:
            if process.poll() is None:
                process.kill()


def _tokens(log: TuningLog, authority: Authority, devices: int) -> list[str]:
    """A token for each device, as ``tunefarm ca token`` gives."""
    tokens = []
    with log.writing() as connection:
        for number in range(devices):
            token = Token(secrets.token_bytes(SECRET_BYTES), authority.certificate_der)
            who = Identity(device(number).name, Role.AGENT)
            add_token(connection, token.secret, who, TOKEN_GOOD_S)
            tokens.append(token.text)
    return tokens


# ------------------------------------------------------------------------- what it amounts to


def read_results(folder: Path) -> Iterator[Result]:
    """What the agents wrote."""
    for path in sorted(folder.glob("*.results")):
        with path.open() as lines:
            for line in lines:
                name, lease_id, key, began, ended, acknowledged = line.split()
                at = None if acknowledged == "-" else float(acknowledged)
                yield Result(name, lease_id, key, float(began), float(ended), at)


def counted(log: TuningLog, results: Sequence[Result]) -> tuple[int, int]:
    """How many acknowledged results the log lacks, and how many it has twice."""
    m = measurements.c
    missing = {(r.lease_id, r.candidate_key) for r in results if r.acknowledged is not None}
    rows = different = 0
    query = sa.select(m.lease_id, m.candidate_key).order_by(m.lease_id, m.candidate_key)
    before = None
    with log.reading() as connection:
        for row in connection.execute(query.execution_options(yield_per=10_000)):
            name = (row.lease_id, row.candidate_key)
            rows += 1
            different += name != before
            before = name
            missing.discard(name)
    return len(missing), rows - different


def utilisation(results: Sequence[Result], devices: int, began: float, ended: float) -> float:
    """The devices' share of a window in which they measured (pure)."""
    busy_s = sum(max(0.0, min(r.ended, ended) - max(r.began, began)) for r in results)
    return busy_s / (devices * (ended - began))


def _summary(
    devices: int,
    connected: int,
    sessions: int,
    joined_s: float,
    looks: Sequence[Look],
    results: Sequence[Result],
    ledger: tuple[int, int],
) -> Ran:
    first, last = looks[0], looks[-1]
    window_s = last.at - first.at
    ended = sum(first.at <= r.ended < last.at for r in results)
    waits_s = [
        r.acknowledged - r.ended
        for r in results
        if r.acknowledged is not None and first.at <= r.acknowledged < last.at
    ]
    moments = (first, looks[len(looks) // 2], last)
    return Ran(
        *(devices, connected, sessions, joined_s, window_s),
        per_s=min(len(waits_s), ended) / window_s,
        utilisation=utilisation(results, devices, first.at, last.at),
        wait_ms=statistics.median(waits_s) * 1e3 if waits_s else 0.0,
        coordinator_cores=(last.cpu_s - first.cpu_s) / window_s,
        cpu_ms=(last.cpu_s - first.cpu_s) / max(min(len(waits_s), ended), 1) * 1e3,
        other_cores=(last.agents_cpu_s - first.agents_cpu_s) / window_s,
        rss_mb=(moments[0].rss_bytes / 1e6, moments[1].rss_bytes / 1e6, moments[2].rss_bytes / 1e6),
        acknowledged=sum(r.acknowledged is not None for r in results),
        lost=ledger[0],
        doubled=ledger[1],
    )
