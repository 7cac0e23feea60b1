"""Other engines: who is packaged, and packages that they run."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.frontend.importer import ImportedModel, import_model
from coordinator.frontend.onnx_model import load_model
from coordinator.frontend.target import resolve_target
from coordinator.package.manifest import EngineUsed, Manifest, Record
from coordinator.package.wheel import PartFiles, write_wheel
from coordinator.results.engine_parts import CannotRun, engine_part
from coordinator.results.engines import (
    check_left_to_engine,
    choose_engine,
    engine_manifest,
    engine_result,
    engines_used,
)
from coordinator.results.verify import make_examples
from device_agent.devices.cpu import describe_cpu
from device_agent.model_runner import ModelRunner
from protos import engines
from protos.errors import JobFailed
from protos.records import (
    OWN,
    Artifact,
    Device,
    EngineResult,
    EvaluatorConfig,
    MeasurementStatus,
    ModelVariant,
    ModelWork,
    VariantResult,
)
from tests import models

TARGET = resolve_target("auto", threads=1)
ORT = EngineUsed("onnxruntime", "1.31.1", "MIT")


@pytest.mark.parametrize(
    ("latencies", "chosen"),
    [
        ({}, OWN),
        ({"onnxruntime": None}, OWN),
        ({"onnxruntime": 12.0, "openvino": 11.0}, OWN),
        ({"onnxruntime": 9.9, "openvino": None}, OWN),  # within the noise
        ({"onnxruntime": 9.7, "openvino": None}, "onnxruntime"),
        ({"onnxruntime": 9.7, "openvino": 9.6}, "openvino"),
    ],
)
def test_the_fastest_is_packaged(latencies: dict[str, float | None], chosen: str) -> None:
    results = [EngineResult(name, "1", latency_ms) for name, latency_ms in latencies.items()]
    assert choose_engine(10.0, results) == chosen


def test_an_engine_that_is_not_known_or_has_an_odd_version_is_not_used() -> None:
    device = replace(
        describe_cpu("d", None, None, False),
        engine_versions={
            "abacus": "1",
            "onnxruntime": "1.0\nRequires-Dist: other",
            "openvino": "2",
        },
    )
    assert engines_used(device) == {"openvino": EngineUsed("openvino", "2", "Apache-2.0")}


def test_what_an_engine_did_is_kept_with_its_interval_or_its_error() -> None:
    fine = VariantResult(ORT.name, MeasurementStatus.OK, (0.002,) * 8, "", 1e-6, 1e-5)
    assert engine_result(ORT, fine) == EngineResult(
        "onnxruntime", "1.31.1", 2.0, 2.0, 2.0, 1e-6, 1e-5
    )
    wrong = VariantResult(ORT.name, MeasurementStatus.WRONG_OUTPUT, (), "output 'y'", 1.0, 1.0)
    kept = engine_result(ORT, wrong)
    assert (kept.latency_ms, kept.error) == (None, "output 'y'")
    assert engine_result(ORT, None).error


@pytest.fixture(scope="module")
def imported() -> ImportedModel:
    return import_model(models.small_model(), {}, TARGET)


def _manifest(imported: ImportedModel, used: EngineUsed | None) -> Manifest:
    own = Manifest(
        model_file="small.onnx",
        model_sha256="ab" * 32,
        target_json=TARGET,
        cpu_features=("avx1024",),
        inputs=tuple((tensor.name, tensor.spec) for tensor in imported.inputs),
        outputs=tuple((tensor.name, tensor.spec) for tensor in imported.outputs),
        records=(Record("f", "w", "c", 1),),
    )
    return engine_manifest(own, used) if used is not None else own


def _wheel(imported: ImportedModel, name: str) -> tuple[str, bytes]:
    version = engines.installed()[name]
    known = engines.engine(name)
    assert known is not None
    model = load_model(models.small_model(), {}).SerializeToString()
    used = EngineUsed(name, version, known.licence)
    part = engine_part(name, model, ["x"], ["y"])
    assert isinstance(part, PartFiles)
    return write_wheel((part,), _manifest(imported, used))


@pytest.mark.parametrize("name", [one.name for one in engines.ENGINES])
def test_an_engines_package_is_right_on_the_device(imported: ImportedModel, name: str) -> None:
    _, wheel = _wheel(imported, name)
    work = ModelWork(
        (ModelVariant(name, Artifact.of(wheel)),),
        Artifact.of(make_examples(models.small_model(), {}, 2, 0)),
        EvaluatorConfig(number=1, repeat=3, min_repeat_ms=1),
        1,
    )
    cpus = sorted(os.sched_getaffinity(0))[:1]
    runner = ModelRunner(describe_cpu("test", None, cpus, False))
    try:
        (result,) = runner.run(work, lambda artifact: artifact.data).variants
    finally:
        runner.close()
    assert result.status is MeasurementStatus.OK, result.error
    assert len(result.repeats_s) == 3
    assert result.max_rel_error < 1e-4


@pytest.mark.parametrize("name", [one.name for one in engines.ENGINES])
def test_a_stranger_installs_and_runs_it(
    imported: ImportedModel, name: str, tmp_path: Path
) -> None:
    filename, wheel = _wheel(imported, name)
    (tmp_path / filename).write_bytes(wheel)
    assert filename.endswith("-py3-none-any.whl")
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*command, str(site), str(tmp_path / filename)], check=True)
    program = """
