"""A model all the way: imported, scheduled, compiled, packed, installed and run by a stranger."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from wheel.wheelfile import WheelFile

from coordinator.frontend.importer import ImportedModel, import_model
from coordinator.frontend.target import cpu_flags, resolve_target
from coordinator.package.manifest import Latency, Manifest, Record
from coordinator.package.runtimes import RuntimeLibrary, installed_runtime
from coordinator.package.wheel import PartFiles, import_name, write_wheel
from coordinator.results.compile import compile_model, compile_parts, pack_objects
from coordinator.results.verify import make_examples
from device_agent.build import register_intrinsics
from protos.errors import BadTarget, JobFailed
from protos.records import OWN, UNTUNED_TRACE, TensorSpec, sha256_hex
from tests import models

TARGET = resolve_target("auto", threads=2)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return str(value)
    return value.value if hasattr(value, "value") else [_plain(item) for item in value]


def sample_trace(workload_json: str, seed: int = 1) -> str:
    """A schedule that MetaSchedule drew from its space, postprocessing included."""
    import tvm
    from tvm.s_tir import meta_schedule as ms

    register_intrinsics(TARGET)
    context = ms.TuneContext(
        mod=tvm.ir.load_json(workload_json),
        target=tvm.target.Target(json.loads(TARGET)),
        space_generator="post-order-apply",
        search_strategy=ms.search_strategy.ReplayTrace(),
        num_threads=1,
        rand_state=seed,
    )
    context.pre_tuning(
        max_trials=4,
        num_trials_per_iter=4,
        design_spaces=context.generate_design_space(),
        database=ms.database.MemoryDatabase(),
        cost_model=ms.cost_model.RandomModel(),
    )
    candidates = context.generate_measure_candidates()
    return json.dumps(_plain(candidates[0].sch.trace.as_json(False)))


def _manifest(file_name: str, data: bytes, imported: ImportedModel, **changes: Any) -> Manifest:
    manifest = Manifest(
        model_file=file_name,
        model_sha256=sha256_hex(data),
        target_json=TARGET,
        cpu_features=cpu_flags(TARGET),
        inputs=tuple((tensor.name, tensor.spec) for tensor in imported.inputs),
        outputs=tuple((tensor.name, tensor.spec) for tensor in imported.outputs),
    )
    return replace(manifest, **changes)


def _install(wheel: tuple[str, bytes], where: Path) -> None:
    path = where.parent / wheel[0]
    path.write_bytes(wheel[1])
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"),
            *("--disable-pip-version-check", "--target", str(where), str(path)),
        ],
        check=True,
        capture_output=True,
    )


STRANGER = """
import sys
ALLOWED = {"numpy", "tvm_ffi", "tvm_ffi_orcjit", "typing_extensions", *sys.argv[2].split(",")}
class Stranger:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top.startswith("_sysconfigdata"):
            return None
        if top not in ALLOWED and top not in sys.stdlib_module_names:
            raise ImportError(f"a stranger has no {name}")
sys.meta_path.insert(0, Stranger())
sys.path.insert(0, sys.argv[1])
"""


def _as_a_stranger(
    site: Path, names: str, script: str, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run where nothing but the package and its three requirements can be imported."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("TVM_")}
    return subprocess.run(
        [sys.executable, "-c", STRANGER + script, str(site), names, *arguments],
        cwd=site,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def small() -> tuple[bytes, ImportedModel]:
    data = models.small_model()
    return data, import_model(data, {}, TARGET)


@pytest.fixture(scope="module")
def site(small: tuple[bytes, ImportedModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two packages: the classifier with a few real schedules, and a small untuned model."""
    root = tmp_path_factory.mktemp("stranger")
    cls = models.cls_model()
    imported = import_model(cls.data, cls.shapes, TARGET)
    chosen = imported.tasks[:6]
    traces = {task.workload_key: sample_trace(task.workload_json) for task in chosen}
    traces[imported.tasks[6].workload_key] = UNTUNED_TRACE
    parts = compile_parts(imported.parts, TARGET, traces)
    _install(write_wheel(parts, _manifest(cls.file_name, cls.data, imported)), root / "site")
    (root / "site" / "examples.npz").write_bytes(make_examples(cls.data, cls.shapes))
    data, other = small
    untuned = compile_parts(other.parts, TARGET, {})
    _install(write_wheel(untuned, _manifest("small.onnx", data, other)), root / "site")
    (root / "site" / "small.npz").write_bytes(make_examples(data, {}))
    return root / "site"


