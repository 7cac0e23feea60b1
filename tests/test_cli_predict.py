"""`tunefarm predict` and `tunefarm measure` as processes, and the example that searches."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from coordinator.farm import Farm
from coordinator.tuning_log import TuningLog
from device_agent.devices.cpu import describe_cpu
from examples.network_search import Found, Search, table
from examples.small_networks import VARIANTS, Network, Variant, textures
from protos.records import Prediction, PredictionSource
from tests.farm import agent
from tests.test_cli import Run, closed_port, refused, run
from tests.test_report_of_a_coordinator import asked
from tests.test_tune import free_port, one_core_target, serve, wait_for_devices
from tests.timed_operators import DEVICE, convs, model, tune

__all__ = ["closed_port", "run"]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[TuningLog]:
    opened = TuningLog.open(str(tmp_path / "log.db"))
    yield opened
    opened.close()


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    path.write_bytes(model(convs(6, 5)))
    return path


# ------------------------------------------------------------------------- predict


def test_a_prediction_from_the_log_and_from_a_coordinator(
    run: Run, log: TuningLog, net: Path
) -> None:
    sizes = convs(80, 0)
    for start in range(5):
        tune(log, sizes[start::5])
    said = run("predict", net, "--log", "log.db", "--device", "bench-1")
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("net: ")
    assert "90 % interval" in said.stdout
    assert "learnt from 80 operators and 5 models" in said.stdout
    assert "Conv (node 'conv" in said.stdout
    here = json.loads(run("predict", net, "--log", "log.db", "--json").stdout)
    assert here["source"] == "predicted"
    assert here["job"] is None
    assert here["low_ms"] < here["latency_ms"] < here["high_ms"]
    assert len([o for o in here["operators"] if o["kind"] == "dense"]) == 6

    def ask(address: str) -> str:
        there = run("predict", net, "--coordinator", address, "--json")
        assert there.returncode == 0, there.stderr
        return there.stdout

    assert json.loads(asked(log, ask)) == here


def test_a_model_that_was_tuned_names_its_job(run: Run, log: TuningLog, net: Path) -> None:
    job = tune(log, convs(6, 5))
    said = run("predict", net, "--log", "log.db")
    assert f"measured before: tunefarm report {job.job_id}" in said.stdout
    found = json.loads(run("predict", net, "--json", TUNEFARM_LOG="log.db").stdout)
    assert (found["source"], found["job"], found["coverage"]) == ("measured", job.job_id, 0.95)


def test_a_prediction_that_can_not_be_made(run: Run, log: TuningLog, net: Path) -> None:
    refused(run("predict", net, "--log", "none.db"), 2, "no tuning log", "--log", "tunefarm tune")
    refused(run("predict", net, "--log", "log.db"), 2, "no device is known", "tunefarm agent")
    tune(log, convs(3, 0))
    little = run("predict", net, "--log", "log.db")
    refused(little, 2, "3 tuned operators", "50 are needed", "tunefarm submit", "tunefarm measure")
    nobody = run("predict", net, "--log", "log.db", "--device", "bench-9")
    refused(nobody, 2, "'bench-9'", "bench-1", DEVICE.kind[:8])
    refused(run("predict", "nothing.onnx", "--log", "log.db"), 2, "no such file")
    shaped = run("predict", net, "--log", "log.db", "--shape", "z=1,2")
    refused(shaped, 2, "--shape names 'z'")
    both = run("predict", net, "--log", "log.db", "--coordinator", "127.0.0.1:7411")
    refused(both, 2, "not allowed with")


def test_nobody_to_measure(run: Run, log: TuningLog, net: Path, closed_port: str) -> None:
    nobody = run("measure", net, "--coordinator", closed_port)
    refused(nobody, 3, "no coordinator answers", "tunefarm serve")
    alone = asked(log, lambda address: run("measure", net, "--coordinator", address))
    refused(alone, 3, "no device is connected", "tunefarm agent")


# ------------------------------------------------------------------------- the example


def test_the_way_back_is_the_slope_of_the_loss() -> None:
    network = Network(Variant("little", (3, 4), (2, 1)))
    pictures, labels = textures(5, 3)
    network.weights = [weight.astype(np.float64) for weight in network.weights]

    def loss() -> float:
        scores = np.asarray(network(pictures), np.float64)
        chances = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        return float(-np.log(chances[np.arange(5), labels]).mean())

    for weight, slopes in zip(network.weights, network.gradients(pictures, labels), strict=True):
        place = (0,) * weight.ndim
        weight[place] += 1e-5
        above = loss()
        weight[place] -= 2e-5
        assert (above - loss()) / 2e-5 == pytest.approx(slopes[place], rel=1e-3, abs=1e-7)
        weight[place] += 1e-5


def test_training_changes_what_a_network_says() -> None:
    network = Network(VARIANTS[0])
    pictures, _ = textures(4, 0)
    before = network(pictures)
    network.train(3, batch=8)
    assert not np.allclose(before, network(pictures))
    assert 0 <= network.accuracy(100) <= 1


def test_the_networks_compute_what_their_files_do() -> None:
    import onnxruntime

    network = Network(Variant("odd", (3, 5, 4), (1, 2, 2)))
    pictures, _ = textures(4, 0)
    session = onnxruntime.InferenceSession(network.onnx(4))
    (scores,) = session.run(None, {"x": pictures})
    np.testing.assert_allclose(scores, network(pictures), atol=1e-4)


def found(name: str, low_ms: float) -> Found:
    source = PredictionSource.PREDICTED
    predicted = Prediction(low_ms + 1, low_ms, low_ms + 2, 0.9, source, "kind")
    return Found(Variant(name, (1,), (1,)), predicted)


def test_what_is_surely_too_slow_is_left_out() -> None:
    assert found("slow", 5.1).is_too_slow(5.0)
    assert not found("perhaps", 4.9).is_too_slow(5.0)
    assert "none keeps to 5 ms" in table([found("slow", 5.1)], 5.0)


def test_the_search_trains_and_measures_what_may_be_fast_enough(tmp_path: Path) -> None:
    """A real farm whose log has been told of many operators of this very kind of device."""
    log_file, target = tmp_path / "log.db", one_core_target()
    log = TuningLog.open(str(log_file))
    sizes = convs(80, 0)
    for start in range(4):
        tune(log, sizes[start::4], describe_cpu("shelf-1", target, (0,), emulated=False))
    log.close()
    variants = (
        Variant("vast", (32, 256, 256, 256), (1, 1, 1, 1)),
        Variant("tiny", (4,), (2,)),
    )
    wanted = Search(limit_ms=5.0, device="shelf-1", batch=1, steps=2, trials=4)
    said: list[str] = []
    port = free_port()
    address = f"127.0.0.1:{port}"
    with serve(log_file, port), agent(port, "shelf-1", target, "0"):
        wait_for_devices(address, 1)
        with Farm(address) as farm:
            tiny, vast = wanted.run(farm, variants, said.append)
            again = farm.predict(tiny.model, "shelf-1")
    assert vast.variant.name == "vast"
    assert (vast.accuracy, vast.measured) == (None, None), "its interval lies above the limit"
    assert tiny.predicted.source is PredictionSource.PREDICTED
    assert tiny.measured is not None
    assert tiny.fits(5.0)
    assert again.source is PredictionSource.MEASURED
    assert (again.job_id, again.latency_ms) == (tiny.measured.job_id, tiny.measured.latency_ms)
    assert "the most accurate within 5 ms: tiny" in table([tiny, vast], 5.0)
    assert [line.partition(":")[0] for line in said] == ["vast", "tiny", "tiny"]
