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