RUN_BOTH = """
import threading
import numpy as np
from ch_ppocr_mobile_v2_0_cls_infer import Model
from small import Model as Small
model, small = Model(), Small()
def check(model, archive, tolerance):
    for i in range(3):
        inputs = {key.partition("/")[2]: archive[key] for key in archive if f"in{i}/" in key}
        outputs = model.run(inputs)
        assert list(outputs) == list(model.outputs)
        for name, value in outputs.items():
            np.testing.assert_allclose(value, archive[f"out{i}/{name}"], atol=tolerance, rtol=0)
            assert value.flags.owndata and value.flags.writeable
examples, others = dict(np.load("examples.npz")), dict(np.load("small.npz"))
failures = []
def many():
    try:
        for _ in range(3):
            check(model, examples, 1e-4)
            check(small, others, 1e-4)
    except BaseException as error:
        failures.append(error)
threads = [threading.Thread(target=many) for _ in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert not failures, failures
before = model.run({"x": examples["in0/x"]})
kept = {name: value.copy() for name, value in before.items()}
model.run({"x": examples["in1/x"]})
assert all((before[name] == kept[name]).all() for name in kept)
import tvm_ffi
print(tvm_ffi.get_global_func("runtime.NumThreads")())
assert "tvm" not in sys.modules
"""


def test_a_stranger_runs_two_packages_in_one_process(site: Path) -> None:
    names = "ch_ppocr_mobile_v2_0_cls_infer,small"
    done = _as_a_stranger(site, names, RUN_BOTH)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "2"


BAD_INPUTS = """
import numpy as np
from small import Model
model = Model(num_threads=1)
assert model.inputs == {"x": ((4, 16), "float32")}
assert model.manifest["model"]["name"] == "small"
good = np.zeros((4, 16), np.float32)
for bad in ({}, {"x": good, "z": good}, {"x": good[:3]}, {"x": good.astype(np.float64)}):
    try:
        model.run(bad)
    except ValueError as error:
        print(error)
transposed = np.zeros((16, 4), np.float32).T
assert model.run({"x": transposed})["y"].shape == (4, 16)
"""


def test_unfit_inputs_are_refused_with_what_would_fit(site: Path) -> None:
    done = _as_a_stranger(site, "small", BAD_INPUTS)
    assert done.returncode == 0, done.stderr
    missing, unknown, shape, dtype = done.stdout.splitlines()
    assert missing == "the model's inputs are ['x']; missing: ['x']"
    assert unknown == "the model's inputs are ['x']; unknown: ['z']"
    assert shape == "input 'x' must have shape (4, 16), not (3, 16)"
    assert "must be float32, not float64" in dtype


def test_a_second_model_that_wants_other_threads_is_told(site: Path) -> None:
    script = """
import warnings
from small import Model
Model(num_threads=1)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    Model(num_threads=2)
print(caught[0].message)
"""
    done = _as_a_stranger(site, "small", script)
    assert done.returncode == 0, done.stderr
    assert "should use 2 threads and will use 1" in done.stdout


def test_the_environment_decides_where_the_caller_does_not(site: Path) -> None:
    script = """
from small import Model
import tvm_ffi
Model()
print(tvm_ffi.get_global_func("runtime.NumThreads")())
"""
    done = _as_a_stranger(site, "small", script, TVM_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("cpu_features", ["avx1024"], "this CPU lacks avx1024. Tune the model for this machine"),
        ("architecture", "vax", "was compiled for vax, this machine is"),
    ],
)
def test_a_cpu_that_cannot_run_it_is_told_so(
    site: Path, tmp_path: Path, field: str, value: object, message: str
) -> None:
    package = tmp_path / "small"
    package.mkdir()
    for source in (site / "small").iterdir():
        if source.name != "manifest.json" and source.name != "__pycache__":
            (package / source.name).symlink_to(source)
    # The modules find their manifest beside their real files.
    for name in ("_runtime.py", "compiled_part.py"):
        (package / name).unlink()
        (package / name).write_bytes((site / "small" / name).read_bytes())
    manifest = json.loads((site / "small" / "manifest.json").read_text())
    (package / "manifest.json").write_text(json.dumps({**manifest, field: value}))
    done = _as_a_stranger(tmp_path, "small", "from small import Model; Model()")
    assert done.returncode == 1
    assert f"RuntimeError: small was compiled for {'vax' if field != 'cpu_features' else ''}" in (
        done.stderr
    )
    assert message in done.stderr


def test_untuned_and_scheduled_code_differ(small: tuple[bytes, ImportedModel]) -> None:
    _, imported = small
    (task,) = imported.tasks
    untuned = compile_model(imported.parts[0].module_json, TARGET, {})
    assert untuned == compile_model(
        imported.parts[0].module_json, TARGET, {task.workload_key: UNTUNED_TRACE}
    )
    traces = {task.workload_key: sample_trace(task.workload_json)}
    tuned = compile_model(imported.parts[0].module_json, TARGET, traces)
    assert tuned != untuned
    assert tuned == compile_model(imported.parts[0].module_json, TARGET, traces)
    with tarfile.open(fileobj=io.BytesIO(tuned)) as archive:
        assert all(name.endswith(".o") for name in archive.getnames())


