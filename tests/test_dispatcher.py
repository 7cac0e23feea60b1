"""Which device gets which trials: values in, assignments out."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import pytest

from coordinator.fleet.dispatcher import (
    LEASES_PER_DEVICE,
    MAX_TRIALS_PER_LEASE,
    Assignment,
    Seat,
    Waiting,
    assign,
)

A, B = Seat("a", "cpu", 0), Seat("b", "cpu", 0)


def test_nothing_waits_or_nobody_is_there() -> None:
    assert assign([], [A]) == []
    assert assign([Waiting(1, "cpu", 4)], []) == []


def test_a_batch_is_divided_evenly_among_devices_of_its_kind() -> None:
    other = Seat("c", "gpu", 0)
    assert assign([Waiting(1, "cpu", 10)], [A, other, B]) == [
        Assignment(1, "a", 5),
        Assignment(1, "b", 5),
    ]


def test_an_odd_trial_goes_to_the_first() -> None:
    assert [a.trials for a in assign([Waiting(1, "cpu", 5)], [A, B])] == [3, 2]


def test_a_device_is_never_given_more_leases_than_it_may_hold() -> None:
    full = Seat("a", "cpu", LEASES_PER_DEVICE)
    assert assign([Waiting(1, "cpu", 4)], [full]) == []
    many = [Waiting(i, "cpu", 1) for i in range(10)]
    assert len(assign(many, [A])) == LEASES_PER_DEVICE


def test_a_device_that_is_set_aside_gets_nothing() -> None:
    doubtful = Seat("a", "cpu", 0, set_aside=True)
    assert assign([Waiting(1, "cpu", 4)], [doubtful]) == []
    assert assign([Waiting(1, "cpu", 4)], [doubtful, B]) == [Assignment(1, "b", 4)]


def test_the_oldest_batch_goes_first() -> None:
    assignments = assign([Waiting(1, "cpu", 2), Waiting(2, "cpu", 2)], [A])
    assert [a.batch_id for a in assignments] == [1, 2]


def test_a_lease_has_a_largest_size() -> None:
    assignments = assign([Waiting(1, "cpu", 100)], [A])
    assert all(a.trials <= MAX_TRIALS_PER_LEASE for a in assignments)


def test_the_idle_device_is_preferred() -> None:
    busy = Seat("a", "cpu", 1)
    assert assign([Waiting(1, "cpu", 1)], [busy, B]) == [Assignment(1, "b", 1)]


def test_a_whole_model_is_never_divided() -> None:
    assert assign([Waiting(1, "cpu", 1, exclusive=True)], [A, B]) == [Assignment(1, "a", 1)]


def test_a_batch_for_an_absent_kind_does_not_hold_up_others() -> None:
    assert assign([Waiting(1, "gpu", 4), Waiting(2, "cpu", 1)], [A]) == [Assignment(2, "a", 1)]


PARTICULAR = [(), (Waiting(9, "cpu", 0, barred=frozenset("z")),)]
"""With a batch that makes `assign` look at every device for each lease, and without one."""


@pytest.mark.parametrize("besides", PARTICULAR, ids=["all", "some"])
def test_what_a_device_built_waits_for_that_device(besides: tuple[Waiting, ...]) -> None:
    own = Waiting(1, "cpu", 40, only="b")
    assert assign([own, *besides], [A]) == []
    assert assign([own, *besides], [A, Seat("b", "cpu", LEASES_PER_DEVICE)]) == []
    assert assign([own, *besides], [A, Seat("b", "cpu", 0, set_aside=True)]) == []
    assert assign([own, *besides], [A, B]) == [Assignment(1, "b", 16)] * 2


@pytest.mark.parametrize("besides", PARTICULAR, ids=["all", "some"])
def test_what_a_device_built_has_its_turn_beside_what_others_may_have(
    besides: tuple[Waiting, ...],
) -> None:
    own = Waiting(1, "cpu", 40, only="b", job_id="own")
    shared = Waiting(2, "cpu", 64, job_id="shared")
    given = assign([own, shared, *besides], [A, B])
    assert [(a.batch_id, a.session_id) for a in given] == [(1, "b"), (2, "a"), (1, "b"), (2, "a")]
    given = assign([own, shared, *besides], [A, B], {"own": 99.0})
    assert [(a.batch_id, a.session_id) for a in given] == [(2, "a"), (2, "b"), (2, "a"), (2, "b")]


def shares(weights: dict[str, float], leases: int) -> dict[str, int]:
    """How many trials each of several jobs that always want more gets of so many leases."""
    had: dict[str, float] = {}
    got = dict.fromkeys(weights, 0)
    for _ in range(leases):
        waiting = [
            Waiting(number, "cpu", 100, job_id=job, weight=weight)
            for number, (job, weight) in enumerate(weights.items())
        ]
        (assignment,) = assign(waiting, [Seat("a", "cpu", LEASES_PER_DEVICE - 1)], had)
        job = waiting[assignment.batch_id].job_id
        got[job] += assignment.trials
        had[job] = had.get(job, 0.0) + assignment.cost
    return got


def test_jobs_get_their_parts() -> None:
    assert shares({"a": 1.0, "b": 1.0}, 40) == {"a": 320, "b": 320}
    assert shares({"a": 4.0, "b": 1.0}, 50) == {"a": 640, "b": 160}
    assert shares({"a": 1.0}, 5) == {"a": 80}


def test_the_job_that_had_the_least_goes_first_and_of_a_job_the_oldest_batch() -> None:
    waiting = [Waiting(n, "cpu", 4, job_id=job) for n, job in enumerate(["a", "a", "b"])]
    seats = [Seat("a", "cpu", 0)]
    given = [a.batch_id for a in assign(waiting, seats, {"a": 10.0, "b": 1.0})]
    assert given == [2, 0]
    assert [a.batch_id for a in assign(waiting, seats, {})] == [0, 2]


def test_a_job_that_had_less_does_not_take_what_it_can_not_use() -> None:
    waiting = [Waiting(1, "gpu", 4, job_id="b"), Waiting(2, "cpu", 4, job_id="a")]
    assert [a.batch_id for a in assign(waiting, [A], {"a": 99.0})] == [2]


def test_a_whole_model_counts_as_much_as_a_full_lease() -> None:
    for weight in (0.25, 4.0):
        model = Waiting(1, "cpu", 1, exclusive=True, weight=weight)
        full = Waiting(2, "cpu", 100, weight=weight)
        costs = [assign([batch], [A])[0].cost for batch in (model, full)]
        assert costs == [MAX_TRIALS_PER_LEASE / weight] * 2


# ------------------------------------------------------------------------------- who may have whom


def on(name: str, *jobs: str, taken_by: str = "", leases: int = 0) -> Seat:
    return Seat(name, "cpu", leases or len(jobs), False, frozenset(jobs), taken_by)


def test_a_device_that_a_job_did_not_ask_for_gets_nothing_of_it() -> None:
    choosy = Waiting(1, "cpu", 4, job_id="j", barred=frozenset({"a"}))
    assert assign([choosy], [A, B]) == [Assignment(1, "b", 4)]
    assert assign([choosy], [A]) == []
    other = Waiting(2, "cpu", 4, job_id="k")
    assert assign([choosy, other], [A]) == [Assignment(2, "a", 4)]


def test_an_exclusive_job_is_alone_on_its_devices() -> None:
    alone = Waiting(1, "cpu", 40, job_id="x", alone=True)
    other = Waiting(2, "cpu", 40, job_id="y")
    got = assign([alone, other], [A, B])
    by_seat = {seat: {a.batch_id for a in got if a.session_id == seat} for seat in "ab"}
    assert sorted(by_seat.values(), key=min) == [{1}, {2}]


def test_what_an_exclusive_job_holds_is_not_given_to_others() -> None:
    seats = [on("a", "x", taken_by="x")]
    assert assign([Waiting(1, "cpu", 4, job_id="y")], seats) == []
    assert len(assign([Waiting(1, "cpu", 4, job_id="x", alone=True)], seats)) == 1
    assert assign([Waiting(1, "cpu", 4, job_id="z", alone=True)], seats) == []


def test_a_device_becomes_free_for_an_exclusive_job_whose_turn_it_is() -> None:
    """Else those that share it would hand it to each other for ever."""
    alone = Waiting(1, "cpu", 4, job_id="x", alone=True)
    other = Waiting(2, "cpu", 99, job_id="y")
    assert assign([alone, other], [on("a", "y")], {"y": 16.0}) == []
    assert assign([alone, other], [on("a")], {"y": 16.0}) == [Assignment(1, "a", 4)]
    # One device is enough; the others go on.
    got = assign([alone, other], [on("a", "y", leases=2), on("b", "y")], {"y": 16.0})
    assert got == []
    got = assign([alone, other], [on("a", "y"), on("b", "y")], {"y": 16.0})
    assert [a.session_id for a in got] == ["b"]


def test_an_exclusive_job_gives_its_device_back_when_it_is_the_others_turn() -> None:
    alone = Waiting(1, "cpu", 99, job_id="x", alone=True)
    other = Waiting(2, "cpu", 99, job_id="y")
    held = on("a", "x", taken_by="x")
    assert assign([alone, other], [held], {"x": 32.0}) == []
    assert [a.batch_id for a in assign([alone, other], [held], {"y": 32.0})] == [1]


def test_in_the_end_an_exclusive_job_and_another_have_had_as_much() -> None:
    had: dict[str, float] = {}
    got = {"x": 0, "y": 0}
    leases: list[str] = []
    for _ in range(100):
        waiting = [Waiting(1, "cpu", 99, job_id="x", alone=True), Waiting(2, "cpu", 99, job_id="y")]
        seat = on("a", *leases, taken_by="x" if "x" in leases else "", leases=len(leases))
        for one in assign(waiting, [seat], had):
            job = "x" if one.batch_id == 1 else "y"
            assert set(leases) <= {job}, "never both"
            leases.append(job)
            got[job] += one.trials
            had[job] = had.get(job, 0.0) + one.cost
        leases.pop(0)
    assert abs(got["x"] - got["y"]) <= 2 * MAX_TRIALS_PER_LEASE
    assert sum(got.values()) >= 90 * MAX_TRIALS_PER_LEASE


def test_where_there_is_enough_for_all_each_gets_a_full_lease() -> None:
    seats = [Seat(f"s{i}", "cpu", 0) for i in range(8)]
    few = assign([Waiting(1, "cpu", 64)], seats)
    assert [a.trials for a in few] == [8] * 8
    many = assign([Waiting(i, "cpu", 64) for i in range(2)], seats)
    assert [a.trials for a in many] == [16] * 8


def by_looking_at_all(
    waiting: Sequence[Waiting], seats: Sequence[Seat], had: Mapping[str, float]
) -> list[Assignment]:
    """What ``assign`` says, in the plainest words: quadratic in batches and devices."""
    leases = {seat.session_id: seat.leases for seat in seats}
    left, parts = {batch.batch_id: batch.trials for batch in waiting}, dict(had)
    todo, found = list(waiting), []
    while todo:
        batch = min(todo, key=lambda one: parts.get(one.job_id, 0.0))
        able = [s for s in seats if s.serves == batch.needs and not s.set_aside]
        free = [s.session_id for s in able if leases[s.session_id] < LEASES_PER_DEVICE]
        if not free or not left[batch.batch_id]:
            todo.remove(batch)
            continue
        idlest = [s for s in free if leases[s] == min(leases[one] for one in free)]
        of_kind = sum(left[one.batch_id] for one in waiting if one.needs == batch.needs)
        plenty = of_kind >= MAX_TRIALS_PER_LEASE * len(idlest)
        share = left[batch.batch_id] if plenty else -(-left[batch.batch_id] // len(idlest))
        count = min(share, MAX_TRIALS_PER_LEASE)
        count = left[batch.batch_id] if batch.exclusive else count
        found.append(Assignment(batch.batch_id, idlest[0], count))
        leases[idlest[0]] += 1
        left[batch.batch_id] -= count
        parts[batch.job_id] = parts.get(batch.job_id, 0.0) + batch.cost(count)
    return found


@pytest.mark.parametrize("seed", range(200))
def test_who_gets_what_is_as_if_all_were_looked_at_for_each_lease(seed: int) -> None:
    chance = random.Random(seed)
    waiting = [
        Waiting(
            *(i, chance.choice("abc"), chance.randint(0, 70), chance.random() < 0.1),
            *(f"job-{chance.randint(0, 3)}", chance.choice([0.25, 1.0, 4.0])),
        )
        for i in range(chance.randint(0, 12))
    ]
    seats = [
        Seat(f"s{i}", chance.choice("ab"), chance.randint(0, 2), chance.random() < 0.1)
        for i in range(chance.randint(0, 15))
    ]
    had = {f"job-{i}": 8.0 * chance.randint(0, 3) for i in range(3)}
    assert assign(waiting, seats, had) == by_looking_at_all(waiting, seats, had)
