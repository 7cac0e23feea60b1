"""Which device gets which trials: values in, assignments out."""

from __future__ import annotations

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
