"""`tunefarm agent bundle`: what is in it, and that it makes an agent of a machine."""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from coordinator.bundle import pin, pins
from coordinator.bundle.archive import SUMS, bundle, folder_name
from protos.records import Measurement

from . import kernels
from .emulated_board import unpack
from .test_device_agent_session import Farm, lease

ROOT = Path(__file__).resolve().parent.parent
HERE = platform.machine()
MOST_MEMORY_BYTES = 100_000_000
"""Of the agent, and of the process that forks its kernels; and of both together but for what is
read from files, which the system takes back where memory is short."""


def tunefarm(
    *arguments: str | Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "coordinator.cli.main", *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


# ------------------------------------------------------------------------------- what is in it


@pytest.mark.parametrize("architecture", pins.ARCHITECTURES)
def test_the_pins_are_of_the_locked_versions(architecture: str) -> None:
    locked = dict(
        re.findall(r"^([^\s=]+)==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    )
    versions = {re.sub(r"[-_.]+", "-", name).lower(): locked[name] for name in locked}
    found = {one.name: one.version for one in pins.pins(architecture)}
    assert found.pop(pins.INSTALLER) == pin.INSTALLER_VERSION
    assert found == {name: versions[name] for name in found}
    needed = {re.sub(r"[-_.]+", "-", text.partition("==")[0]) for text in pin.required()}
    assert needed <= set(found)
    assert pins.COMPILER in found


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle for this machine, as the command writes it."""
    path = tmp_path_factory.mktemp("bundle") / "agent.tar"
    done = tunefarm("agent", "bundle", "--arch", HERE, "-o", path)
    assert done.returncode == 0, done.stderr
    assert f"sudo {folder_name(HERE)}/install.sh" in done.stdout
    assert [entry.name for entry in path.parent.iterdir()] == ["agent.tar"]
    return path


def test_it_is_the_same_every_time(archive: Path) -> None:
    assert archive.read_bytes() == bundle(HERE)
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
    assert {(m.uid, m.gid, m.uname, m.mtime) for m in members} == {(0, 0, "", 315_532_800)}
    names = [Path(m.name).name for m in members]
    assert names == [Path(name).name for name in sorted(m.name for m in members)]
    assert not any(name.startswith("apache_tvm-") for name in names), "no compiler"
    assert {"libtvm_runtime.so", "tunefarm-agent.service", "install.sh", SUMS} <= set(names)


def test_without_a_network_it_says_what_to_do(tmp_path: Path) -> None:
    """Nor is a wheel taken that is not the pinned one, although it is there by name."""
    (forged,) = (one for one in pins.pins("aarch64") if one.name == "psutil")
    cache = tmp_path / "tunefarm" / "wheels" / "aarch64"
    cache.mkdir(parents=True)
    (cache / forged.pattern().replace("*", "cp36-abi3-linux_aarch64")).write_bytes(b"not it")
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(tmp_path),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_FIND_LINKS": "",
        "PIP_NO_INDEX": "1",
    }
    done = tunefarm("agent", "bundle", "-o", tmp_path / "pi.tar", environment=environment)
    assert done.returncode == 3
    assert "psutil" in done.stderr
    assert "can't be downloaded" in done.stderr
    assert f"copy what it keeps there to {cache}" in done.stderr
    assert not (tmp_path / "pi.tar").exists()
    assert len(list(cache.iterdir())) == 1, "nothing unfinished is left"


def test_there_is_none_for_every_architecture() -> None:
    done = tunefarm("agent", "bundle", "--arch", "armv7l")
    assert done.returncode == 2
    assert "no agent for 'armv7l'; there are ones for aarch64, x86_64" in done.stderr


def test_a_file_that_can_not_be_written(archive: Path, tmp_path: Path) -> None:
    done = tunefarm("agent", "bundle", "--arch", HERE, "-o", tmp_path / "none" / "a.tar")
    assert done.returncode == 2
    assert "a.tar can't be written: No such file" in done.stderr


# ------------------------------------------------------------------------------- installed


def unpacked(archive: Path, folder: Path) -> Path:
    unpack(archive, folder)
    return folder / folder_name(HERE)


def install(folder: Path, destination: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [folder / "install.sh", *arguments],
        env={"PATH": os.environ["PATH"], "DESTDIR": str(destination)},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def installed(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a file system into which it was installed."""
    folder = tmp_path_factory.mktemp("installed")
    done = install(unpacked(archive, folder), folder / "root", "farm.example:7412")
    assert done.returncode == 0, done.stderr
    return folder / "root"


def bare_environment(folder: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(folder)} | {
        name: os.environ[name] for name in os.environ if name.startswith("TUNEFARM_")
    }


def test_everything_is_where_the_unit_looks_for_it(installed: Path) -> None:
    unit = (installed / "etc/systemd/system/tunefarm-agent.service").read_text()
    assert unit == (ROOT / "deploy/systemd/tunefarm-agent.service").read_text()
    (command,) = re.findall(r"^ExecStart=(\S+)", unit, re.MULTILINE)
    assert (installed / command.lstrip("/")).exists()
    environment = (installed / "etc/tunefarm/agent.env").read_text()
    assert environment == "TUNEFARM_COORDINATOR=farm.example:7412\n"
    for name in ("sysusers", "tmpfiles"):
        assert (installed / f"etc/{name}.d/tunefarm.conf").exists()


def memory(process: psutil.Process, what: str) -> int:
    """Bytes of a process by the kernel's word for them."""
    text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    (found,) = re.findall(rf"^{what}: +(\d+) kB$", text, re.MULTILINE)
    return int(found) * 1024


def test_an_agent_without_the_compiler_is_small(installed: Path, tmp_path: Path) -> None:
    farm = Farm()
    process = subprocess.Popen(
        [
            *(installed / "opt/tunefarm/bin/tunefarm", "agent", "--coordinator", farm.address),
            *("--name", "board", "--target", kernels.target_json(1)),
        ],
        env=bare_environment(tmp_path),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        connection = farm.gateway.connection()
        connection.send(lease("one", kernels.kernel("doubled"), kernels.kernel("segfault")))
        results = [connection.expect(Measurement) for _ in range(2)]
        assert sorted(result.status.name for result in results) == ["CRASHED", "OK"]
        agent = psutil.Process(process.pid)
        processes = [agent, *agent.children()]  # the zygote, without its kernels
        parts = [(memory(one, "Pss"), memory(one, "Pss_Anon")) for one in processes]
        assert len(parts) == 2
        assert max(whole for whole, _ in parts) < MOST_MEMORY_BYTES, parts
        assert sum(own for _, own in parts) < MOST_MEMORY_BYTES, parts
        process.send_signal(signal.SIGTERM)
        _out, words = process.communicate(timeout=30)
        assert process.returncode == 0, words
    finally:
        process.kill()
        process.communicate()
        farm.close()


def test_what_is_not_installed_is_said(installed: Path, tmp_path: Path) -> None:
    command = installed / "opt/tunefarm/bin/tunefarm"
    environment = bare_environment(tmp_path)
    for words in (["jobs"], ["log", "stats"], ["serve"]):
        done = subprocess.run([command, *words], env=environment, capture_output=True, text=True)
        assert done.returncode == 2
        assert "is not installed here, which this command needs" in done.stderr
    done = subprocess.run([command, "--help"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0
    assert "offer this device to a coordinator" in done.stdout


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("ARCHITECTURE", "riscv64\n", "this bundle is for riscv64, and this machine is"),
        ("systemd/tunefarm.sysusers", "u root 0\n", "the bundle is damaged"),
    ],
)
def test_what_is_not_for_this_machine_or_damaged_is_not_installed(
    archive: Path, tmp_path: Path, file: str, text: str, complaint: str
) -> None:
    folder = unpacked(archive, tmp_path)
    (folder / file).write_text(text)
    done = install(folder, tmp_path / "root")
    assert done.returncode == 2
    assert complaint in done.stderr
    assert not (tmp_path / "root").exists()
