"""``benchmarks.models``: its zoo, packages, figures and tables; never a ratio that was measured."""

from __future__ import annotations

import io
import re
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import model_zoo
from benchmarks.model_packages import (
    OwnShare,
    engine_packages,
    own_share,
    packaged_manifest,
)
from benchmarks.model_report import (
    OWN_ONLY,
    PACKAGE,
    TORCH,
    Verdict,
    figures,
    ratios_table,
    times_table,
)
from benchmarks.model_zoo import ModelFiles, ModelMissing, ZooModel, cache_folder, choose, files
from benchmarks.models import fastest, judge, time_in_turn
from benchmarks.torch_peer import torch_package
from coordinator.frontend.importer import import_model
from coordinator.package.manifest import EngineUsed, Latency, Manifest, Record
from coordinator.package.wheel import PartFiles, write_wheel
from coordinator.results.compile import compile_parts
from coordinator.results.verify import make_examples
from coordinator.tuning_log import TuningLog
from device_agent.devices.cpu import describe_cpu
from device_agent.model_child import load_package
from protos.records import OWN, Device, MeasurementStatus, Shape, TensorSpec, VariantResult
from tests.kernels import target_json
from tests.models import small_model

TARGET = target_json(1)
SHAPES = {"x": Shape((4, 16))}


def _device() -> Device:
    return describe_cpu("test", TARGET, None, emulated=False)


# ------------------------------------------------------------------------------ figures


def _timed(name: str, ms: float) -> VariantResult:
    return VariantResult(name, MeasurementStatus.OK, (ms * 1e-3,) * 8)


def _verdict(name: str, share: float, **ms: float) -> Verdict:
    variants = {key.replace("_", " ").replace("torch", TORCH): value for key, value in ms.items()}
    results = {key: _timed(key, value) for key, value in variants.items()}
    return Verdict(name, OWN, 10, OwnShare(share, share), results)


TWO = (
    _verdict("fast", 1.0, package=2.0, own_code=2.0, onnxruntime=4.0, openvino=5.0, torch=9.0),
    _verdict("slow", 0.0, package=1.0, own_code=4.0, onnxruntime=1.5, openvino=1.0),
)


def test_the_ratios_are_of_the_best_peer() -> None:
    found = figures(TWO)
    assert found["latency_ratio_fast"] == pytest.approx(2.0)
    assert found["latency_ratio_slow"] == pytest.approx(1.0)
    assert found["latency_ratio_min"] == pytest.approx(1.0)
    assert found["latency_ratio_geomean"] == pytest.approx(2**0.5)
    assert found["own_only_ratio_min"] == pytest.approx(0.25)
    assert found["own_only_ratio_geomean"] == pytest.approx(0.5**0.5)
    assert found["own_time_share"] == pytest.approx(0.5)
    assert (found["models"], found["at_least_equal"], found["peers_failed"]) == (2, 2, 0)


def test_torch_counts_as_a_peer_where_it_was_timed() -> None:
    assert _verdict("m", 1.0, package=2.0, onnxruntime=4.0, torch=1.0).ratio(PACKAGE) == 0.5


def test_a_peer_that_failed_has_no_time_and_is_counted() -> None:
    wrong = VariantResult("openvino", MeasurementStatus.WRONG_OUTPUT, error="differs by 1")
    verdict = replace(TWO[1], variants={**TWO[1].variants, "openvino": wrong})
    assert verdict.ratio(PACKAGE) == pytest.approx(1.5)
    assert verdict.failures == ["openvino: differs by 1"]
    assert figures([verdict])["peers_failed"] == 1


def test_a_package_without_a_time_has_no_ratio() -> None:
    with pytest.raises(RuntimeError, match="the package was not timed"):
        _verdict("m", 1.0, onnxruntime=1.0).ratio(PACKAGE)
    with pytest.raises(RuntimeError, match="no peer was timed"):
        _verdict("m", 1.0, package=1.0).ratio(PACKAGE)


