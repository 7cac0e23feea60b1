"""The agent's decisions and small parts: values in, values out."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from device_agent.agent import LONGEST_DELAY_S, reconnect_delay_s
from device_agent.artifacts import ArtifactCache
from device_agent.devices import cpu
from device_agent.forking import ChildOutcome
from device_agent.frames import FrameError, FrameTimeoutError, read_frame, write_frame
from device_agent.kernel_child import parse_answer
from device_agent.outbox import Outbox
from device_agent.telemetry import read_telemetry
from device_agent.workload_spec import WorkloadSpec
from device_agent.workloads import Workload, WorkloadCache, decode_line
from device_agent.zygote import verdict
from protos import errors
from protos.records import (
    Acknowledgement,
    Artifact,
    Device,
    Measurement,
    MeasurementStatus,
    TensorSpec,
)
from protos.simd import simd_features

# ------------------------------------------------------------------------------- verdicts


def _ended(answer: bytes = b"", **how: int | bool | str) -> ChildOutcome:
    fields = {"timed_out": False, "babbled": False, "exit_code": 0, "signal_number": 0}
    return ChildOutcome(answer, **{**fields, "words": "", **how})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("outcome", "status", "words"),
    [
        (_ended(timed_out=True, signal_number=9), MeasurementStatus.TIMED_OUT, "after 2 s"),
        (_ended(signal_number=11), MeasurementStatus.CRASHED, "SIGSEGV"),
        (_ended(exit_code=3), MeasurementStatus.CRASHED, "code 3"),
        (_ended(b"half an ans", signal_number=6), MeasurementStatus.CRASHED, "SIGABRT"),
        (_ended(b"half an ans"), MeasurementStatus.GARBAGE, "half an ans"),
        (_ended(b"xx", babbled=True, signal_number=9), MeasurementStatus.GARBAGE, "xx"),
    ],
)
def test_how_a_child_ends_is_its_status(
    outcome: ChildOutcome, status: MeasurementStatus, words: str
) -> None:
    found, error = verdict(outcome, None, 2.0)
    assert found is status
    assert words in error


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"{}\n",
        b"[]\n",
        b'{"status": "OK"}\n',
        b'{"status": "OK", "error": "", "repeats_s": [], "threads": 1}\n',
        b'{"status": "OK", "error": "", "repeats_s": [-1.0], "threads": 1}\n',
        b'{"status": "OK", "error": "", "repeats_s": [NaN], "threads": 1}\n',
        b'{"status": "FINE", "error": "", "repeats_s": [1.0], "threads": 1}\n',
        b'{"status": "OK", "error": "", "repeats_s": [1.0], "threads": 1}',
        b'junk{"status": "OK", "error": "", "repeats_s": [1.0], "threads": 1}\n',
        b"\xff\xfe\n",
    ],
)
def test_what_is_no_answer_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):
        decode_line(line, parse_answer)


# ------------------------------------------------------------------------------- workloads


def _workload(seed: int, size: int) -> Workload:
    array = np.zeros(size, np.uint8)
    return Workload(WorkloadSpec((), 0, seed, ""), (array,), (), ())


def test_the_least_recently_used_workload_goes_first() -> None:
    cache = WorkloadCache(max_workloads=2, max_bytes=100)
    first, second, third = (_workload(seed, 10) for seed in range(3))
    large = _workload(9, 500)
    cache.add(first)
    cache.add(second)
    assert cache.get(first.spec.key) is first
    cache.add(third)
    assert cache.get(second.spec.key) is None
    cache.add(large)
    assert cache.get(first.spec.key) is None
    assert cache.get(large.spec.key) is large, "the newest stays, however large"


def test_a_workload_survives_its_journey() -> None:
    spec = WorkloadSpec((TensorSpec((2, 3), "int8"), TensorSpec((), "float32")), 1, 5, "ab")
    assert WorkloadSpec.from_header(spec.to_header()) == spec
    assert spec.input_specs == spec.args[:1]
    assert spec.output_specs == spec.args[1:]
    assert spec.key != WorkloadSpec(spec.args, 1, 6, "ab").key


# ------------------------------------------------------------------------------- frames


def test_frames_go_through_a_pipe() -> None:
    reader, writer = os.pipe()
    try:
        write_frame(writer, {"a": [1, 2.5, "ü"]}, [b"", b"xyz"])
        os.close(writer)
        frame = read_frame(reader)
        assert frame is not None
        assert (frame.header, frame.blobs) == ({"a": [1, 2.5, "ü"]}, (b"", b"xyz"))
        assert read_frame(reader) is None
    finally:
        os.close(reader)


@pytest.mark.parametrize(
    "junk", [b"tfa1", b"junkjunkjunk", b"tfa1\0\0\0\2{}", b"tfa1\xff\xff\xff\xff"]
)
def test_junk_is_no_frame(junk: bytes) -> None:
    reader, writer = os.pipe()
    try:
        os.write(writer, junk)
        os.close(writer)
        with pytest.raises(FrameError):
            read_frame(reader)
    finally:
        os.close(reader)


def test_a_frame_may_be_waited_for_too_long() -> None:
    reader, writer = os.pipe()
    try:
        with pytest.raises(FrameTimeoutError):
            read_frame(reader, deadline=0.0)
    finally:
        os.close(reader)
        os.close(writer)


# ------------------------------------------------------------------------------- outbox, artifacts


def test_results_wait_for_their_acknowledgement_in_order() -> None:
    outbox = Outbox()
    results = [Measurement("w", key, MeasurementStatus.OK, "lease") for key in "abc"]
    for result in results:
        outbox.add(result)
    outbox.acknowledge(Acknowledgement("lease", "b"))
    outbox.acknowledge(Acknowledgement("another", "a"))
    assert outbox.pending() == [results[0], results[2]]


def test_artifacts_are_fetched_once_and_inline_ones_never() -> None:
    fetched: list[str] = []
    store = {artifact.sha256: artifact for artifact in (Artifact.of(b"one"), Artifact.of(b"two"))}

    def fetch(artifact: Artifact) -> bytes:
        fetched.append(artifact.sha256)
        return store[artifact.sha256].data

    cache = ArtifactCache(fetch)
    cache.keep(Artifact.of(b"inline"))
    assert cache.get(Artifact.of(b"inline").without_data()) == b"inline"
    for _ in range(2):
        assert cache.get(Artifact.of(b"one").without_data()) == b"one"
    assert fetched == [Artifact.of(b"one").sha256]


def test_a_small_cache_fetches_again() -> None:
    fetched: list[str] = []
    data = {Artifact.of(text).sha256: text for text in (b"aaaa", b"bbbb")}

    def fetch(artifact: Artifact) -> bytes:
        fetched.append(artifact.sha256)
        return data[artifact.sha256]

    cache = ArtifactCache(fetch, max_bytes=4)
    for text in (b"aaaa", b"bbbb", b"aaaa"):
        assert cache.get(Artifact.of(text).without_data()) == text
    assert len(fetched) == 3


def test_bytes_that_are_not_the_artifact_are_refused() -> None:
    cache = ArtifactCache(lambda artifact: b"other")
    with pytest.raises(errors.ProtocolViolation, match="has 5 bytes, not 3"):
        cache.get(Artifact.of(b"one").without_data())
    with pytest.raises(errors.ProtocolViolation, match="SHA-256"):
        cache.get(Artifact.of(b"three").without_data())
    with pytest.raises(errors.ProtocolViolation):
        cache.keep(Artifact("0" * 64, 3, b"one"))


def test_reconnection_backs_off_with_jitter() -> None:
    delays = [reconnect_delay_s(attempt, 0.0) for attempt in range(20)]
    assert delays == sorted(delays)
    assert delays[-1] == LONGEST_DELAY_S
    assert 0 < reconnect_delay_s(3, 0.999) < reconnect_delay_s(3, 0.0)


# ------------------------------------------------------------------------------- the device

X86 = """processor : 0
model name : Intel(R) Core(TM) i7
flags : fpu sse sse2 ssse3 sse4_1 sse4_2 popcnt cx16 lahf_lm smep avx avx2 bmi1 bmi2 f16c fma abm \
movbe

