"""Mutated messages against running processes; `python -m benchmarks.fuzz` says many more.

The same run with fewer and without a real job beside it, and what it is made of.
"""

from __future__ import annotations

import json
import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from benchmarks.fuzz import __main__ as fuzz
from benchmarks.fuzz import verdict
from benchmarks.fuzz.generated import generated
from benchmarks.fuzz.ledger import TAKEN, Ledger
from benchmarks.fuzz.mutations import MUTATIONS, mutated
from benchmarks.fuzz.processes import Footprint
from benchmarks.fuzz.samples import agents_messages, fake_device
from benchmarks.fuzz.verdict import RealJob
from protos import farm_pb2

MESSAGES = 1000
VALID = agents_messages(fake_device("d", "{}"), "l")


def test_a_farm_stands_some_thousand_mutated_messages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--messages", MESSAGES, "--trials", 0, "--agents", 4, "--keep", tmp_path)
    status = fuzz.main([str(option) for option in options])
    printed = capsys.readouterr()
    figures = json.loads(printed.out.splitlines()[-1])["figures"]
    assert status == 0, printed.err
    assert figures["messages"] >= 0.98 * MESSAGES
    assert figures["acknowledged"] > 0
    zero = ("crashes", "lost", "doubled", "unclear")
    assert [figures[name] for name in zero] == [0] * len(zero)
    for kind in ("Session", "Session of an agent", "SubmitJob", "Enrol", "Chunk to an agent"):
        assert f"\n{kind} " in printed.out, "every kind was sent"


def test_mutations_change_a_message_and_are_the_same_for_a_seed() -> None:
    data = VALID[0].SerializeToString()
    made = [mutated(random.Random(seed), data) for seed in range(300)]
    assert made == [mutated(random.Random(seed), data) for seed in range(300)]
    assert data not in made
    assert len(set(made)) > 200
    for mutation in MUTATIONS:
        assert isinstance(mutation(random.Random(1), b""), bytes)


def test_generated_messages_can_be_read_and_are_the_same_for_a_seed() -> None:
    made = generated(VALID, 12, seed=3)
    assert made == generated(VALID, 12, seed=3)
    assert made != generated(VALID, 12, seed=4)
    for data in made:
        farm_pb2.AgentMessage.FromString(data)


def test_an_answer_that_says_nothing_is_not_clear() -> None:
    ledger = Ledger()
    ledger.note("Session", TAKEN)
    ledger.note("Session", "INVALID_ARGUMENT", "no message")
    assert ledger.unclear == []
    ledger.note("Session", "UNKNOWN", "Unexpected")
    ledger.note("GetJob", "NO_ANSWER")
    assert ledger.unclear == ["Session: UNKNOWN: Unexpected", "GetJob: NO_ANSWER: "]
    assert ledger.messages == 4


class _Process:
    name = "coordinator"


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (Footprint(200_000_000, 20, 10), "holds 100.0 MB more"),
        (Footprint(100_000_000, 50, 10), "20 → 50 files"),
        (Footprint(100_000_000, 20, 40), "10 → 40 threads"),
    ],
)
def test_a_leak_is_a_violation(after: Footprint, words: str) -> None:
    ledger = Ledger()
    process: Any = _Process()
    before = {process: Footprint(100_000_000, 20, 10)}
    verdict.judge_processes(ledger, before, {process: after})
    (violation,) = ledger.violations
    assert words in violation


def test_what_is_lost_or_doubled_is_counted(tmp_path: Path) -> None:
    log = tmp_path / "log.db"
    with sqlite3.connect(log) as connection:
        connection.executescript(
            """
            CREATE TABLE measurements (lease_id, candidate_key, job_id, status, evaluator_json);
            CREATE TABLE candidates (key, trace_json);
            INSERT INTO candidates VALUES ('a', 't'), ('b', 't'), ('c', 't');
            INSERT INTO measurements VALUES
                ('l1', 'a', 'j', 'OK', NULL), ('l1', 'b', 'j', 'OK', NULL),
                ('l2', 'c', 'other', 'OK', NULL), ('l2', 'c', 'other', 'OK', NULL);
            """
        )
    connection.close()
    ledger = Ledger()
    ledger.given = {("l1", "a"), ("l1", "z"), ("l2", "c")}
    ledger.acknowledged = {("l1", "a"), ("l1", "z"), ("elsewhere", "y")}
    assert verdict.judge_log(ledger, log, None) == (1, 1)
    agent: Any = _Process()
    assert verdict.judge_log(ledger, log, RealJob(agent, "j", 2)) == (1, 1)
    assert verdict.judge_log(ledger, log, RealJob(agent, "j", 3)) == (2, 1)
