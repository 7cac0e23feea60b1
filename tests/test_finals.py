"""Who is timed again, until when, and who wins: values in, values out."""

from __future__ import annotations

import random

import pytest

from coordinator.experiments import EVALUATOR
from coordinator.finals import final_evaluator
from coordinator.search.finals import (
    ROUND_TURNS,
    FinalsConfig,
    Standing,
    decide,
    heats,
    order,
)
from coordinator.tuning_log import Evidence, Outcome, is_final
from coordinator.tuning_log.evidence import Samples, pool
from protos.records import UNTUNED_TRACE, Candidate, EvaluatorConfig, MeasurementStatus

THREADS = '[[["Parallel",["l1"],[],[]]],[]]'
CONFIG = FinalsConfig()


def played(key: str, rounds: int, us: float, noise: float = 0.0, failed: bool = False) -> Standing:
    """Turns around ``us``, give or take the share ``noise``; all are slower in some of them."""
    generator = random.Random(key)
    mood = random.Random(4711)
    played_s = []
    for _ in range(rounds):
        turns = [mood.choice((1.0, 1.0, 1.4)) for _ in range(ROUND_TURNS)]
        played_s.append(
            tuple(us * 1e-6 * turn * (1 + noise * generator.uniform(-1, 1)) for turn in turns)
        )
    return Standing(key, tuple(played_s), failed)


def known(name: str, latency_us: float | None, threads: bool = False) -> Evidence:
    trace = f"{THREADS if threads else '[]'}{name}"
    return Evidence(Candidate("w", trace), latency_us, artifact_sha256=name)


def names(heat: list[Evidence]) -> list[str]:
    return [item.artifact_sha256 for item in heat]


# ------------------------------------------------------------------------- who takes part


def test_the_best_few_of_a_kind_take_part() -> None:
    items = [known(str(i), 10.0 + 0.1 * i) for i in range(9)] + [known("failed", None)]
    assert [names(heat) for heat in heats(items, CONFIG)] == [["0", "1", "2", "3", "4", "5"]]
    far = [known("best", 10.0), known("close", 11.4), known("far", 11.6)]
    assert [names(heat) for heat in heats(far, CONFIG)] == [["best", "close"]]
    assert heats([known("failed", None)], CONFIG) == []


def test_serial_programs_have_a_heat_of_their_own_when_they_are_close() -> None:
    threads = [known("t1", 100.0, threads=True), known("t2", 101.0, threads=True)]
    close = [known("s1", 114.0), known("s2", 116.0)]
    assert [names(heat) for heat in heats([*threads, *close], CONFIG)] == [
        ["t1", "t2"],
        ["s1", "s2"],
    ]
    assert [names(heat) for heat in heats([*threads, known("s", 116.0)], CONFIG)] == [["t1", "t2"]]
    large = [known("t", 1000.0, threads=True), known("s", 1090.0)]
    assert [names(heat) for heat in heats(large, CONFIG)] == [["t"], ["s"]]


def test_programs_with_threads_must_be_close_to_the_best_of_all() -> None:
    items = [known("s", 10.0), known("t1", 10.5, threads=True), known("t2", 11.6, threads=True)]
    assert [names(heat) for heat in heats(items, CONFIG)] == [["t1"], ["s"]]


def test_the_untuned_program_alone_has_no_finals() -> None:
    untuned = Evidence(Candidate("w", UNTUNED_TRACE), 10.0, artifact_sha256="untuned")
    assert heats([untuned, known("slow", 20.0)], CONFIG) == []
    assert names(heats([untuned, known("close", 10.5)], CONFIG)[0]) == ["untuned", "close"]


def test_equal_bytes_race_once() -> None:
    twin = Evidence(Candidate("w", "another trace"), 10.1, artifact_sha256="a")
    assert len(heats([known("a", 10.0), twin], CONFIG)[0]) == 1


# ------------------------------------------------------------------------- until when


def test_all_are_measured_first() -> None:
    assert decide([Standing("a"), Standing("b")], CONFIG).again == ("a", "b")


def test_one_alone_is_measured_once() -> None:
    assert decide([Standing("a")], CONFIG).again == ("a",)
    assert decide([played("a", 1, 10.0)], CONFIG).again == ()


def test_the_winner_is_told_apart_and_the_others_are_out() -> None:
    """By two in a hundred, while the device's moods make two in five."""
    heat = [played("a", 3, 10.0, 0.02), played("b", 3, 10.2, 0.02), played("c", 1, 12.0, 0.02)]
    verdict = decide(heat, CONFIG)
    assert (verdict.again, verdict.leader, verdict.tied) == ((), "a", ())


def test_one_process_does_not_tell_who_is_a_little_faster() -> None:
    heat = [played("a", 1, 10.0, 0.02), played("b", 1, 10.2, 0.02), played("c", 1, 12.0, 0.02)]
    assert set(decide(heat, CONFIG).again) == {"a", "b"}


