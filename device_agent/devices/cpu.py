"""A CPU as a device: what it is called, what code it takes, how many threads."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_agent import runtime
from protos import engines, errors
from protos.boards import target_text
from protos.records import Device, canonical_json
from protos.simd import simd_features

CPUINFO = Path("/proc/cpuinfo")
CPUS = Path("/sys/devices/system/cpu")
BOARD = Path("/proc/device-tree/model")

NO_BOARDS = ("linux,", "qemu")
"""How models begin that are virtual machines' and no board's."""

MAX_BOARD = 128
PROC = Path("/proc")

_V2 = {"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"}
_V3 = _V2 | {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"}
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
X86_LEVELS = (("x86-64-v4", _V4), ("x86-64-v3", _V3), ("x86-64-v2", _V2))

ARM_PARTS = {
    "0xd03": "cortex-a53",
    "0xd04": "cortex-a35",
    "0xd05": "cortex-a55",
    "0xd07": "cortex-a57",
    "0xd08": "cortex-a72",
    "0xd09": "cortex-a73",
    "0xd0a": "cortex-a75",
    "0xd0b": "cortex-a76",
    "0xd0c": "neoverse-n1",
    "0xd40": "neoverse-v1",
    "0xd41": "cortex-a78",
    "0xd49": "neoverse-n2",
}


@dataclass(frozen=True)
class CpuInfo:
    """What the kernel says of the first CPU."""

    model: str
    features: tuple[str, ...]
    part: str = ""


def parse_cpuinfo(text: str) -> CpuInfo:
    """Read /proc/cpuinfo. A board's own name (``Model``, ``Hardware``) stands at its end."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.partition(":")
        if separator:
            values.setdefault(key.strip(), value.strip())
    model = next(
        (values[key] for key in ("model name", "Model", "Hardware") if values.get(key)),
        platform.machine(),
    )
    features = (values.get("flags") or values.get("Features") or "").split()
    return CpuInfo(model, tuple(sorted(features)), values.get("CPU part", ""))


def default_target(machine: str, info: CpuInfo, num_cores: int) -> dict[str, Any]:
    """The target that fits this CPU; raises BadTarget for an architecture that we don't know."""
    if machine in ("x86_64", "AMD64"):
        present = set(info.features)
        level = next((name for name, needed in X86_LEVELS if needed <= present), "x86-64")
        return {
            "kind": "llvm",
            "mtriple": "x86_64-linux-gnu",
            "mcpu": level,
            "num-cores": num_cores,
        }
    if machine in ("aarch64", "arm64"):
        return {
            "kind": "llvm",
            "mtriple": "aarch64-linux-gnu",
            "mcpu": ARM_PARTS.get(info.part, "generic"),
            "mattr": ["+neon"],
            "num-cores": num_cores,
        }
    raise errors.BadTarget(f"no default target for {machine} CPUs: give one with --target")


_LIKE_THIS = (
    'Give one like {"kind":"llvm","mtriple":"aarch64-linux-gnu","mcpu":"cortex-a76",'
    '"num-cores":4}, a board such as raspberry-pi/5-aarch64, or none for what this device is'
)


def check_target(target_json: str, num_cpus: int) -> tuple[str, int]:
    """Canonical text of a target, or of a board's name, and the threads its kernels use.

    Raises BadTarget if it is no target or wants more threads than there are CPUs.
    """
    try:
        target = json.loads(target_text(target_json))
    except ValueError as error:
        raise errors.BadTarget(
            f"the target {target_json!r} is not JSON: {error}. {_LIKE_THIS}"
        ) from error
    if not isinstance(target, dict) or not isinstance(target.get("kind"), str):
        raise errors.BadTarget(
            f'the target {target_json} is not an object with a "kind". {_LIKE_THIS}'
        )
    cores = target.get("num-cores")
    if not isinstance(cores, int) or cores < 1:
        raise errors.BadTarget(
            f'the target {target_json} has no "num-cores", the threads that a kernel may use'
        )
    if cores > num_cpus:
        raise errors.BadTarget(
            f"the target's num-cores is {cores}, but this device has {num_cpus} CPUs for it; "
            "lower num-cores or give it more CPUs"
        )
    return canonical_json(target), cores


