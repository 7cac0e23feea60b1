"""A board that is held back: what it says of itself, and what becomes of its measurements.

``vcgencmd`` is a fake one, as nobody can heat a Raspberry Pi that is not there.
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.canary import canary_workload
from device_agent.artifacts import ArtifactCache
from device_agent.build import build_kernel
from device_agent.devices.cpu import describe_cpu
from device_agent.lease_worker import LeaseWorker
from device_agent.telemetry import read_telemetry
from device_agent.throttling import held_back, judged
from protos.records import (
    Circumstances,
    EvaluatorConfig,
    KernelWork,
    Lease,
    LeaseFinished,
    Measurement,
    MeasurementStatus,
    Telemetry,
    Trial,
)

from . import kernels

PATIENCE_S = 200.0
CONFIG = EvaluatorConfig(repeat=2, min_repeat_ms=1, timeout_s=20.0)


@pytest.mark.parametrize(
    ("before", "after", "cause"),
    [
        ("0x0", "0x0", ""),
        ("0x50000", "0x50000", ""),  # long ago
        ("0x50005", "0x50000", "its supply's voltage is too low, it is throttled (0x50000)"),
        ("0x0", "0x80008", "it is too hot (0x80008)"),
        ("0x0", "0x20000", "its clock is capped (0x20000)"),  # for a moment, in between
        (None, None, ""),
        ("7 events", "9 events", ""),
        ("0x1", None, "its supply's voltage is too low (0x1)"),
    ],
)
def test_what_held_a_board_back(before: str | None, after: str | None, cause: str) -> None:
    words = held_back(Telemetry(throttled=before), Telemetry(throttled=after))
    assert words == (f"the board is held back: {cause}" if cause else "")


@pytest.mark.parametrize(
    ("status", "becomes"),
    [
        (MeasurementStatus.OK, MeasurementStatus.SUSPECT),
        (MeasurementStatus.TIMED_OUT, MeasurementStatus.SUSPECT),
        (MeasurementStatus.CRASHED, MeasurementStatus.CRASHED),
    ],
)
def test_only_times_are_in_doubt(status: MeasurementStatus, becomes: MeasurementStatus) -> None:
    hot, cool = Telemetry(throttled="0x8"), Telemetry(throttled="0x0")
    circumstances = Circumstances("pi", {}, CONFIG, 1, (0,), False, hot, cool)
    measured = Measurement("w", "c", status, "l", "a", (1e-3,), "why", circumstances=circumstances)
    assert judged(measured).status is becomes
    assert "why" in judged(measured).error


class Firmware:
    """A fake ``vcgencmd`` in front of the PATH."""

    def __init__(self, folder: Path) -> None:
        self._word = folder / "word"
        command = folder / "vcgencmd"
        command.write_text(f'#!/bin/sh\n[ "$1" = get_throttled ] && cat {self._word}\n')
        command.chmod(0o755)

    def says(self, text: str) -> None:
        self._word.write_text(text)


@pytest.fixture
def firmware(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Firmware:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    one = Firmware(tmp_path)
    one.says("throttled=0x0\n")
    return one


def test_the_firmware_is_asked(firmware: Firmware, tmp_path: Path) -> None:
    assert read_telemetry([], tmp_path).throttled == "0x0"
    firmware.says("throttled=0x50005\n")
    assert read_telemetry([], tmp_path).throttled == "0x50005"
    firmware.says("VCHI initialization failed\n")
    assert read_telemetry([], tmp_path).throttled is None
    file = tmp_path / "devices/platform/soc/soc:firmware/get_throttled"
    file.parent.mkdir(parents=True)
    file.write_text("50005\n")
    assert read_telemetry([], tmp_path).throttled == "0x50005", "who may not ask reads"


@pytest.fixture
def run(firmware: Firmware) -> Iterator[Any]:
    """Executes leases on this machine, which believes its firmware to be a Raspberry Pi's."""
    device = describe_cpu("pi", kernels.target_json(1), None, emulated=False)
    reported: queue.Queue[Any] = queue.Queue()

    def nothing_to_fetch(artifact: Any) -> bytes:
        raise AssertionError(artifact)

    worker = LeaseWorker(device, ArtifactCache(nothing_to_fetch), reported.put)
    worker.start()

    def execute(work: KernelWork) -> tuple[list[Measurement], LeaseFinished]:
        worker.submit(Lease("lease", "job", 3600.0, kernel=work))
        results = []
        while isinstance(record := reported.get(timeout=PATIENCE_S), Measurement):
            results.append(record)
        return results, record

    with contextlib.closing(worker):
        yield execute


def work(config: EvaluatorConfig = CONFIG, **more: Any) -> KernelWork:
    doubled = kernels.kernel("doubled")
    trials = (Trial("candidate", doubled),)
    return KernelWork("workload", kernels.VECTORS, 1, 7, doubled, config, trials, **more)


def test_what_was_timed_while_it_was_held_back_is_suspect(run: Any, firmware: Firmware) -> None:
    firmware.says("throttled=0x50005\n")
    (result,), finished = run(work())
    assert result.status is MeasurementStatus.SUSPECT
    assert "its supply's voltage is too low, it is throttled (0x50005)" in result.error
    assert result.latency_us is None
    assert result.circumstances.before.throttled == "0x50005"
    assert not finished.error
    firmware.says("throttled=0x50000\n")
    (result,), _ = run(work())
    assert result.status is MeasurementStatus.OK


def test_nothing_is_timed_on_a_board_that_stays_held_back(run: Any, firmware: Firmware) -> None:
    built = build_kernel(canary_workload(1), "", kernels.target_json(1))
    # The canary's times are this machine's affair: nothing but the firmware is to be off here.
    config = EvaluatorConfig(**{**CONFIG.__dict__, "canary_every": 16, "canary_drift": 1e6})
    firmware.says("throttled=0x8\n")
    results, finished = run(work(config, canary=built.artifact))
    assert results == []
    assert finished.canary_ratio == math.inf, "the fleet sets such a device aside"
    assert "the board is held back: it is too hot (0x8)" in finished.error
    firmware.says("throttled=0x80000\n")
    (result,), finished = run(work(config, canary=built.artifact))
    assert result.status is MeasurementStatus.OK, result.error
