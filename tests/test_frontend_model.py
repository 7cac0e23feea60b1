"""What the frontend says about a model file before anything slow happens."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper
from tvm.target import Target

from coordinator.frontend.cpu_features import check_cpu, hidden_features, required_flags
from coordinator.frontend.onnx_model import inspect_model
from coordinator.frontend.target import architecture, cpu_flags, num_threads, resolve_target
from device_agent.devices.cpu import CpuInfo, check_target, default_target
from protos.errors import BadModel, BadTarget, JobFailed
from protos.records import Device, Shape, TensorSpec, canonical_json
from tests import models

RELU = helper.make_node("Relu", ["x"], ["y"], "clamp")


def test_a_real_model() -> None:
    model = models.magika_model()
    info = inspect_model(model.data, model.shapes)
    assert info.inputs == {"bytes": TensorSpec((1, 2048), "int32")}
    assert info.outputs == ("target_label",)
    assert info.opset == 15
    assert info.operators["MatMul"] == 2


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", b"")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "it is empty"),
        (_zip(), "looks like a zip archive"),
        (b"\x1c\x00\x00\x00TFL3\x00\x00", "TensorFlow Lite"),
        (b"\x80\x02}q\x00.", "pickle"),
        (b'{"model": 1}', "JSON"),
        (b"this is no model at all", "text; give the file"),
        (b"nor is this\n", "text; give the file"),
        (np.arange(200, dtype=np.uint8).tobytes(), "200 bytes"),
        (helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0]).SerializeToString(), "bytes"),
    ],
)
def test_what_is_no_model(data: bytes, what: str) -> None:
    with pytest.raises(BadModel, match=what) as caught:
        inspect_model(data, {})
    assert "not an ONNX model" in str(caught.value)


@pytest.mark.parametrize(
    ("dims", "shape", "message"),
    [
        (("n", 3, 8), None, r"input 'x' has open dimensions \(n,3,8\): give --shape x=1,3,8"),
        (("n", 3, "h"), None, r"\(n,3,h\): .*for example --shape x=1,3,224"),
        ((1, 3, 8), (1, 3, 9), r"--shape x=1,3,9 contradicts the model, where it is \(1,3,8\)"),
        ((1, 3, 8), (1, 24), r"--shape x=1,24 has 2 dimensions, but the input has 3 \(1,3,8\)"),
        (("n", 3, 8), (0, 3, 8), "every dimension must be 1 or more"),
    ],
)
def test_shapes(dims: tuple[int | str, ...], shape: tuple[int, ...] | None, message: str) -> None:
    data = models.make_model([RELU], {"x": dims}, {"y": dims})
    with pytest.raises(BadModel, match=message):
        inspect_model(data, {} if shape is None else {"x": Shape(shape)})


def test_a_shape_for_no_input() -> None:
    data = models.make_model([RELU], {"x": (1,)}, {"y": (1,)})
    with pytest.raises(BadModel, match="--shape names 'z', but the model's inputs are 'x'"):
        inspect_model(data, {"z": Shape((1,))})


def test_open_dimensions_are_fixed() -> None:
    data = models.make_model([RELU], {"x": ("n", 3)}, {"y": ("n", 3)})
    assert inspect_model(data, {"x": Shape((5, 3))}).inputs == {"x": TensorSpec((5, 3), "float32")}


def test_weights_outside_of_the_file() -> None:
    model = models.parse(models.small_model())
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    with pytest.raises(BadModel, match=r"outside of its file \('w'"):
        inspect_model(model.SerializeToString(), {})


def test_every_operator_that_cannot_be_imported_is_named() -> None:
    nodes = [
        helper.make_node("Custom", ["x"], ["a"], "mine", domain="org.example"),
        helper.make_node("Det", ["a"], ["b"], "determinant"),
        helper.make_node("StringNormalizer", ["b"], ["y"]),
    ]
    data = models.make_model(nodes, {"x": (2, 2)}, {"y": None})
    with pytest.raises(BadModel) as caught:
        inspect_model(data, {})
    for name in (
        "org.example.Custom (node 'mine')",
        "Det (node 'determinant')",
        "StringNormalizer (the node that computes 'y')",
    ):
        assert name in str(caught.value)


def test_an_lstm_is_named_by_its_node() -> None:
    weights = {name: np.ones((1, 16, 4), np.float32) for name in ("w", "r")}
    node = helper.make_node("LSTM", ["x", "w", "r"], ["", "y"], "memory", hidden_size=4)
    data = models.make_model([node], {"x": (3, 1, 4)}, {"y": (1, 1, 4)}, weights)
    with pytest.raises(BadModel, match=r"LSTM \(node 'memory'\)"):
        inspect_model(data, {})


def test_equal_targets_give_equal_text() -> None:
    texts = {
        resolve_target(text)
        for text in (
            '{"kind":"llvm","mtriple":"x86_64-linux-gnu","mcpu":"znver4","num-cores":2}',
            '{"num-cores":2, "mcpu":"znver4", "mtriple":"x86_64-conda-linux-gnu", "kind":"llvm"}',
            '{"keys":["cpu"],"mtriple":"x86_64-pc-linux-gnu","kind":"llvm","mcpu":"znver4","num-cores":2}',
        )
    }
    assert texts == {'{"kind":"llvm","mcpu":"znver4","mtriple":"x86_64-linux-gnu","num-cores":2}'}


@pytest.mark.parametrize("text", ["auto", "raspberry-pi/4b-aarch64"])
def test_a_resolved_target_stays_what_it_is(text: str) -> None:
    resolved = resolve_target(text, threads=3)
    assert resolve_target(resolved) == resolved
    assert num_threads(resolved) == 3
    assert json.loads(resolved)["kind"] == "llvm"


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("raspberry-pi/3b-aarch64", "0xd03"),
        ("raspberry-pi/4b-aarch64", "0xd08"),
        ("raspberry-pi/5-aarch64", "0xd0b"),
    ],
)
def test_a_board_is_what_its_agent_says(name: str, part: str) -> None:
    """A job for the one finds the other, which has no compiler to ask."""
    default = default_target("aarch64", CpuInfo("a board", (), part), 4)
    canonical, threads = check_target(name, 4)
    assert canonical == canonical_json(default) == resolve_target(name)
    assert threads == num_threads(canonical) == 4
    assert "asimd" in cpu_flags(canonical)


def test_the_pi_4_is_that_of_tvm() -> None:
    tagged = dict(Target("raspberry-pi/4b-aarch64").export())
    ours = json.loads(resolve_target("raspberry-pi/4b-aarch64"))
    for key, value in ours.items():
        assert (list(tagged[key]) if isinstance(value, list) else tagged[key]) == value


def test_a_tag() -> None:
    target = resolve_target("raspberry-pi/4b-aarch64")
    assert architecture(target) == "aarch64"
    assert num_threads(target) == 4
    assert "asimd" in cpu_flags(target)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raspbery-pi/4b-aarch64", "near it: raspberry-pi/4b-aarch64"),
        ('{"kind":"lvm"}', "near it: llvm"),
        ('{"kind":"llvm","mtriple":"x86_64-linux-gnu","mcpu":"znver9"}', "no CPU 'znver9'.*znver4"),
        ('{"kind":"cuda"}', "not supported yet"),
        ("nvidia/geforce-rtx-3090", "not supported yet"),
        ('{"kind":"llvm","mtriple":"s390x-linux-gnu"}', "num-cores"),
        ('{"kind":"llvm","num-cores":0}', "1 or more"),
        ('{"kind":"llvm","speed":"high"}', "Unknown config option 'speed'"),
        ('{"kind":', "not valid JSON"),
        ("", "unknown target ''"),
    ],
)
def test_bad_targets(text: str, message: str) -> None:
    with pytest.raises(BadTarget, match=message):
        resolve_target(text)


def test_no_threads() -> None:
    with pytest.raises(BadTarget, match="0 threads"):
        resolve_target("auto", threads=0)


def test_features_are_translated() -> None:
    llvm = ("avx512vnni", "lzcnt", "fast-lzcnt", "sse4.1")
    assert required_flags(llvm, "x86_64") == ("abm", "avx512_vnni", "sse4_1")
    assert hidden_features(llvm, ("abm", "sse4_1"), "x86_64") == ("avx512vnni",)
    assert required_flags(("neon", "dotprod"), "aarch64") == ("asimd", "asimddp")


def test_a_device_without_what_the_target_needs_is_refused_at_once() -> None:
    target = '{"kind":"llvm","mcpu":"sapphirerapids","num-cores":2}'
    device = Device("bench-1", target, "AMD EPYC", (0, 1), 2, cpu_features=("avx", "avx2", "fma"))
    check_cpu(("adx", "avx2", "fma"), device)  # adx is no flag that a device reports
    needed = ("avx2", "avx512f", "amx_tile")
    with pytest.raises(JobFailed, match="needs amx_tile, avx512f, which the CPU of device bench-1"):
        check_cpu(needed, device)
    check_cpu(needed, replace(device, emulated=True))
    check_cpu(needed, replace(device, cpu_features=()))