processor : 1
model name : another
"""
PI = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU part\t: 0xd08

Hardware\t: BCM2835
Model\t\t: Raspberry Pi 4 Model B Rev 1.4
"""


def test_a_pc_is_described() -> None:
    info = cpu.parse_cpuinfo(X86)
    assert info.model == "Intel(R) Core(TM) i7"
    assert "smep" not in simd_features(info.features)
    target = cpu.default_target("x86_64", info, 4)
    assert target["mcpu"] == "x86-64-v3"
    assert target["num-cores"] == 4


def test_a_raspberry_pi_is_described() -> None:
    info = cpu.parse_cpuinfo(PI)
    assert info.model == "Raspberry Pi 4 Model B Rev 1.4"
    assert simd_features(info.features) == ("asimd",)
    assert cpu.default_target("aarch64", info, 4)["mcpu"] == "cortex-a72"


def test_a_board_is_known_by_its_device_tree(tmp_path: Path) -> None:
    file = tmp_path / "model"
    assert cpu.board_model(file) == "", "a PC has none"
    for text, board in (
        (b"Raspberry Pi 4 Model B Rev 1.4\0", "Raspberry Pi 4 Model B Rev 1.4"),
        (b"linux,dummy-virt\0", ""),
        (b"\x1b[31mred\0", ""),
        (b"x" * 9999, "x" * cpu.MAX_BOARD),
    ):
        file.write_bytes(text)
        assert cpu.board_model(file) == board