def test_the_tables_show_medians_with_intervals_and_dashes() -> None:
    heading, fast, slow = times_table(TWO).splitlines()
    assert heading.split()[:2] == ["model", "package"]
    assert "2 [2 2]" in fast
    assert slow.endswith("–")
    assert ratios_table(TWO).splitlines()[2].split() == (
        ["slow", "10", "tunefarm", "0", "%", "0", "%", "1", "0.25"]
    )


def test_the_fastest_of_those_that_were_timed() -> None:
    failed = VariantResult("broken", MeasurementStatus.CRASHED, error="killed")
    results = {"broken": failed, "a": _timed("a", 2.0), "b": _timed("b", 1.0)}
    assert fastest(results) == "b"
    with pytest.raises(RuntimeError, match="killed"):
        fastest({"broken": failed})


# ------------------------------------------------------------------------------- the zoo


def test_the_models_of_the_issue_are_in_the_zoo() -> None:
    assert [model.name for model in choose(())] == [
        "squeezenet",
        "mobilenet_v2",
        "mobilenet_v3_large",
        "resnet18",
        "efficientnet_b0",
        "ppocr_v4_det",
        "vit_tiny",
        "magika",
    ]
    assert [model.name for model in choose(["magika", "resnet18"])] == ["magika", "resnet18"]
    with pytest.raises(LookupError, match=r"no model 'resnet' in the zoo; there are squeezenet"):
        choose(["resnet"])


def test_a_missing_package_is_named_with_what_installs_it(tmp_path: Path) -> None:
    absent = ZooModel("absent", {"x": Shape((1, 3, 8, 8))}, "no_such_package.net", "net")
    with pytest.raises(ModelMissing, match="absent needs") as refused:
        files(absent, tmp_path)
    assert "pip install --no-deps -r benchmark-models.txt" in str(refused.value)
    assert "pip install '.[benchmarks]'" in str(refused.value)
    with pytest.raises(ModelMissing, match="no demo model 'absent'"):
        files(ZooModel("absent", {}, demo="absent"), tmp_path)
    assert not list(tmp_path.rglob("absent*"))


def test_what_to_install_is_pinned_where_the_message_says() -> None:
    root = Path(model_zoo.__file__).parent.parent
    assert re.search(r"^pytorchcv==", (root / "benchmark-models.txt").read_text(), re.MULTILINE)
    extras = (root / "setup.cfg").read_text().partition("\nbenchmarks =\n")[2]
    assert re.match(r"\s+torch==", extras)


def test_a_packaged_model_is_written_to_the_cache_once(tmp_path: Path) -> None:
    (magika,) = choose(["magika"])
    made = files(magika, tmp_path)
    assert made.weights is None
    before = made.onnx.stat()
    assert files(magika, tmp_path) == made
    assert made.onnx.stat().st_mtime_ns == before.st_mtime_ns
    assert [path.name for path in made.onnx.parent.iterdir()] == ["magika.onnx"]


def test_the_cache_is_where_the_system_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/tunefarm")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "tunefarm"


def test_a_torch_package_is_one_module_that_names_its_model() -> None:
    with zipfile.ZipFile(io.BytesIO(torch_package("resnet18", Path("/w.pt")))) as archive:
        (module,) = archive.read(
            next(name for name in archive.namelist() if name.endswith("top_level.txt"))
        ).split()
        source = archive.read(f"{module.decode()}/__init__.py").decode()
    compile(source, "package", "exec")
    assert "'resnet18', '/w.pt'" in source


# ------------------------------------------------------------------------------ packages


@pytest.fixture(scope="module")
def wheel() -> bytes:
    """The small model, untuned, as a job packages it."""
    imported = import_model(small_model(), {}, TARGET)
    specs = [tuple((t.name, t.spec) for t in side) for side in (imported.inputs, imported.outputs)]
    manifest = Manifest("small.onnx", "0" * 64, TARGET, (), *specs)
    return write_wheel(compile_parts(imported.parts, TARGET, {}), manifest)[1]


