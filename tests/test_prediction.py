"""Latencies without a device: operators out of a model, what they are learnt from, the interval."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from coordinator.farm import Farm
from coordinator.prediction.devices import choose_device
from coordinator.prediction.graph import read_operators
from coordinator.prediction.measured import packaged_interval
from coordinator.prediction.predictor import (
    CALL_US,
    Calibration,
    Finished,
    Known,
    OperatorTimes,
    Parts,
    calibrate,
    held_out,
    student,
)
from coordinator.prediction.service import MIN_OPERATORS, Predictions
from coordinator.prediction.workloads import operator_of
from coordinator.tuning_log import TuningLog, operators
from cost_model.latency import DENSE, DEPTHWISE, ELEMENTWISE, REDUCE, LatencyModel, Operator, Timed
from protos.errors import BadModel, BadRequest, Conflict, NotFound, Unavailable
from protos.records import (
    MIXED,
    Device,
    EngineResult,
    Job,
    ModelResult,
    PredictionSource,
    PredictionSpec,
    Shape,
    ThreadResult,
)
from tests import models
from tests.test_report_of_a_coordinator import asked
from tests.timed_operators import DEVICE, OVERHEAD, convs, law_us, model, task, tune

pytest_plugins = ("tests.postgres",)

OTHER = replace(DEVICE, name="bench-2", cpu_model="another CPU")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[TuningLog]:
    opened = TuningLog.open(str(tmp_path / "log.db"))
    yield opened
    opened.close()


@pytest.fixture
def any_log(url: str) -> Iterator[TuningLog]:
    opened = TuningLog.open(url)
    yield opened
    opened.close()


# ------------------------------------------------------------------------- the graph


def mobile_net() -> bytes:
    """Expansion, depthwise convolution, a gate, a projection with its shortcut, a classifier."""
    generator = np.random.default_rng(0)

    def weight(*shape: int) -> Any:
        return (generator.standard_normal(shape) * 0.2).astype(np.float32)

    def node(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
        return helper.make_node(kind, inputs.split(), [output], output, **attributes)

    nodes = [
        node("Conv", "x w0 b0", "c0"),
        node("Sigmoid", "c0", "s0"),
        node("Mul", "c0 s0", "a0"),
        node("Conv", "a0 w1 b1", "c1", group=32, pads=[1] * 4),
        node("Relu", "c1", "a1"),
        node("GlobalAveragePool", "a1", "p0"),
        node("Conv", "p0 w2 b2", "g0"),
        node("Sigmoid", "g0", "g1"),
        node("Mul", "a1 g1", "a2"),
        node("Conv", "a2 w3 b3", "c2"),
        node("Add", "c2 x", "a3"),
        node("GlobalAveragePool", "a3", "p1"),
        node("Flatten", "p1", "f"),
        node("Gemm", "f w4 b4", "y"),
    ]
    weights = {"w0": weight(32, 16, 1, 1), "b0": weight(32), "w1": weight(32, 1, 3, 3)}
    weights |= {"b1": weight(32), "w2": weight(32, 32, 1, 1), "b2": weight(32)}
    weights |= {"w3": weight(16, 32, 1, 1), "b3": weight(16), "w4": weight(16, 10)}
    weights |= {"b4": weight(10)}
    return models.make_model(nodes, {"x": (1, 16, 8, 8)}, {"y": (1, 10)}, weights)


def test_elementwise_operators_belong_to_the_convolution_before_them() -> None:
    found = [one.operator for one in read_operators(mobile_net(), {})]
    assert Counter(one.kind for one in found) == {"move": 1, DENSE: 4, DEPTHWISE: 1, REDUCE: 2}
    expand, depthwise, gate, project, head = (one for one in found if one.macs)
    assert (expand.rows, expand.depth, expand.width, expand.hard) == (64, 16, 32, 1)
    assert (depthwise.kind, depthwise.macs) == (DEPTHWISE, 64 * 9 * 32)
    assert (gate.rows, gate.hard) == (1, 1)
    assert gate.other_bytes == 4 * (32 + 32 * 64), "the bias, and the map that it gates"
    assert project.other_bytes == 4 * (16 + 16 * 64), "the bias and the shortcut"
    assert (head.rows, head.depth, head.width, head.window) == (1, 16, 10, 1)


def test_the_compilers_operators_have_the_shapes_that_are_read_from_the_graph() -> None:
    from coordinator.frontend.importer import import_model

    imported = import_model(mobile_net(), {}, '{"kind":"llvm","num-cores":1}')
    compiled = [operator_of(t.name, t.args, t.num_outputs) for t in imported.tasks]
    heavy = {one.shape for one in compiled if one is not None and one.macs}
    read = {one.operator.shape for one in read_operators(mobile_net(), {}) if one.operator.macs}
    assert len(heavy) == 5
    assert len(heavy & read) >= 4, (heavy - read, read - heavy)


def test_arithmetic_of_shapes_costs_nothing() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], "shape"),
        helper.make_node("Reshape", ["x", "shape"], ["same"], "reshape"),
        helper.make_node("MatMul", ["same", "w"], ["y"], "product"),
    ]
    weights = {"w": np.ones((16, 8), np.float32)}
    data = models.make_model(nodes, {"x": ("n", 16)}, {"y": ("n", 8)}, weights)
    (product,) = read_operators(data, {"x": Shape((4, 16))})
    assert (product.operator.rows, product.operator.depth, product.operator.width) == (4, 16, 8)
    with pytest.raises(BadModel, match="--shape x=1,16"):
        read_operators(data, {})


def test_a_model_whose_work_depends_on_its_input_is_refused() -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["where"], "where"),
        helper.make_node("Cast", ["where"], ["numbers"], "cast", to=1),
        helper.make_node("MatMul", ["w", "numbers"], ["y"], "product"),
    ]
    weights = {"w": np.ones((8, 2), np.float32)}
    data = models.make_model(nodes, {"x": (4, 16)}, {"y": ("a", "b")}, weights)
    with pytest.raises(BadModel, match=r"'where'|'numbers'|'y'.*tunefarm measure"):
        read_operators(data, {})


def test_sizes_that_depend_on_the_input_are_refused_without_a_product_too() -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["where"], "where"),
        helper.make_node("Cast", ["where"], ["y"], "cast", to=1),
    ]
    data = models.make_model(nodes, {"x": (4, 16)}, {"y": ("a", "b")}, {})
    with pytest.raises(BadModel, match=r"is not known before the model runs.*tunefarm measure"):
        read_operators(data, {})


def test_products_that_are_not_read_are_refused() -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["a", "scale", "zero"], "quantise"),
        helper.make_node("MatMulInteger", ["a", "w"], ["sums"], "quantised"),
        helper.make_node("Cast", ["sums"], ["y"], "cast", to=1),
    ]
    weights = {"w": np.ones((16, 8), np.uint8)}
    data = models.make_model(nodes, {"x": (4, 16)}, {"y": (4, 8)}, weights)
    with pytest.raises(BadModel, match=r"'quantised'.*not known.*tunefarm measure"):
        read_operators(data, {})


def test_a_product_of_one_operand() -> None:
    nodes = [helper.make_node("Einsum", ["x"], ["y"], "turned", equation="ij->ji")]
    data = models.make_model(nodes, {"x": (4, 16)}, {"y": (16, 4)}, {})
    (found,) = read_operators(data, {})
    assert found.operator.out_bytes == 256


# ------------------------------------------------------------------------- what is learnt


def known(count: int, seed: int = 0, owner: str = "a") -> list[Known]:
    found = []
    for conv in convs(count, seed):
        one = task(conv)
        operator = operator_of(one.name, one.args, one.num_outputs)
        assert operator is not None
        found.append(Known(Timed(operator, law_us(conv)), frozenset((owner,))))
    return found


def test_times_of_shapes_that_were_never_seen() -> None:
    learnt, asked_for = known(120), known(40, seed=1)
    guessed = LatencyModel([one.timed for one in learnt]).predict_us(
        [one.timed.operator for one in asked_for]
    )
    ratios = guessed / np.array([one.timed.latency_us for one in asked_for])
    assert 0.8 < np.median(ratios) < 1.25
    assert np.quantile(np.abs(np.log(ratios)), 0.9) < math.log(1.6)


def test_sizes_beyond_all_that_was_seen_follow_the_roofline() -> None:
    learnt = [one for one in known(120) if one.timed.operator.macs < 1e7]
    size = (64, 128, 128)
    one = task(size)
    operator = operator_of(one.name, one.args, 1)
    assert operator is not None
    (guessed_us,) = LatencyModel([known.timed for known in learnt]).predict_us([operator])
    assert 0.5 < guessed_us / law_us(size) < 2.0


def test_an_operator_that_was_hardly_tuned_may_still_become_faster() -> None:
    (own,) = [o for o in read_operators(model([(16, 24, 24)]), {}) if o.operator.macs]
    slow = Known(Timed(own.operator, 1e5), frozenset("a"), tried=9)
    others = known(80, owner="b")
    (hardly,) = OperatorTimes([slow, *others]).of([own])
    (settled,) = OperatorTimes([replace(slow, tried=90), *others]).of([own])
    assert hardly.latency_us < settled.latency_us == 1e5
    assert hardly.known


def test_no_operators_teach_nothing() -> None:
    with pytest.raises(ValueError, match="no operator"):
        LatencyModel([])
    assert len(LatencyModel([known(1)[0].timed]).predict_us([])) == 0


def test_a_convolution_may_be_done_by_winograds_algorithm() -> None:
    (plain,) = [o for o in read_operators(model([(16, 64, 64)]), {}) if o.operator.macs]
    assert plain.out_hw == (16, 16)
    fast = [
        Operator(ELEMENTWISE, in_bytes=4.0 * 64 * 256, out_bytes=4.0 * 16 * 36 * 64),
        Operator(
            *("products", 16.0 * 36 * 64 * 64, 16 * 36, 64, 64),
            in_bytes=4.0 * 16 * 36 * 64,
            second_bytes=4.0 * 36 * 64 * 64,
            out_bytes=4.0 * 16 * 36 * 64,
        ),
        Operator(
            ELEMENTWISE,
            in_bytes=4.0 * (16 * 36 * 64 + 64),
            out_bytes=4.0 * 64 * 256,
            steps=2,
        ),
    ]
    direct = Known(Timed(plain.operator, 100.0), frozenset("a"))
    steps = [Known(Timed(step, 10.0), frozenset("a")) for step in fast]
    (slow,) = OperatorTimes([direct]).of([plain])
    (best,) = OperatorTimes([direct, *steps]).of([plain])
    assert slow.latency_us <= 100.0
    assert best.latency_us <= 30.0
    assert best.known
    four = replace(plain.operator, rows=4 * 256)  # pictures at once, of which no kernel is known
    (several,) = OperatorTimes([direct, *steps]).of([replace(plain, operator=four)])
    assert not several.known


# ------------------------------------------------------------------------- the interval


@pytest.mark.parametrize(("freedom", "quantile"), [(2, 2.920), (5, 2.015), (10, 1.812)])
def test_students_quantile(freedom: float, quantile: float) -> None:
    assert student(0.95, freedom) == pytest.approx(quantile, rel=0.03)


def test_the_interval_holds_nine_new_models_of_ten() -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        ratios = np.exp(random.normal(math.log(1.3), 0.15, 9))
        *seen, new = [(Parts(100.0, 0.0), 100.0 * float(ratio)) for ratio in ratios]
        interval = calibrate(seen).interval(new[0])
        held += interval.low_ms <= new[1] / 1e3 <= interval.high_ms
    assert 0.9 <= held / 400 <= 0.99


def test_more_models_make_the_interval_narrower() -> None:
    def width(count: int) -> float:
        return calibrate([(Parts(100.0, 0.0), 120.0)] * count).half_width

    assert width(0) > width(2) > width(8) > width(40) > 0


def test_what_reading_weights_takes_is_found() -> None:
    parts = [Parts(100.0, float(mb)) for mb in range(12)]
    found = calibrate([(part, 1.1 * part.total_us(20.0)) for part in parts])
    assert found.us_per_mb == 20.0
    latency_ms = 1.1 * (CALL_US + 50.0 + 20.0 * 40.0) / 1e3
    assert found.interval(Parts(50.0, 40.0)).latency_ms == pytest.approx(latency_ms, rel=0.05)


def test_an_interval_lies_around_its_latency() -> None:
    interval = Calibration(math.log(2), math.log(1.5), 3).interval(Parts(1000.0 - CALL_US, 5.0))
    assert (interval.latency_ms, interval.low_ms, interval.high_ms) == pytest.approx((2, 4 / 3, 3))


def test_a_model_is_held_out_with_all_that_only_it_has() -> None:
    others = known(80, owner="b")
    (own,) = [o for o in read_operators(model([(16, 8, 8)]), {}) if o.operator.macs]
    own = replace(own, out_hw=None)  # not by Winograd's algorithm
    secret = Known(Timed(own.operator, 1e6), frozenset(("m",)))
    finished = [
        Finished("m", (own,), 1.0),
        Finished("a", (own,), 1.0),
    ]
    (parts, _), (seen, _) = held_out([*others, secret], finished)
    assert parts.sum_us < 1e4
    assert seen.sum_us == 1e6


# ------------------------------------------------------------------------- devices


def test_a_device_is_named_by_its_name_or_kind() -> None:
    devices = [DEVICE, replace(DEVICE, name="bench-3"), OTHER]
    assert choose_device(devices, "bench-2") is OTHER
    assert choose_device(devices, OTHER.kind[:6]) is OTHER
    assert choose_device(devices[:2], "") is DEVICE
    with pytest.raises(BadRequest, match=r"several kinds.*bench-1 .*bench-2"):
        choose_device(devices, "")
    with pytest.raises(NotFound, match=r"'bench-9'.*bench-1.*a CPU"):
        choose_device(devices, "bench-9")
    with pytest.raises(NotFound, match="tunefarm agent"):
        choose_device([], "")


# ------------------------------------------------------------------------- the log


def test_the_log_tells_operators_and_finished_models_apart_by_kind(any_log: TuningLog) -> None:
    sizes = convs(3, 0)
    here = tune(any_log, sizes)
    unfinished = tune(any_log, sizes[:1], finished=False)
    tune(any_log, [(8, 8, 8)], OTHER)
    with any_log.reading() as connection:
        rows = operators.timed_operators(connection, DEVICE.kind)
        jobs = operators.finished_jobs(connection, DEVICE)
        size = operators.size(connection)
    assert {row.workload_key for row in rows} == {task(conv).workload_key for conv in sizes}
    best = {row.workload_key: row for row in rows}
    first = best[task(sizes[0]).workload_key]
    assert first.best_us == pytest.approx(law_us(sizes[0]))
    assert first.tried == 8
    assert first.models == {here.spec.model_sha256, unfinished.spec.model_sha256}
    assert [job.job_id for job in jobs] == [here.job_id]
    assert size >= 8 * 5


def test_a_job_that_the_log_answered_counts_where_its_target_has_one_kind(log: TuningLog) -> None:
    first = tune(log, convs(2, 0))
    again = log.add_job(first.spec, "test", embedded=True)
    log.save_job(replace(first, job_id=again.job_id))

    def found() -> list[str]:
        with log.reading() as connection:
            return [job.job_id for job in operators.finished_jobs(connection, DEVICE)]

    assert found() == [again.job_id, first.job_id]
    log.upsert_device(OTHER)  # it may have run there
    assert found() == [first.job_id]


# ------------------------------------------------------------------------- the service


def filled(log: TuningLog) -> list[Job]:
    """Five models of 16 operators each."""
    sizes = convs(80, 0)
    return [tune(log, sizes[start::5], name=f"net-{start}") for start in range(5)]


def test_a_model_is_predicted_by_its_operators(log: TuningLog) -> None:
    filled(log)
    new = convs(20, 5)
    found = Predictions(log).predict(model(new), PredictionSpec("bench-1"))
    really_ms = OVERHEAD * sum(map(law_us, new)) / 1e3
    assert found.source is PredictionSource.PREDICTED
    assert found.low_ms < really_ms < found.high_ms
    assert found.latency_ms == pytest.approx(really_ms, rel=0.35)
    assert (found.learnt_operators, found.learnt_models) == (80, 5)
    assert found.coverage == 0.9
    assert sum(one.kind == DENSE for one in found.operators) == 20
    assert found.device_kind == DEVICE.kind


def test_a_model_that_was_tuned_is_answered_with_what_was_measured(log: TuningLog) -> None:
    job = tune(log, convs(4, 0))
    found = Predictions(log).predict(model(convs(4, 0)), PredictionSpec())
    assert job.result is not None
    assert found.source is PredictionSource.MEASURED
    assert found.job_id == job.job_id
    assert (found.latency_ms, found.low_ms) == (job.result.tuned_ms, job.result.tuned_low_ms)


def test_a_log_that_knows_too_little_says_what_to_do(log: TuningLog) -> None:
    tune(log, convs(MIN_OPERATORS - 1, 0))
    with pytest.raises(Conflict, match=r"49 tuned operators.*50 are needed.*tunefarm submit"):
        Predictions(log).predict(model([(9, 8, 8)]), PredictionSpec("bench-1"))
    tune(log, convs(80, 3), OTHER)
    with pytest.raises(Conflict, match="tunefarm measure"):
        Predictions(log).predict(model([(9, 8, 8)]), PredictionSpec("bench-1"))


def test_what_the_log_learns_is_learnt_when_it_has_grown(log: TuningLog) -> None:
    filled(log)
    predictions = Predictions(log)
    asked_for = (model([(10, 24, 24)]), PredictionSpec())
    first = predictions.predict(*asked_for)
    tune(log, convs(2, 8), name="little")
    assert predictions.predict(*asked_for) == first
    tune(log, convs(40, 9), name="much")
    assert predictions.predict(*asked_for).learnt_operators > first.learnt_operators


def test_a_farm_predicts_without_any_device_connected(log: TuningLog) -> None:
    filled(log)
    data = model(convs(6, 5))

    def ask(address: str) -> None:
        with Farm(address) as farm:
            found = farm.predict(data, "bench-1")
            assert found == farm.predict(data, DEVICE.kind[:8])
            assert found == Predictions(log).predict(data, PredictionSpec())
            with pytest.raises(NotFound, match="'nobody'"):
                farm.predict(data, "nobody")
            with pytest.raises(BadRequest, match="not an ONNX model"):
                farm.predict(b"PK\x03\x04", "bench-1")
            with pytest.raises(BadRequest, match="a prediction needs a spec and a model"):
                farm.predict(b"", "bench-1")
            with pytest.raises(Unavailable, match="no device is connected"):
                farm.measure(data, "bench-1")
            with pytest.raises(BadRequest, match=r"nowhere\.onnx can't be read"):
                farm.predict("nowhere.onnx")

    asked(log, ask)


# ------------------------------------------------------------------------- what was measured


@pytest.mark.parametrize(
    ("changes", "interval"),
    [
        ({}, (2.0, 1.9, 2.1)),
        ({"engine": "onnxruntime"}, (1.5, 1.4, 1.6)),
        ({"engine": MIXED, "mixed_ms": 1.2}, (1.2, 1.1, 1.3)),
        ({"engine": MIXED, "mixed_ms": 1.2, "threads": ()}, (1.2, 1.2, 1.2)),
        ({"tuned_low_ms": None, "tuned_high_ms": None}, (2.0, 2.0, 2.0)),
    ],
)
def test_the_latency_of_what_is_packaged(
    changes: dict[str, Any], interval: tuple[float, float, float]
) -> None:
    result = ModelResult(
        *(9.0, 2.0, 0.0, 0.0, "m.whl", "0" * 64, 1),
        tuned_low_ms=1.9,
        tuned_high_ms=2.1,
        engines=(EngineResult("onnxruntime", "1", 1.5, 1.4, 1.6),),
        threads=(ThreadResult(MIXED, 1, 2.0), ThreadResult(MIXED, 2, 1.2, 1.1, 1.3)),
    )
    assert packaged_interval(replace(result, **changes)) == interval


def test_devices_of_one_kind_answer_for_each_other(log: TuningLog) -> None:
    tune(log, convs(4, 0))
    log.upsert_device(Device("bench-7", DEVICE.target_json, DEVICE.cpu_model, (1,), 1))
    found = Predictions(log).predict(model(convs(4, 0)), PredictionSpec("bench-7"))
    assert found.source is PredictionSource.MEASURED
