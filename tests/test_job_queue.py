"""Whose turn it is, and who makes room."""

from __future__ import annotations

import pytest

from coordinator.job_queue import SLICE_S, Running, Waiting, next_turn
from protos.records import Priority

LOW, NORMAL, HIGH = Priority.LOW, Priority.NORMAL, Priority.HIGH


def waiting(name: str, user: str = "alice", priority: Priority = NORMAL) -> Waiting:
    return Waiting(name, user, priority)


def running(name: str, user: str = "alice", ran_s: float = 0.0, tunes: bool = True) -> Running:
    return Running(name, user, NORMAL, ran_s, tunes)


def test_nobody_waits() -> None:
    turn = next_turn([], [running("a")], {})
    assert (turn.begin, turn.interrupt, turn.why) == (None, None, {})


def test_who_came_first_begins() -> None:
    assert next_turn([waiting("b"), waiting("a")], [], {}).begin == "b"


def test_the_highest_priority_goes_first() -> None:
    jobs = [waiting("a", priority=LOW), waiting("b"), waiting("c", priority=HIGH)]
    assert next_turn(jobs, [], {}).begin == "c"
    assert next_turn(jobs[:2], [], {}).begin == "b"


def test_of_one_priority_who_has_the_fewest_running_goes_first() -> None:
    jobs = [waiting("a1", "alice"), waiting("b1", "bob")]
    assert next_turn(jobs, [running("a0", "alice")], {}).begin == "b1"


def test_without_a_device_a_job_takes_no_place_from_others() -> None:
    nowhere = Waiting("a", "alice", HIGH, lacks="a device of its target")
    turn = next_turn([nowhere, waiting("b")], [], {})
    assert turn.begin == "b"
    assert turn.why == {"a": "waiting for a device of its target"}


@pytest.mark.parametrize(("quota", "begins"), [(1, "b1"), (2, "a2")])
def test_a_user_has_no_more_running_than_the_quota(quota: int, begins: str) -> None:
    jobs = [waiting("a2", "alice", HIGH), waiting("b1", "bob")]
    turn = next_turn(jobs, [running("a1", "alice")], {"alice": quota})
    assert turn.begin == begins
    assert turn.why == ({"a2": "waiting: alice may have 1 running at a time"} if quota == 1 else {})


def test_no_more_run_than_there_is_room_for() -> None:
    turn = next_turn([waiting("c")], [running("a"), running("b")], {}, slots=2)
    assert (turn.begin, turn.interrupt) == (None, None)
    assert turn.why == {"c": "waiting: 2 other jobs run"}


def test_who_has_run_the_longest_makes_room_for_one_that_waits() -> None:
    held = [running("a", ran_s=SLICE_S + 1), running("b", ran_s=SLICE_S + 2), running("c")]
    assert next_turn([waiting("d")], held, {}, slots=3).interrupt == "b"
    assert next_turn([], held, {}, slots=3).interrupt is None
    assert next_turn([waiting("d")], held[:2], {}, slots=3).interrupt is None, "there is room"


def test_a_job_is_not_interrupted_where_that_would_cost_it_something() -> None:
    finals = running("a", ran_s=9 * SLICE_S, tunes=False)
    assert next_turn([waiting("d")], [finals], {}, slots=1).interrupt is None


def test_a_job_makes_no_room_for_a_lower_priority() -> None:
    old = running("a", ran_s=9 * SLICE_S)
    assert next_turn([waiting("d", priority=LOW)], [old], {}, slots=1).interrupt is None
    assert next_turn([waiting("d", priority=HIGH)], [old], {}, slots=1).interrupt == "a"


def test_in_the_end_everybody_has_had_a_turn() -> None:
    """Four that never end and a fifth: by slices each runs, and none twice before all have."""
    waits, runs, begun = [waiting(name) for name in "abcde"], [], []
    for _ in range(40):
        turn = next_turn(waits, runs, {}, slots=2)
        if turn.begin:
            begun.append(turn.begin)
            waits = [job for job in waits if job.job_id != turn.begin]
            runs.append(running(turn.begin))
        elif turn.interrupt:
            runs = [job for job in runs if job.job_id != turn.interrupt]
            waits.append(waiting(turn.interrupt))
        else:
            runs = [running(job.job_id, ran_s=job.ran_s + SLICE_S) for job in runs]
    assert begun[:10] == [*"abcdeabcde"]