import numpy as np
from small import Model
model = Model()
inputs = {name: np.ones(shape, dtype) for name, (shape, dtype) in model.inputs.items()}
outputs = model.run(inputs)
print({name: value.shape for name, value in outputs.items()} == {
    name: shape for name, (shape, _) in model.outputs.items()})
try:
    model.run({})
except ValueError as error:
    print(error)
print(model.manifest["engines"][0]["name"], model.manifest["records"])
"""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    right, unfit, said = done.stdout.splitlines()
    assert right == "True"
    assert "missing" in unfit
    assert said == f"{name} []"
    metadata = next((site).glob("small-*.dist-info/METADATA")).read_text()
    known = engines.engine(name)
    assert known is not None
    assert f"Requires-Dist: {known.distribution}=={engines.installed()[name]}" in metadata


def _failure(imported: ImportedModel, name: str, program: str, folder: Path) -> str:
    """What a program says that fails beside the engine's package."""
    _, wheel = _wheel(imported, name)
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        archive.extractall(folder)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    return done.stderr


def test_without_its_engine_a_package_says_what_to_install(
    imported: ImportedModel, tmp_path: Path
) -> None:
    program = "import sys; sys.modules['openvino'] = None; from small import Model; Model()"
    assert "pip install openvino==" in _failure(imported, "openvino", program, tmp_path)


def test_without_its_library_a_package_says_what_to_install(
    imported: ImportedModel, tmp_path: Path
) -> None:
    program = """
import importlib.metadata
real = importlib.metadata.files
importlib.metadata.files = lambda name: [] if name == "onednn-cpu-gomp" else real(name)
from small import Model
Model()
"""
    told = _failure(imported, "onednn", program, tmp_path)
    assert "pip install onednn-cpu-gomp==" in told
    assert "libdnnl.so.3 of onednn-cpu-gomp is not there" in told


def test_an_engine_says_why_it_can_not_run_a_model() -> None:
    refused = engine_part("onednn", models.recogniser(), ["x"], ["y"])
    assert refused == CannotRun("oneDNN has no primitive for LSTM (node 'memory')")
    assert engine_result(ORT, None, refused.reason).error == refused.reason


def test_a_translation_that_fails_costs_that_engine_and_not_the_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(_model: bytes) -> bytes:
        raise KeyError("w")

    monkeypatch.setattr("coordinator.results.engine_parts.onednn_program", broken)
    refused = engine_part("onednn", models.small_model(), ["x"], ["y"])
    assert isinstance(refused, CannotRun)
    assert "failed to translate it for oneDNN, please report: KeyError: 'w'" in refused.reason
    assert isinstance(engine_part("onnxruntime", models.small_model(), ["x"], ["y"]), PartFiles)


def test_what_only_an_engine_can_run_needs_it_on_the_device() -> None:
    device = Device("pi", TARGET, "a CPU", (0,), 1)
    check_left_to_engine((), device)
    check_left_to_engine(("LSTM (node 'l')",), replace(device, engine_versions={ORT.name: "1"}))
    with pytest.raises(JobFailed, match=r"only ONNX Runtime can run LSTM .*\(pip install onnxrun"):
        check_left_to_engine(
            ("LSTM (node 'l')",), replace(device, engine_versions={"openvino": "1"})
        )


def test_there_is_no_package_for_no_engine(imported: ImportedModel) -> None:
    for name, used in (("onnxruntime", None), ("abacus", EngineUsed("abacus", "1", "MIT"))):
        with pytest.raises(JobFailed, match=f"no engine for a part of the package: '{name}'"):
            write_wheel((PartFiles(name, ("x",), ("y",), b""),), _manifest(imported, used))


def test_the_manifest_says_which_engine_runs_it(imported: ImportedModel) -> None:
    _, wheel = _wheel(imported, "onnxruntime")
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        manifest = json.loads(archive.read("small/manifest.json"))
    assert manifest["engines"] == [
        {
            "name": "onnxruntime",
            "version": engines.installed()["onnxruntime"],
            "licence": "MIT",
        }
    ]
    (part,) = manifest["parts"]
    assert (part["engine"], part["inputs"], part["outputs"]) == ("onnxruntime", ["x"], ["y"])
    assert manifest["cpu_features"] == []
