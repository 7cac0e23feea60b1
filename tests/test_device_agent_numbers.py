"""Inputs, tolerances and the decisions of timing: values in, values out."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_agent import examples, inputs, timing
from device_agent.examples import Example
from device_agent.model_child import LoadError, unzip
from protos import errors
from protos.median import median_interval
from protos.records import (
    EvaluatorConfig,
    TensorSpec,
)

# ------------------------------------------------------------------------------- inputs


@pytest.mark.parametrize("dtype", [*inputs.RELATIVE_TOLERANCE, *inputs.ABSOLUTE_TOLERANCE])
def test_inputs_are_seeded_and_differ_by_parameter(dtype: str) -> None:
    spec = TensorSpec((8, 32), dtype)
    one, again, other = (inputs.make_input(spec, 7, index) for index in (0, 0, 1))
    assert one.dtype.name == dtype
    assert one.shape == spec.shape
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("dtype", list(inputs.RELATIVE_TOLERANCE))
def test_floats_stay_away_from_zero(dtype: str) -> None:
    values = inputs.make_input(TensorSpec((1000,), dtype), 1, 0).astype(np.float64)
    assert values.min() >= 0.0999
    assert values.max() <= 1.0


def test_wide_integers_may_be_indices_and_narrow_ones_are_not() -> None:
    assert set(inputs.make_input(TensorSpec((100,), "int32"), 1, 0)) == {0, 1}
    assert inputs.make_input(TensorSpec((1000,), "int8"), 1, 0).min() < -100


@pytest.mark.parametrize(
    ("dtype", "difference", "ok"),
    [
        ("float64", 1e-10, True),
        ("float64", 1e-8, False),
        ("float32", 1e-5, True),
        ("float32", 1e-3, False),
        ("float16", 4e-3, True),
        ("float16", 4e-2, False),
        ("int8", 1, True),
        ("uint8", 2, False),
        ("int16", 1, False),
        ("int32", 1, False),
        ("uint64", 1, False),
    ],
)
def test_tolerances(dtype: str, difference: float, ok: bool) -> None:
    reference = np.ones(4, dtype)
    output = (reference + np.array([0, 0, difference, 0])).astype(dtype)
    found = inputs.compare(reference, output)
    assert found.ok is ok
    assert found.max_abs_error == pytest.approx(difference, rel=0.2)


def test_the_tolerance_is_relative_to_the_range_of_the_output() -> None:
    reference = np.array([0.0, 100.0], np.float32)
    assert inputs.compare(reference, np.array([0.005, 100.0], np.float32)).ok
    assert not inputs.compare(reference / 100, np.array([0.005, 1.0], np.float32)).ok


def test_numbers_that_are_none_must_be_met() -> None:
    odd = np.array([np.nan, np.inf, -np.inf, 1.0], np.float32)
    assert inputs.compare(odd, odd.copy()) == inputs.Comparison(0.0, True)
    for wrong in ([1, np.inf, -np.inf, 1], [np.nan, -np.inf, -np.inf, 1], [np.nan] * 4):
        found = inputs.compare(odd, np.array(wrong, np.float32))
        assert found == inputs.Comparison(float("inf"), False)


def test_shapes_and_dtypes_must_be_met() -> None:
    assert not inputs.compare(np.ones(4, np.float32), np.ones((2, 2), np.float32)).ok
    assert not inputs.compare(np.ones(4, np.float32), np.ones(4, np.float64)).ok
    assert inputs.compare(np.ones(0, np.float32), np.ones(0, np.float32)).ok


@pytest.mark.parametrize("dtype", [*inputs.RELATIVE_TOLERANCE, *inputs.ABSOLUTE_TOLERANCE])
def test_poison_is_never_right(dtype: str) -> None:
    reference = inputs.make_input(TensorSpec((64,), dtype), 3, 0)
    references = [reference]
    if reference.dtype.kind == "f":
        references.append(np.full_like(reference, np.nan))
    for truth in references:
        output = np.empty_like(truth)
        inputs.poison(output, inputs.poison_byte(truth))
        assert not inputs.compare(truth, output).ok


def test_dtypes_without_numpy_are_refused_by_name() -> None:
    with pytest.raises(errors.BadRequest, match="bfloat16"):
        inputs.check_dtypes([TensorSpec((4,), "bfloat16")])


# ------------------------------------------------------------------------------- timing

CONFIG = EvaluatorConfig(number=3, repeat=5, min_repeat_ms=10, hopeless_ratio=5.0)


def test_a_repeat_lasts_long_enough() -> None:
    assert timing.plan(CONFIG, 5, 1e-3, 10.0) == timing.Plan(10, 5, 10)
    assert timing.plan(CONFIG, 5, 1.0, 100.0) == timing.Plan(3, 5, 10)


def test_repeats_are_given_up_first_then_runs_then_all() -> None:
    assert timing.plan(CONFIG, 5, 1.0, 10.0) == timing.Plan(3, 2, 0)
    assert timing.plan(CONFIG, 5, 1.0, 4.0) == timing.Plan(2, 1, 0)
    assert timing.plan(CONFIG, 5, 1.0, 2.0) is None
    assert timing.plan(CONFIG, 5, 1.0, -1.0) is None


@pytest.mark.parametrize("left_s", [0.01, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("run_s", [0.0, 1e-7, 1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("cold", [False, True])
def test_a_plan_fits_into_the_time(run_s: float, left_s: float, cold: bool) -> None:
    config = EvaluatorConfig(repeat=5, min_repeat_ms=10, cold_cache=cold)
    plan = timing.plan(config, 5, run_s, left_s)
    if plan is not None:
        assert plan.runs * run_s <= left_s
        assert (plan.flush_bytes > 0) is cold


def test_hopeless_means_much_slower_than_the_best() -> None:
    assert timing.is_hopeless(CONFIG, 100.0, 0.6e-3)
    assert not timing.is_hopeless(CONFIG, 100.0, 0.4e-3)
    assert not timing.is_hopeless(CONFIG, 0.0, 9.0), "nothing to compare with"
    never = EvaluatorConfig(hopeless_ratio=0.0)
    assert not timing.is_hopeless(never, 1.0, 9.0)


def test_a_hopeless_candidate_has_its_single_run_and_others_their_samples() -> None:
    checked = timing.Progress(run_s=1e-3, busy_s=2e-3)
    assert timing.next_plan(CONFIG, 100.0, checked) is None
    assert checked.repeats_s == (1e-3,)
    plan = timing.next_plan(CONFIG, 900.0, checked)
    assert plan == timing.Plan(10, 5, 10)
    timed = checked.after(plan, [1.1e-3] * 5, 0.06)
    assert timed.repeats_s == (1.1e-3,) * 5
    assert (timed.spent_s, timed.busy_s) == (0.06, pytest.approx(0.062))
    assert timing.next_plan(CONFIG, 900.0, timed) is None, "no more than the least"
    late = dataclasses.replace(checked, busy_s=CONFIG.timeout_s)
    assert timing.next_plan(CONFIG, 900.0, late) is None, "there is no time left"


def test_who_looks_slow_is_believed_the_second_time() -> None:
    config = EvaluatorConfig(
        repeat=2,
        min_repeat_ms=1,
        hopeless_ratio=2.0,
        max_repeat=20,
        contender_ratio=1.05,
        precision=0.02,
        looks=2,
    )
    disturbed = timing.Progress(run_s=3e-3, busy_s=6e-3)
    single = timing.next_plan(config, 1000.0, disturbed)
    assert single == timing.SINGLE_RUN
    assert timing.next_plan(config, 1000.0, disturbed.after(single, [3.1e-3], 3e-3)) is None
    recovered = disturbed.after(single, [1e-3], 1e-3)
    assert recovered.run_s == 1e-3
    assert timing.next_plan(config, 1000.0, recovered) == timing.Plan(1, 2, 1)
    first = timing.Progress(run_s=1.5e-3, busy_s=3e-3)
    plan = timing.Plan(1, 2, 1)
    assert timing.next_plan(config, 1000.0, first) == plan
    slow = first.after(plan, [1.5e-3, 1.6e-3], 5e-3)
    look = timing.next_plan(config, 1000.0, slow)
    assert look == plan
    assert timing.next_plan(config, 1000.0, slow.after(look, [1.4e-3] * 2, 3e-3)) is None
    fast = slow.after(look, [1.01e-3, 1.5e-3], 2e-3)
    more = timing.next_plan(config, 1000.0, fast)
    assert more is not None, "it was disturbed at first"
    assert more.repeat == timing.MORE_SAMPLES
    costly = dataclasses.replace(config, max_timing_ms=4)
    assert timing.next_plan(costly, 1000.0, slow) is None, "it has had its time"


SEQUENTIAL = EvaluatorConfig(repeat=6, max_repeat=30, contender_ratio=1.05, precision=0.02)
STEADY = [100e-6 + index * 1e-8 for index in range(6)]
SPREAD = [100e-6 + index * 1e-6 for index in range(12)]


def test_every_candidate_gets_the_least_number_of_samples() -> None:
    assert timing.more_samples(SEQUENTIAL, 100.0, [], 0.0) == 6
    assert timing.more_samples(SEQUENTIAL, 1.0, SPREAD[:2], 0.0) == 4


def test_a_contender_is_sampled_until_its_median_is_known() -> None:
    assert timing.more_samples(SEQUENTIAL, 100.0, STEADY, 0.01) == 0
    assert timing.more_samples(SEQUENTIAL, 100.0, SPREAD, 0.01) == timing.MORE_SAMPLES
    assert timing.more_samples(SEQUENTIAL, 0.0, SPREAD, 0.01) == timing.MORE_SAMPLES


def test_who_can_not_be_the_best_is_not_sampled_on() -> None:
    assert timing.more_samples(SEQUENTIAL, 90.0, SPREAD, 0.01) == 0
    few = dataclasses.replace(SEQUENTIAL, repeat=3)
    assert timing.more_samples(few, 90.0, SPREAD[:3], 0.01) == 0, "not even its fastest sample"
    assert timing.more_samples(few, 99.0, SPREAD[:3], 0.01) == timing.MORE_SAMPLES


@pytest.mark.parametrize("best_us", [0.0, 100.0])
def test_the_caps_hold(best_us: float) -> None:
    full = [90e-6] * 10 + [100e-6] * 10 + [110e-6] * 10
    assert timing.more_samples(SEQUENTIAL, best_us, full, 0.01) == 0
    assert timing.more_samples(SEQUENTIAL, best_us, full[1:29], 0.01) == 2
    capped = dataclasses.replace(SEQUENTIAL, max_timing_ms=100)
    assert timing.more_samples(capped, best_us, SPREAD, 0.1) == 0
    assert timing.more_samples(capped, best_us, SPREAD, 0.08) == 3
    fixed = dataclasses.replace(SEQUENTIAL, max_repeat=0)
    assert timing.more_samples(fixed, best_us, SPREAD, 0.01) == 0


@pytest.mark.parametrize("count", [6, 7, 12, 30])
def test_a_medians_interval_holds_it_as_often_as_it_says(count: int) -> None:
    draws = np.random.default_rng(0).lognormal(size=(4000, count))
    intervals = [median_interval(list(row)) for row in draws]
    held = [low <= 1.0 <= high for low, high in filter(None, intervals)]
    assert len(held) == 4000
    assert np.mean(held) > 0.95 - 3 * (0.05 * 0.95 / 4000) ** 0.5
    assert median_interval(list(draws[0][:5])) is None


@pytest.mark.parametrize("field", ["repeat", "precision", "timeout_s"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_a_policy_with_impossible_numbers_is_refused(field: str, value: float) -> None:
    with pytest.raises(errors.BadRequest, match=field):
        EvaluatorConfig(**{field: value})  # type: ignore[arg-type]


# ------------------------------------------------------------------------------- models


def _npz(**arrays: np.ndarray) -> bytes:  # type: ignore[type-arg]
    file = io.BytesIO()
    np.savez(file, **{key.replace("__", "/"): value for key, value in arrays.items()})
    return file.getvalue()


def test_examples_are_read_in_pairs() -> None:
    one = np.ones(3, np.float32)
    found = examples.read_examples(_npz(in0__x=one, out0__y=one, in1__x=2 * one, out1__y=one))
    assert len(found) == 2
    assert np.array_equal(found[1].inputs["x"], 2 * one)
    assert found[0].probabilities == frozenset()
    marked = examples.read_examples(_npz(in0__x=one, out0__y=one, softmax__y=one))
    assert marked[0].probabilities == {"y"}
    assert set(marked[0].outputs) == {"y"}


@pytest.mark.parametrize("data", [b"junk", b"", _npz(x=np.ones(1)), _npz(in0__x=np.ones(1))])
def test_what_is_no_examples_is_refused(data: bytes) -> None:
    with pytest.raises(errors.BadRequest):
        examples.read_examples(data)


def _expected(*outputs: dict[str, np.ndarray[Any, Any]], softmax: str = "") -> list[Example]:
    given = frozenset([softmax]) if softmax else frozenset()
    return [Example({}, one, given) for one in outputs]


def test_a_models_errors_are_relative_to_the_range() -> None:
    wanted = _expected({"y": np.array([0.0, 10.0], np.float32)})
    right = examples.compare_model(wanted, [{"y": np.array([0.0005, 10.0], np.float32)}])
    assert (right.wrong, right.output) == ("", "")
    assert right.max_rel_error == pytest.approx(5e-5, rel=1e-3)
    slightly = examples.compare_model(wanted, [{"y": np.array([0.0015, 10.0], np.float32)}])
    assert "'y' of example 0 differs by 0.00015 of its range" in slightly.wrong
    assert examples.compare_model(wanted, [{}]).wrong == "output 'y' of example 0 is missing"
    shape = examples.compare_model(wanted, [{"y": np.zeros(3, np.float32)}])
    assert "shape" in shape.wrong


def test_each_output_has_its_largest_errors_over_all_examples() -> None:
    a, b = np.array([1.0, 2.0], np.float32), np.array([100.0], np.float32)
    wanted = _expected({"a": a, "b": b}, {"a": a, "b": b})
    found = examples.compare_model(wanted, [{"a": a + 0.5, "b": b}, {"a": a, "b": b + 1.0}])
    assert [(one.name, one.max_abs_error, one.max_rel_error) for one in found.outputs] == [
        ("a", 0.5, 0.25),
        ("b", 1.0, 0.01),
    ]
    assert (found.max_abs_error, found.max_rel_error, found.output) == (1.0, 0.25, "a")


def test_what_a_softmax_gave_is_compared_before_it() -> None:
    wanted = {"y": np.array([0.999999, 1e-6, 1e-9], np.float32)}
    other = {"y": np.array([0.999999, 1e-6, 3e-9], np.float32)}  # a logit off by 1.1
    assert examples.compare_model(_expected(wanted), [other]).wrong == ""
    found = examples.compare_model(_expected(wanted, softmax="y"), [other])
    assert found.output == "y"
    assert found.wrong.endswith("(at most 0.0001 is right), before its softmax")
    assert found.max_rel_error == pytest.approx(np.log(3) / -np.log(1e-9), rel=1e-3)
    assert found.max_abs_error < 1e-8, "of the output itself"
    nothing = {"y": np.array([1.0, 0.0, -0.0], np.float32)}
    least = {"y": np.array([1.0, 1e-38, 0.0], np.float32)}
    assert examples.compare_model(_expected(nothing, softmax="y"), [least]).wrong == ""
    negative = {"y": np.array([1.0, -0.5, 0.0], np.float32)}
    assert examples.compare_model(_expected(nothing, softmax="y"), [negative]).output == "y"


@pytest.mark.parametrize("name", ["../evil.py", "/tmp/evil.py", "a/../../evil.py"])
def test_a_package_stays_in_its_directory(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "p.whl", "w") as file:
        file.writestr(name, "")
    with pytest.raises(LoadError, match="leaves it"):
        unzip(tmp_path / "p.whl", tmp_path / "into")


def test_an_example_with_next_to_no_output_is_judged_by_the_range_of_all() -> None:
    """A detector that sees nothing: 1e-5 everywhere, and rounding errors in it."""
    seen = {"y": np.array([0.0, 1.0], np.float32)}
    unseen = {"y": np.array([1e-5, 2e-5], np.float32)}
    rounded = {"y": np.array([1e-5, 2.02e-5], np.float32)}
    assert examples.compare_model(_expected(seen, unseen), [seen, rounded]).wrong == ""
    alone = examples.compare_model(_expected(unseen), [rounded])
    assert "example 0" in alone.wrong
    wrong = {"y": np.array([1e-5, 0.1], np.float32)}
    assert "example 1" in examples.compare_model(_expected(seen, unseen), [seen, wrong]).wrong


def test_a_quantised_models_outputs_may_differ_by_what_the_examples_say() -> None:
    wanted = np.array([0.0, 0.0, 0.0, 10.0], np.float32)
    data = _npz(in0__x=wanted, out0__y=wanted, tolerance__y=np.array([1.0, 0.6]))
    expected = examples.read_examples(data)
    assert expected[0].tolerances == {"y": (1.0, 0.6)}

    def judged(*off: float) -> examples.ModelErrors:
        return examples.compare_model(expected, [{"y": wanted + np.array(off, np.float32)}])

    one = judged(1.0, 0.0, 0.0, 0.0)
    assert (one.wrong, one.max_abs_error) == ("", 1.0)
    assert "differs by 0.11 of its range (at most 0.1 is right)" in judged(1.1, 0, 0, 0).wrong
    assert "in the root mean square (at most 0.06 is right)" in judged(1.0, 1.0, 0, 0).wrong
    assert judged(float("nan"), 0, 0, 0).output == "y"