def test_who_is_out_is_not_measured_any_more() -> None:
    heat = [played("a", 1, 10.0, 0.05), played("b", 1, 10.01, 0.05), played("c", 1, 12.0, 0.05)]
    verdict = decide(heat, CONFIG)
    assert set(verdict.again) == {"a", "b"}
    assert "c" not in verdict.tied


def test_after_the_last_round_it_is_a_tie() -> None:
    heat = [played("a", 5, 10.0, 0.1), played("b", 5, 10.05, 0.1)]
    verdict = decide(heat, CONFIG)
    assert verdict.again == ()
    assert {verdict.leader, *verdict.tied} == {"a", "b"}
    out_early = [*heat, played("c", 1, 12.0, 0.05)]
    assert decide(out_early, CONFIG).again == ()


def test_those_that_hardly_differ_are_a_tie_at_once() -> None:
    heat = [played("a", 3, 10.0, 0.002), played("d", 3, 10.001, 0.002)]
    verdict = decide(heat, CONFIG)
    assert verdict.again == ()
    assert len(verdict.tied) == 1


def test_who_fails_is_out() -> None:
    heat = [played("a", 1, 9.0, failed=True), played("b", 2, 10.0), played("c", 2, 12.0)]
    verdict = decide(heat, CONFIG)
    assert (verdict.again, verdict.leader, verdict.tied) == ((), "b", ())
    nobody = decide([played("a", 1, 9.0, failed=True)], CONFIG)
    assert (nobody.again, nobody.leader) == ((), None)


def test_one_that_comes_later_catches_up_until_the_rounds_are_over() -> None:
    heat = [played("a", 1, 10.0, 0.01), Standing("new")]
    assert "new" in decide(heat, CONFIG).again
    assert decide([played("a", 5, 10.0), Standing("new")], CONFIG).again == ()


@pytest.mark.parametrize("seed", range(5))
def test_it_always_ends(seed: int) -> None:
    generator = random.Random(seed)
    heat = [Standing(key) for key in "abcd"]
    for number in range(CONFIG.rounds + 1):
        again = decide(heat, CONFIG).again
        if not again:
            break
        assert number < CONFIG.rounds
        for index, one in enumerate(heat):
            if one.key in again:
                samples = tuple(generator.uniform(9e-6, 12e-6) for _ in range(6))
                heat[index] = Standing(one.key, (*one.rounds_s, samples))
    assert decide(heat, CONFIG).leader is not None


def test_the_order_rotates() -> None:
    assert [order("abc", turn) for turn in range(4)] == [
        list(o) for o in ("abc", "bca", "cab", "abc")
    ]
    assert order((), 3) == []


# ------------------------------------------------------------------------- what is pooled


def row(number: int, trace: str, us: float | None, status: str = "OK") -> Outcome:
    return Outcome(number, Candidate("w", trace), MeasurementStatus[status], us, f"sha{number}", "")


def test_a_candidate_counts_with_the_least_of_its_searches() -> None:
    rows = [row(1, "a", 2.0), row(2, "b", 9.0), row(3, "a", 10.0)]
    samples = {
        1: Samples((12e-6,)),
        3: Samples((10e-6, 11e-6, 12e-6)),
    }
    a, b = pool(rows, samples)
    assert a.latency_us == pytest.approx(10.0)
    assert (b.latency_us, b.pooled_us, b.artifact_sha256) == (9.0, 9.0, "sha2")


def test_a_finalist_counts_with_its_finals_alone() -> None:
    rows = [row(1, "a", 2.0), row(2, "a", 10.0), row(3, "a", 11.0)]
    slowed = (1.0, 1.4, 1.4, 1.0, 1.1, 1.0)
    finals = {
        number: Samples(tuple(us * 1e-6 * factor for factor in slowed), per_turn=2)
        for number, us in ((2, 10.0), (3, 11.0))
    }
    (a,) = pool(rows, {1: Samples((2e-6,)), **finals})
    assert a.latency_us == pytest.approx(2.0)
    assert a.pooled_us == pytest.approx(10.5)
    assert a.finals_s == (
        pytest.approx((10e-6, 10e-6, 10e-6)),
        pytest.approx((11e-6, 11e-6, 11e-6)),
    )


def test_one_wrong_output_outweighs_every_right_one() -> None:
    rows = [row(1, "a", 2.0), row(2, "a", None, "WRONG_OUTPUT"), row(3, "b", None, "DEVICE_LOST")]
    rows.append(row(4, "b", 3.0))
    a, b = pool(rows, {})
    assert (a.latency_us, a.pooled_us) == (None, None)
    assert b.pooled_us == 3.0


def test_what_marks_a_final() -> None:
    assert is_final(final_evaluator(EVALUATOR))
    assert is_final(EvaluatorConfig(hopeless_ratio=0, max_repeat=0)), "of earlier versions"
    assert not is_final(EVALUATOR)
    assert not is_final(EvaluatorConfig())