@pytest.fixture
def module_path() -> Iterator[None]:
    """Packages are imported from folders of their own; nothing of them stays."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.partition(".")[0] == "small":
            del sys.modules[name]


def test_the_engines_packages_run_the_model(
    wheel: bytes, tmp_path: Path, module_path: None
) -> None:
    packages = engine_packages(packaged_manifest(wheel), small_model(), SHAPES, _device())
    assert set(packages) == {"onnxruntime", "openvino", "onednn"}
    assert own_share(packages["onnxruntime"], small_model()) == OwnShare(0.0, 0.0)
    archive = tmp_path / "a.whl"
    archive.write_bytes(packages["onnxruntime"])
    run = load_package(archive, tmp_path / "unpacked", 1).run
    assert run({"x": np.ones((4, 16), np.float32)})["y"].shape == (4, 16)


def _judged(package: bytes, engine: str, folder: Path) -> Verdict:
    """What becomes of a job that packaged this."""
    (folder / "small.onnx").write_bytes(small_model())
    (folder / "small.whl").write_bytes(package)
    log = str(folder / "log.db")
    TuningLog.open(log).close()  # it knows no record: our own code is the untuned one
    report = {"package": str(folder / "small.whl"), "engine": engine, "trials": {"total": 7}}
    made = ModelFiles(folder / "small.onnx")
    return judge(ZooModel("small", SHAPES), made, report, _device(), log, rounds=6)


def test_a_package_of_our_own_code_is_timed_beside_the_engines(
    wheel: bytes, tmp_path: Path
) -> None:
    verdict = _judged(wheel, OWN, tmp_path)
    assert (verdict.share, verdict.trials) == (OwnShare(1.0, 1.0), 7)
    assert verdict.variants[OWN_ONLY] is verdict.variants[PACKAGE]
    assert set(verdict.variants) == {PACKAGE, OWN_ONLY, "onnxruntime", "openvino", "onednn"}
    assert all(len(result.repeats_s) == 6 for result in verdict.variants.values())
    assert verdict.failures == []
    assert verdict.ratio(PACKAGE) == verdict.best_peer_ms / (verdict.latency_ms(PACKAGE) or 0)


def test_an_engines_package_is_timed_as_that_engine_beside_our_own_code(
    wheel: bytes, tmp_path: Path
) -> None:
    engines = engine_packages(packaged_manifest(wheel), small_model(), SHAPES, _device())
    verdict = _judged(engines["openvino"], "openvino", tmp_path)
    assert verdict.share == OwnShare(0.0, 0.0)
    assert verdict.variants[PACKAGE] is verdict.variants["openvino"]
    assert verdict.variants[OWN_ONLY].name == OWN_ONLY
    assert verdict.latency_ms(OWN_ONLY) is not None
    assert verdict.ratio(PACKAGE) <= 1


def test_a_variant_that_fails_has_no_time(wheel: bytes) -> None:
    examples = make_examples(small_model(), SHAPES, 2)
    timed = time_in_turn({"good": wheel, "broken": b"no wheel"}, examples, _device(), rounds=1)
    assert len(timed["good"].repeats_s) == 1
    assert timed["broken"].latency_ms is None
    assert "no wheel" in timed["broken"].error


def test_the_share_of_a_package_in_parts(wheel: bytes) -> None:
    """One of three operators and four of ten milliseconds are the engine's."""
    from onnx import helper

    from tests.models import make_model

    one = make_model([helper.make_node("Relu", ["x"], ["h"])], {"x": (4, 16)}, {"h": (4, 16)})
    imported = import_model(small_model(), {}, TARGET)
    (ours,) = compile_parts(imported.parts, TARGET, {})
    parts = [
        PartFiles("onnxruntime", ("x",), ("h",), one, operators=1),
        replace(ours, inputs=("h",), outputs=("y",)),
    ]
    spec = TensorSpec((4, 16), "float32")
    manifest = Manifest(
        *("mixed.onnx", "0" * 64, TARGET, (), (("x", spec),), (("y", spec),)),
        records=(Record("f", "w", "c", 2, 3000.0),),
        latency=Latency(20.0, 10.0),
        engines=(EngineUsed("onnxruntime", "1.0", "MIT"),),
    )
    share = own_share(write_wheel(parts, manifest)[1], small_model())
    assert share.operators == pytest.approx(2 / 3)
    assert share.time == pytest.approx(0.6)