def test_a_trace_that_does_not_apply_is_named(small: tuple[bytes, ImportedModel]) -> None:
    _, imported = small
    (task,) = imported.tasks
    trace = '[[["GetSBlock", [], ["nowhere", "main"], ["b0"]]], []]'
    with pytest.raises(JobFailed, match=f"kernel '{task.name}'.*nowhere"):
        compile_model(imported.parts[0].module_json, TARGET, {task.workload_key: trace})
    with pytest.raises(JobFailed, match=f"kernel '{task.name}'"):
        compile_model(imported.parts[0].module_json, TARGET, {task.workload_key: "no JSON"})


def test_a_trace_for_no_kernel_is_refused(small: tuple[bytes, ImportedModel]) -> None:
    with pytest.raises(JobFailed, match=r"no kernel for the traces of workloads .*feed"):
        compile_model(small[1].parts[0].module_json, TARGET, {"feed": "[[], []]"})


@pytest.mark.parametrize(
    ("file_name", "name"),
    [
        ("ch_ppocr_mobile_v2.0_cls_infer.onnx", "ch_ppocr_mobile_v2_0_cls_infer"),
        ("ch_PP-OCRv4_det_infer.onnx", "ch_pp_ocrv4_det_infer"),
        ("models/Big Net (v2).ONNX", "big_net_v2"),
        ("7b.onnx", "model_7b"),
        ("json.onnx", "json_model"),
        ("class.onnx", "class_model"),
        ("тест.onnx", "model"),
    ],
)
def test_names(file_name: str, name: str) -> None:
    assert import_name(file_name) == name
    assert name.isidentifier()


OBJECTS = pack_objects({"lib0.o": b"code", "devc.o": b"weights"})


PARTS = (PartFiles(OWN, ("x",), ("y",), OBJECTS, (TensorSpec((4, 16), "float32"),)),)


def _wheel(small: tuple[bytes, ImportedModel], **changes: Any) -> tuple[str, bytes]:
    return write_wheel(PARTS, _manifest("small.onnx", *small, **changes))


def _contents(wheel: tuple[str, bytes]) -> Mapping[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(wheel[1])) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_wheel_is_valid(small: tuple[bytes, ImportedModel], tmp_path: Path) -> None:
    filename, data = _wheel(small)
    (tmp_path / filename).write_bytes(data)
    with WheelFile(tmp_path / filename) as archive:
        names = archive.namelist()
        for name in names:
            archive.read(name)  # compares with RECORD
    info = f"{filename.split('-py3')[0]}.dist-info"
    assert names[-1] == f"{info}/RECORD"
    files = _contents((filename, data))
    record = files[f"{info}/RECORD"].decode().splitlines()
    assert {line.split(",")[0] for line in record} == set(names)
    assert files[f"{info}/top_level.txt"] == b"small\n"
    assert b"Requires-Dist: apache-tvm-ffi==" in files[f"{info}/METADATA"]
    assert f"{info}/licenses/tvm/NOTICE" in files
    assert files["small/libtvm_runtime.so"].startswith(b"\x7fELF")
    assert files["small/part0/lib0.o"] == b"code"


def test_equal_content_is_equal_bytes(small: tuple[bytes, ImportedModel]) -> None:
    assert _wheel(small) == _wheel(small)


def test_the_manifest_is_completed_after_the_measurement(
    small: tuple[bytes, ImportedModel],
) -> None:
    record = Record("f", "workload", "candidate", weight=2, latency_us=1.5)
    first = _wheel(small, records=(record,))
    second = _wheel(small, records=(record,), latency=Latency(12.0, 1.0, 0.9, "here", 1e-7))
    assert first[0] == second[0]
    before, after = (
        json.loads(_contents(wheel)["small/manifest.json"]) for wheel in (first, second)
    )
    assert before["latency"] is None
    assert after["latency"]["tuned_ms"] == 1.0
    assert after["records"] == [
        {
            "name": "f",
            "workload_key": "workload",
            "candidate_key": "candidate",
            "weight": 2,
            "latency_us": 1.5,
        }
    ]
    assert {**before, "latency": None} == {**after, "latency": None}


def test_a_package_for_another_architecture(small: tuple[bytes, ImportedModel]) -> None:
    target = resolve_target("raspberry-pi/4b-aarch64")
    with pytest.raises(BadTarget, match="a package for aarch64 needs TVM's runtime for aarch64"):
        write_wheel(
            PARTS,
            _manifest("small.onnx", *small, target_json=target),
            RuntimeLibrary(b"", "manylinux_2_28_x86_64", {}),
        )
    foreign = RuntimeLibrary(b"\x7fELF", "manylinux_2_28_aarch64", {})
    filename, _ = write_wheel(PARTS, _manifest("small.onnx", *small, target_json=target), foreign)
    assert filename.endswith("-py3-none-manylinux_2_28_aarch64.whl")


def test_the_runtime_of_this_environment() -> None:
    runtime = installed_runtime()
    assert runtime.platform_tag.startswith("manylinux")
    assert set(runtime.licenses) == {"LICENSE", "NOTICE"}