def test_a_board_makes_a_kind_only_where_it_says_more_than_the_cpu() -> None:
    """The digits are those of kinds in logs that exist."""
    pc = Device("pc", '{"kind":"llvm"}', "Intel(R) Xeon(R)", (0,), 1)
    pi = replace(pc, cpu_model="Raspberry Pi 4 Model B Rev 1.4")
    assert (pc.kind, pi.kind) == ("0dfdd1a844ab2575", "c75dc335a0a30bf6")
    assert replace(pi, board=pi.cpu_model).kind == pi.kind
    unnamed = replace(pc, cpu_model="aarch64")
    boards = ("", "Raspberry Pi 4 Model B Rev 1.1", "Raspberry Pi 4 Model B Rev 1.4")
    assert len({replace(unnamed, board=board).kind for board in boards}) == 3


def test_an_unknown_architecture_needs_a_target() -> None:
    with pytest.raises(errors.BadTarget, match="s390x"):
        cpu.default_target("s390x", cpu.parse_cpuinfo(""), 1)


@pytest.mark.parametrize(
    "text", ["llvm", "[]", "{}", '{"kind": "llvm"}', '{"kind": "llvm", "num-cores": 9}']
)
def test_unusable_targets_are_refused(text: str) -> None:
    with pytest.raises(errors.BadTarget):
        cpu.check_target(text, 2)


def test_this_machine_is_a_device() -> None:
    allowed = sorted(os.sched_getaffinity(0))
    device = cpu.describe_cpu("here", None, None, emulated=False)
    assert device.cpus == tuple(allowed)
    assert device.num_threads == len(allowed)
    assert device.cpu_features
    assert {"tvm-runtime", "tvm-ffi", "orcjit", "python", "kernel"} <= set(device.tool_versions)
    one = cpu.describe_cpu("one", None, allowed[:1], emulated=True)
    assert (one.cpus, one.num_threads) == (tuple(allowed[:1]), 1)
    with pytest.raises(errors.BadRequest, match="9999"):
        cpu.describe_cpu("none", None, [9999], emulated=False)


def test_an_emulated_process_finds_out(tmp_path: Path) -> None:
    for name, program in (("self", "/usr/bin/python3.11"), ("thread-self", "/usr/bin/qemu")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "exe").symlink_to(program)
    assert cpu.is_emulated(tmp_path)
    assert not cpu.is_emulated(), "not this one"
    assert not cpu.is_emulated(tmp_path / "nothing")


def test_telemetry_is_read_and_what_is_missing_is_none(tmp_path: Path) -> None:
    zone = tmp_path / "class/thermal/thermal_zone0"
    frequency = tmp_path / "devices/system/cpu/cpu3/cpufreq"
    zone.mkdir(parents=True)
    frequency.mkdir(parents=True)
    (zone / "temp").write_text("48312\n")
    (frequency / "scaling_cur_freq").write_text("1500000\n")
    (frequency / "scaling_governor").write_text("ondemand\n")
    telemetry = read_telemetry([3], tmp_path)
    assert telemetry.temperature_c == pytest.approx(48.312)
    assert telemetry.frequency_mhz == pytest.approx(1500.0)
    assert telemetry.governor == "ondemand"
    bare = read_telemetry([], tmp_path / "nothing")
    assert (bare.temperature_c, bare.governor) == (None, None)


def test_an_x86_server_has_sensors_and_counts_instead(tmp_path: Path) -> None:
    chip, disk = tmp_path / "class/hwmon/hwmon1", tmp_path / "class/hwmon/hwmon0"
    events = tmp_path / "devices/system/cpu/cpu2/thermal_throttle"
    for folder in (chip, disk, events):
        folder.mkdir(parents=True)
    (chip / "name").write_text("coretemp\n")
    (chip / "temp1_input").write_text("61000\n")
    (disk / "name").write_text("nvme\n")
    (disk / "temp1_input").write_text("80000\n")
    (events / "core_throttle_count").write_text("7\n")
    (events / "package_throttle_count").write_text("9\n")
    telemetry = read_telemetry([2], tmp_path)
    assert telemetry.temperature_c == pytest.approx(61.0)
    assert telemetry.throttled == "9 events"
