"""Which algorithm a convolution gets: values in, a choice out."""

from __future__ import annotations

from dataclasses import replace

from coordinator.frontend.variants import Variant
from coordinator.search.composition import BEHIND_STAKE, Known, compose

DIRECT = {"conv": 3, "pool": 1, "input": 0, "products": 0, "output": 0}
F4 = Variant("56x56", 4, {"conv": -3, "input": 3, "products": 3, "output": 3})
F2 = Variant("56x56", 2, {"conv": -3, "input2": 3, "products2": 3, "output2": 3})
TUNED = {
    "conv": Known(1000.0, 10),
    "pool": Known(50.0, 10),
    "input": Known(100.0, 10),
    "products": Known(400.0, 10),
    "output": Known(100.0, 10),
}


def test_without_variants_the_model_is_what_it_was() -> None:
    made = compose(DIRECT, [], TUNED)
    assert dict(made.weights) == dict(made.stakes) == DIRECT
    assert not made.algorithms


def test_the_fastest_algorithm_is_in_the_model() -> None:
    made = compose(DIRECT, [F4], TUNED)
    assert made.algorithms == {"56x56": 4}
    assert dict(made.weights) == {"conv": 0, "pool": 1, "input": 3, "products": 3, "output": 3}


def test_a_slower_algorithm_is_not() -> None:
    made = compose(DIRECT, [F4], {**TUNED, "products": Known(900.0, 10)})
    assert not made.algorithms
    assert dict(made.weights) == DIRECT


def test_what_can_not_win_any_more_is_worth_nothing() -> None:
    made = compose(DIRECT, [F4], TUNED)  # direct: 1000 against 600, with little left to win
    assert made.stakes["conv"] == 0
    assert made.stakes["products"] == 3
    assert made.stakes["pool"] == 1


def test_what_may_still_win_is_worth_half() -> None:
    made = compose(DIRECT, [F4], {**TUNED, "conv": Known(1000.0, 1)})
    assert made.algorithms == {"56x56": 4}
    assert made.stakes["conv"] == 3 * BEHIND_STAKE


def test_nothing_is_ruled_out_before_it_was_tuned() -> None:
    untuned = {**TUNED, **{key: Known(1e6, 0) for key in ("input", "products", "output")}}
    made = compose(DIRECT, [F4], untuned)
    assert not made.algorithms
    assert made.stakes["products"] == 3 * BEHIND_STAKE


def test_an_algorithm_with_a_kernel_that_can_not_be_timed_is_left_out() -> None:
    known = {key: value for key, value in TUNED.items() if key != "input"}
    made = compose(DIRECT, [F4], known)
    assert not made.algorithms
    assert made.stakes["products"] == made.weights["products"] == 0


def test_each_kind_of_convolution_is_decided_alone() -> None:
    other = Variant("7x7", 2, {"conv7": -1, "input7": 1, "products7": 1, "output7": 1})
    known = TUNED | {key: Known(100.0, 10) for key in other.change}
    made = compose({**DIRECT, "conv7": 1}, [F4, other], known)
    assert made.algorithms == {"56x56": 4}
    assert made.weights["conv7"] == 1
    assert made.weights["products7"] == 0


def test_of_several_variants_the_fastest_is_taken() -> None:
    known = TUNED | {
        "input2": Known(10.0, 9),
        "products2": Known(300.0, 9),
        "output2": Known(10.0, 9),
    }
    made = compose(DIRECT, [F4, F2], known)
    assert made.algorithms == {"56x56": 2}
    assert made.weights["products2"] == 3
    assert made.weights["products"] == 0


def test_what_is_compared_as_a_whole() -> None:
    clear = compose(DIRECT, [F4], TUNED)  # 1000 against 600
    assert clear.compared == ({"56x56": 4}, {})
    other = Variant("7x7", 2, {"conv7": -1, "input7": 1, "products7": 1, "output7": 1})
    known = TUNED | {key: Known(100.0, 10) for key in other.change} | {"conv7": Known(310.0, 10)}
    close = compose({**DIRECT, "conv7": 1}, [F4, other], known)
    assert close.algorithms == {"56x56": 4, "7x7": 2}
    assert close.compared == (close.algorithms, {"56x56": 4}, {})
    untimed = {key: value for key, value in TUNED.items() if key != "conv"}
    assert compose(DIRECT, [F4], untimed).sure == {"56x56": 4}, "nothing else can be"
    assert compose(DIRECT, [], TUNED).compared == ({},)


def test_kernels_that_the_model_has_anyway_are_counted_on_top() -> None:
    shared = replace(F4, change={**F4.change, "pool": 3})
    made = compose(DIRECT, [shared], TUNED)
    assert made.weights["pool"] == 4