def describe_cpu(
    name: str, target_json: str | None, cpus: Sequence[int] | None, emulated: bool
) -> Device:
    """The CPUs of this machine as a device.

    ``cpus`` defaults to those this process may run on, the target to what the CPU is; it is
    emulated, too, if ``is_emulated`` says so. Raises
    BadTarget if the two do not fit, and BadRequest for CPUs that this process may not use.
    """
    allowed = os.sched_getaffinity(0)
    chosen = tuple(sorted(set(cpus))) if cpus else tuple(sorted(allowed))
    if not set(chosen) <= allowed:
        raise errors.BadRequest(
            f"CPUs {sorted(set(chosen) - allowed)} are not among those this process may use "
            f"({sorted(allowed)}); name some of these with --cpus"
        )
    info = parse_cpuinfo(CPUINFO.read_text(errors="replace"))
    if target_json is None:
        target_json = json.dumps(default_target(platform.machine(), info, len(chosen)))
    canonical, num_threads = check_target(target_json, len(chosen))
    return Device(
        name=name,
        target_json=canonical,
        cpu_model=info.model,
        cpus=chosen,
        num_threads=num_threads,
        emulated=emulated or is_emulated(),
        tool_versions=tool_versions(),
        engine_versions=engines.installed(),
        host=socket.gethostname(),
        cpu_features=simd_features(info.features),
        cache_bytes=last_level_cache_bytes(CPUS, chosen),
        board="" if emulated else board_model(BOARD),
    )


def board_model(file: Path) -> str:
    """The model of a single-board computer, its revision included: ``Raspberry Pi 4 Model B Rev
    1.4``. Empty on what is none: PCs and servers have no device tree, virtual machines no board.
    """
    try:
        text = file.read_bytes()[:MAX_BOARD].split(b"\0")[0].decode("utf-8", "replace").strip()
    except OSError:
        return ""
    return "" if text.lower().startswith(NO_BOARDS) or not text.isprintable() else text


def is_emulated(proc: Path = PROC) -> bool:
    """Whether this process runs in QEMU's user-mode emulation, which puts the program's name in
    place of its own into the first of these links and not into the second."""
    try:
        return (proc / "self/exe").readlink() != (proc / "thread-self/exe").readlink()
    except OSError:
        return False


def last_level_cache_bytes(folder: Path, cpus: Sequence[int]) -> int:
    """What these CPUs' caches of the highest level hold together, each counted once.

    ``folder`` is as /sys/devices/system/cpu; 0 if it says nothing of caches.
    """
    found: dict[tuple[int, str], int] = {}
    for cpu in cpus:
        for cache in folder.glob(f"cpu{cpu}/cache/index*"):
            try:
                kind = (cache / "type").read_text().strip()
                level = int((cache / "level").read_text())
                size = (cache / "size").read_text().strip()
                shared = (cache / "shared_cpu_list").read_text().strip()
            except (OSError, ValueError):
                continue  # boards differ in what they say of a cache
            if kind != "Instruction" and (match := re.fullmatch(r"(\d+)([KMG]?)", size)):
                found[level, shared] = int(match[1]) << _SHIFTS[match[2]]
    highest = max((level for level, _ in found), default=0)
    return sum(size for (level, _), size in found.items() if level == highest)


_SHIFTS = {"": 0, "K": 10, "M": 20, "G": 30}


def tool_versions() -> dict[str, str]:
    """What a measurement depends on besides the artifact.

    Raises Unavailable if TVM's runtime library is not on this device.
    """
    library = runtime.find_runtime()
    versions = {
        "tvm-runtime": hashlib.sha256(library.read_bytes()).hexdigest()[:16],
        "python": platform.python_version(),
        "kernel": platform.release(),
    }
    for name, distribution in (
        ("tvm-ffi", "apache-tvm-ffi"),
        ("orcjit", "apache-tvm-ffi-orcjit"),
    ):
        try:
            versions[name] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
