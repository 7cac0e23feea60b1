"""The units of systemd: what systemd itself says of them, and that they call what exists."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.cli.main import parser

UNITS = Path(__file__).resolve().parent.parent / "deploy" / "systemd"
SERVICES = sorted(UNITS.glob("*.service"))
COMMAND = "/opt/tunefarm/bin/tunefarm"
MOST_EXPOSED = 30
"""Tenths of systemd's own measure, from 0 (safe) to 100."""

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def executed(unit: Path) -> list[str]:
    """The command that a unit starts, without what the environment adds."""
    (line,) = re.findall(r"^ExecStart=(.*)$", unit.read_text(), re.MULTILINE)
    return [word.replace("%H", "here") for word in line.split() if not word.startswith("$")]


def test_both_sides_have_a_unit() -> None:
    assert [unit.stem for unit in SERVICES] == ["tunefarm-agent", "tunefarm-coordinator"]


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.stem)
def test_a_unit_calls_a_command_that_exists(unit: Path) -> None:
    command, *arguments = executed(unit)
    assert command == COMMAND
    assert parser().parse_args(arguments).run


@needs_systemd
@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.stem)
def test_systemd_takes_the_unit(unit: Path, tmp_path: Path) -> None:
    installed = tmp_path / unit.name
    installed.write_text(unit.read_text().replace(COMMAND, sys.executable))
    command = ["systemd-analyze", "verify", "--man=no", str(installed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    complaints = [line for line in done.stderr.splitlines() if unit.stem in line]
    assert complaints == []
    assert done.returncode == 0, done.stderr


@needs_systemd
@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.stem)
def test_a_unit_is_hardened(unit: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSED}"]
    done = subprocess.run([*command, str(unit)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr


def test_the_units_share_one_host_lock() -> None:
    for unit in SERVICES:
        assert "Environment=TUNEFARM_LOCK_DIR=/run/lock/tunefarm\n" in unit.read_text()
        assert "ReadWritePaths=/run/lock/tunefarm\n" in unit.read_text()
    assert "d /run/lock/tunefarm 1777" in (UNITS / "tunefarm.tmpfiles").read_text()
