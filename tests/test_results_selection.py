"""Which records go into a model: values in, values out."""

from __future__ import annotations

from coordinator.results.selection import THREAD_HANDICAPS_US, select, selections
from coordinator.tuning_log import Outcome
from protos.records import Candidate, MeasurementStatus

THREADS = '[[["Parallel",["l1"],[],[]]],[]]'
SERIAL = '[[["Vectorize",["l1"],[],[]]],[]]'


def _outcome(trace: str, latency_us: float | None) -> Outcome:
    status = MeasurementStatus.CRASHED if latency_us is None else MeasurementStatus.OK
    return Outcome(1, Candidate("workload", trace), status, latency_us, "", "")


def test_without_a_handicap_the_fastest_wins() -> None:
    fast, slow = _outcome(THREADS, 10.0), _outcome(SERIAL, 11.0)
    assert select([slow, fast], 0.0) is fast


def test_with_a_handicap_threads_must_be_worth_it() -> None:
    fast, slow = _outcome(THREADS, 10.0), _outcome(SERIAL, 11.0)
    assert select([slow, fast], 2.0) is slow
    much_faster = _outcome(THREADS, 8.0)
    assert select([slow, much_faster], 2.0) is much_faster


def test_failures_are_never_selected() -> None:
    right = _outcome(SERIAL, 500.0)
    assert select([_outcome(THREADS, None), right], 0.0) is right
    assert select([_outcome(THREADS, None)], 0.0) is None
    assert select([], 0.0) is None


def test_the_untuned_program_has_no_threads() -> None:
    untuned, tuned = _outcome("", 3.0), _outcome(THREADS, 2.0)
    assert select([untuned, tuned], 2.0) is untuned


def test_equal_selections_are_tried_once() -> None:
    clear = {"a": [_outcome(THREADS, 10.0), _outcome(SERIAL, 100.0)]}
    assert len(selections(clear)) == 1
    close = {**clear, "b": [_outcome(THREADS, 10.0), _outcome(SERIAL, 11.0)]}
    found = selections(close)
    assert len(found) == 2
    assert [s["b"].latency_us for s in found] == [10.0, 11.0]
    assert len(THREAD_HANDICAPS_US) >= len(found)


def test_a_task_without_a_right_record_is_left_out() -> None:
    assert selections({"a": [_outcome(SERIAL, None)], "b": [_outcome(SERIAL, 1.0)]}) == [
        {"b": _outcome(SERIAL, 1.0)}
    ]
