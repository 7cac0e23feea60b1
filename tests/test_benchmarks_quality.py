"""The timing-quality benchmark's own arithmetic and parts; never a spread that was measured."""

from __future__ import annotations

import pytest

from benchmarks import timing_quality
from benchmarks.lone_device import LoneDevice, trials_left, untuned
from benchmarks.operators import matmul
from benchmarks.proposing import imported_task
from benchmarks.stock_runner import stock_runner
from benchmarks.timing import Contender, contender
from benchmarks.timing_quality import Judged, Series, spread
from benchmarks.winners import CLOSE, close_set, farms_winner, flip_rate, loss, shuffled
from coordinator.search.finals import FinalsConfig
from protos.records import EvaluatorConfig, Measurement, MeasurementStatus
from tests.kernels import target_json

TARGET = target_json(2)
QUICKLY = EvaluatorConfig(repeat=6, min_repeat_ms=1)


def test_the_spread_is_of_percentiles_over_the_median() -> None:
    values = [float(value) for value in range(100, 201)]
    assert spread(values) == pytest.approx(90 / 150)
    assert spread([3.0] * 50) == 0.0
    one_outlier = [100.0] * 49 + [1000.0]
    assert spread(one_outlier) == 0.0, "a fiftieth is beyond the 95th percentile"


def test_a_winner_is_judged_by_the_processes_it_shared() -> None:
    # Both drift by a factor of two; in every process the first is slower by 2 %.
    processes = {"a": (1.02, 2.04, 1.02), "b": (1.0, 2.0, 1.0), "c": (9.0, 1.0, 9.0)}
    assert loss("a", processes) == pytest.approx(0.02)
    assert loss("b", processes) == pytest.approx(1.0 / 1.02 - 1.0)
    assert flip_rate([0.02, 0.0101, 0.0099, -0.5]) == 0.5


def test_what_is_in_doubt_is_measured_again() -> None:
    def measured(status: MeasurementStatus) -> Measurement:
        return Measurement("w", "c", status)

    results = [
        measured(MeasurementStatus.OK),
        None,
        measured(MeasurementStatus.SUSPECT),
        measured(MeasurementStatus.CRASHED),
    ]
    assert trials_left(results) == [1, 2]


def test_figures_and_tables() -> None:
    idle = Series([1e-3] * 50, [1e-3, 2e-3] * 25, farm_medians_s=[1e-3, 1e-3])
    disturbed = Series([1e-3] * 49, [1e-3] * 50, suspect=7, unanswered=1)
    judged = [Judged("matmul", 0, 0.0, 0.05), Judged("conv2d", 0, -0.01, 0.0)]
    figures = timing_quality.figures(idle, disturbed, judged)
    assert figures["idle_spread"] == figures["idle_drift"] == 0.0
    assert "idle_drift_stock" not in figures
    assert figures["idle_spread_stock"] == pytest.approx(1 / 1.5)
    assert (figures["suspect_disturbed"], figures["unanswered_disturbed"]) == (7, 1)
    assert (figures["winner_flip_rate"], figures["winner_flip_rate_stock"]) == (0.0, 0.5)
    assert figures["winners"] == 2
    assert "disturbed_spread" not in timing_quality.figures(idle, Series([], [1e-3] * 50), judged)
    assert "stock" in timing_quality.report(idle, Series([], [1e-3] * 50), judged)


def test_both_sides_on_a_small_operator() -> None:
    task = imported_task(matmul(32), TARGET)
    with LoneDevice(TARGET, QUICKLY) as device, stock_runner(TARGET) as stock:
        close = close_set(task, TARGET, 0, device)
        assert 2 <= len(close.kernels) <= CLOSE
        assert list(close.latencies_us) == sorted(close.latencies_us)
        names = {kernel.name for kernel in close.kernels}
        assert {kernel.name for kernel in shuffled(close)} == names
        assert farms_winner(close, device, FinalsConfig(rounds=2)) in names
        assert 0 < stock.latency_s(close.kernels[0]) < 1
        broken = Contender("broken", b"no object file", task.args)
        (outcome,) = device.measure(task, close.reference, [broken])
        assert outcome is not None
        assert outcome.status is MeasurementStatus.LOAD_ERROR
        series = Series()
        timing_quality.block(close, device, stock, series)
        assert len(series.farm_s) + series.unanswered == timing_quality.PER_BLOCK
        assert len(series.stock_s) == timing_quality.PER_BLOCK
        assert len(series.stock_medians_s) == 1


def test_the_untuned_program_is_a_kernel_for_stock_too() -> None:
    task = imported_task(matmul(16), TARGET)
    kernel = contender("untuned", task.workload_json, "", TARGET)
    assert kernel.artifact == untuned(task, TARGET).data
    with stock_runner(TARGET) as stock:
        assert stock.latency_s(kernel) > 0
