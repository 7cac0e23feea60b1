"""Which records go into a model: values in, values out."""

from __future__ import annotations

from coordinator.results.selection import THREAD_HANDICAPS_US, contenders, select, selections
from coordinator.tuning_log import Evidence
from protos.records import Candidate

THREADS = '[[["Parallel",["l1"],[],[]]],[]]'
SERIAL = '[[["Vectorize",["l1"],[],[]]],[]]'


def _known(trace: str, latency_us: float | None, *finals_us: float) -> Evidence:
    finals_s = tuple((us * 1e-6,) * 6 for us in finals_us)
    return Evidence(Candidate("workload", trace), latency_us, "", finals_s)


def test_without_a_handicap_the_fastest_wins() -> None:
    fast, slow = _known(THREADS, 10.0), _known(SERIAL, 11.0)
    assert select([slow, fast], 0.0) is fast


def test_with_a_handicap_threads_must_be_worth_it() -> None:
    fast, slow = _known(THREADS, 10.0), _known(SERIAL, 11.0)
    assert select([slow, fast], 2.0) is slow
    much_faster = _known(THREADS, 8.0)
    assert select([slow, much_faster], 2.0) is much_faster


def test_failures_are_never_selected() -> None:
    right = _known(SERIAL, 500.0)
    assert select([_known(THREADS, None), right], 0.0) is right
    assert select([_known(THREADS, None)], 0.0) is None
    assert select([_known(THREADS, None, 1.0), right], 0.0) is right
    assert select([], 0.0) is None


def test_the_untuned_program_has_no_threads() -> None:
    untuned, tuned = _known("", 3.0), _known(THREADS, 2.0)
    assert select([untuned, tuned], 2.0) is untuned


def test_the_finals_count_and_not_the_luckiest_measurement() -> None:
    lucky, steady = _known(SERIAL + " ", 9.0, 12.0, 12.2), _known(SERIAL, 10.0, 11.0, 11.2)
    assert select([lucky, steady], 0.0) is steady
    slower_but_alone = _known(SERIAL + "  ", 10.9)
    assert select([lucky, steady, slower_but_alone], 0.0) is steady


def test_one_that_came_after_the_finals_wins_if_it_was_faster_in_its_search() -> None:
    finalist, late = _known(SERIAL, 10.0, 11.0), _known(SERIAL + " ", 9.0)
    assert select([finalist, late], 0.0) is late


def test_one_without_finals_is_not_better_for_having_been_measured_once() -> None:
    threads, serial = _known(THREADS, 10.0, 11.5), _known(SERIAL, 11.0)
    assert select([threads, serial], 0.0) is threads


def test_finals_of_one_kind_keep_nobody_of_the_other_out() -> None:
    threads, serial = _known(THREADS, 10.0, 11.0), _known(SERIAL, 14.0)
    assert contenders([threads, serial]) == [threads, serial]
    assert select([threads, serial], 5.0) is serial


def test_equal_selections_are_tried_once() -> None:
    clear = {"a": [_known(THREADS, 10.0), _known(SERIAL, 100.0)]}
    assert len(selections(clear)) == 1
    close = {**clear, "b": [_known(THREADS, 10.0), _known(SERIAL, 11.0)]}
    found = selections(close)
    assert len(found) == 2
    assert [s["b"].latency_us for s in found] == [10.0, 11.0]
    assert len(THREAD_HANDICAPS_US) >= len(found)


def test_a_task_without_a_right_record_is_left_out() -> None:
    assert selections({"a": [_known(SERIAL, None)], "b": [_known(SERIAL, 1.0)]}) == [
        {"b": _known(SERIAL, 1.0)}
    ]
