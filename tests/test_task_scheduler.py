"""Which task gets the next batch: values in, an index out."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from coordinator.search.task_scheduler import TaskState, choose, expected_gain_us

HEAVY = TaskState(weight=2, untuned_us=1000.0, flops=1e6)
LIGHT = TaskState(weight=1, untuned_us=10.0, flops=1e4)


def test_the_task_that_costs_the_model_most_goes_first() -> None:
    assert choose([LIGHT, HEAVY]) == 1
    assert choose([HEAVY, LIGHT]) == 0


def test_weight_counts_as_much_as_latency() -> None:
    often = replace(LIGHT, weight=500)
    assert choose([HEAVY, often]) == 1


def test_nothing_to_choose() -> None:
    assert choose([]) is None
    assert choose([replace(HEAVY, exhausted=True)]) is None


def test_an_exhausted_task_is_never_chosen() -> None:
    assert choose([replace(HEAVY, exhausted=True), LIGHT]) == 1


def test_a_task_at_the_machines_rate_has_little_left_to_win() -> None:
    # Both run 1e6 operations; one reached 5 µs, the other is still at 500.
    fast = replace(HEAVY, best_after=(5.0, 5.0))
    slow = replace(HEAVY, best_after=(500.0, 480.0))
    assert choose([fast, slow]) == 1


def test_a_large_product_that_is_nearly_as_fast_as_any_leaves_batches_to_a_small_operator() -> None:
    product = TaskState(weight=1, untuned_us=1e4, flops=1e7, best_after=(100.0,))
    small = TaskState(weight=1, untuned_us=20.0, flops=1e4, best_after=(15.0,))
    assert choose([product, small]) == 1
    assert choose([replace(product, best_after=(200.0,)), product, small]) == 0


def test_no_progress_lowers_the_expectation() -> None:
    rate = 1e5
    stuck = replace(HEAVY, best_after=(100.0,) * 8)
    moving = replace(HEAVY, best_after=(200.0, 170.0, 130.0, 100.0))
    assert expected_gain_us(moving, rate) > expected_gain_us(stuck, rate)


def test_what_a_trial_should_win_counts_and_not_what_a_batch_should() -> None:
    copy = replace(HEAVY, flops=0.0)
    assert choose([copy, replace(copy, untuned_us=700.0, size=4)]) == 1
    assert choose([copy, replace(copy, untuned_us=200.0, size=4)]) == 0


def test_batches_in_flight_make_room_for_others() -> None:
    tasks = [replace(HEAVY, weight=1), replace(HEAVY, weight=1, untuned_us=900.0)]
    first = choose(tasks)
    assert first == 0
    tasks[0] = replace(tasks[0], in_flight=1)
    assert choose(tasks) == 1


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_tasks_does_not_matter(seed: int) -> None:
    generator = random.Random(seed)
    tasks = [
        TaskState(generator.randint(1, 4), generator.uniform(1, 1e4), generator.uniform(1e3, 1e7))
        for _ in range(12)
    ]
    index = choose(tasks)
    assert index is not None
    chosen = tasks[index]
    generator.shuffle(tasks)
    again = choose(tasks)
    assert again is not None
    assert tasks[again] == chosen


def test_trials_go_where_time_is_not_round_robin() -> None:
    """A simulated job: each batch takes a fixed share of what is above a task's floor."""
    tasks = [
        TaskState(1, 4000.0, 4e6),
        TaskState(3, 300.0, 1e6),
        TaskState(1, 20.0, 1e5),
        TaskState(1, 1.0, 1e3),
    ]
    batches = [0] * len(tasks)
    for _ in range(24):
        index = choose(tasks)
        assert index is not None
        task = tasks[index]
        floor = task.flops / 1e5
        after = floor + (task.best_us - floor) * (0.15 if not task.best_after else 0.8)
        tasks[index] = replace(task, best_after=(*task.best_after, after))
        batches[index] += 1
    assert batches[0] >= batches[1] > batches[2] >= batches[3]
    assert batches[3] <= 1


def test_an_operator_that_wins_nothing_does_not_keep_the_others_from_their_batches() -> None:
    """A simulated job: after two batches the heaviest is as fast as it gets."""
    tasks = [TaskState(3, 150.0, 1e6)] + [TaskState(1, 50.0, 2e5) for _ in range(20)]
    for _ in range(120):
        index = choose(tasks)
        assert index is not None
        task = tasks[index]
        after = task.best_us * (0.1, 0.9, 1.0)[min(len(task.best_after), 2)]
        tasks[index] = replace(task, best_after=(*task.best_after, after))
    assert min(len(task.best_after) for task in tasks) >= 3
    assert len(tasks[0].best_after) == max(len(task.best_after) for task in tasks)
