"""What the device says of itself before and after a measurement; a missing signal is None."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psutil

from protos.records import Telemetry

SYS = Path("/sys")
CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
VCGENCMD_TIMEOUT_S = 1.0


def read_telemetry(cpus: Sequence[int], sys_root: Path = SYS) -> Telemetry:
    """The signals of the CPUs that the kernels run on. Never raises."""
    return Telemetry(
        temperature_c=_temperature_c(sys_root),
        frequency_mhz=_frequency_mhz(cpus, sys_root),
        governor=_text(sys_root / f"devices/system/cpu/cpu{min(cpus)}/cpufreq/scaling_governor")
        if cpus
        else None,
        load_1m=_load_1m(),
        throttled=_throttled(sys_root) or _throttle_events(cpus, sys_root),
    )


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _number(path: Path) -> float | None:
    try:
        return float(_text(path) or "")
    except ValueError:
        return None


def _temperature_c(sys_root: Path) -> float | None:
    """The hottest zone: a throttling governor looks at that one.

    Without zones, as on many servers, the hottest sensor of a CPU.
    """
    zones = sorted((sys_root / "class/thermal").glob("thermal_zone*/temp"))
    if not zones:
        chips = sorted((sys_root / "class/hwmon").glob("hwmon*"))
        cpus = [chip for chip in chips if _text(chip / "name") in CPU_SENSORS]
        zones = [sensor for chip in cpus for sensor in sorted(chip.glob("temp*_input"))]
    readings = [reading for zone in zones if (reading := _number(zone)) is not None]
    return max(readings) / 1e3 if readings else None


def _frequency_mhz(cpus: Sequence[int], sys_root: Path) -> float | None:
    folder = sys_root / "devices/system/cpu"
    readings = [
        reading / 1e3
        for cpu in cpus
        if (reading := _number(folder / f"cpu{cpu}/cpufreq/scaling_cur_freq")) is not None
    ]
    if readings:
        return sum(readings) / len(readings)
    with contextlib.suppress(Exception):  # psutil parses files that differ from board to board
        frequency = psutil.cpu_freq()
        return float(frequency.current) if frequency and frequency.current else None
    return None


def _load_1m() -> float | None:
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def _throttled(sys_root: Path) -> str | None:
    """A Raspberry Pi's word, such as ``0x50005``; ``throttling`` says what it means.

    The file's word, for a board whose ``vcgencmd`` is not there or may not ask, is up to two
    seconds old.
    """
    word = _asked(shutil.which("vcgencmd"))
    for path in sorted(sys_root.glob("devices/platform/soc*/soc*:firmware/get_throttled")):
        word = word or _text(path)
    try:
        return f"{int(word, 16):#x}" if word else None
    except ValueError:
        return None


def _asked(command: str | None) -> str | None:
    if command is None:
        return None
    try:
        answer = subprocess.run(
            [command, "get_throttled"], capture_output=True, text=True, timeout=VCGENCMD_TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    _, found, word = answer.stdout.strip().partition("throttled=")
    return word if found and answer.returncode == 0 else None


def _throttle_events(cpus: Sequence[int], sys_root: Path) -> str | None:
    """How often an x86 says that it was throttled since it started: of all these CPUs, the most."""
    counts = []
    for cpu in cpus:
        folder = sys_root / f"devices/system/cpu/cpu{cpu}/thermal_throttle"
        readings = (_number(folder / f"{what}_throttle_count") for what in ("core", "package"))
        counts += [reading for reading in readings if reading is not None]
    return f"{max(counts):.0f} events" if counts else None
