"""LLVM's names of CPU features and the kernel's names of the same (``/proc/cpuinfo``).

LLVM generates code for a CPU's model name; a virtual machine may hide some of that model's
features, and a package may be carried to another CPU. Both need the two vocabularies side by side.
Features that no compiler emits instructions for are left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from protos.errors import JobFailed
from protos.records import Device
from protos.simd import simd_features

_X86 = {
    "adx": "adx",
    "aes": "aes",
    "amx-bf16": "amx_bf16",
    "amx-int8": "amx_int8",
    "amx-tile": "amx_tile",
    "avx": "avx",
    "avx2": "avx2",
    "avx512bf16": "avx512_bf16",
    "avx512bitalg": "avx512_bitalg",
    "avx512bw": "avx512bw",
    "avx512cd": "avx512cd",
    "avx512dq": "avx512dq",
    "avx512f": "avx512f",
    "avx512fp16": "avx512_fp16",
    "avx512ifma": "avx512ifma",
    "avx512vbmi": "avx512vbmi",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vl": "avx512vl",
    "avx512vnni": "avx512_vnni",
    "avx512vp2intersect": "avx512_vp2intersect",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avxifma": "avx_ifma",
    "avxvnni": "avx_vnni",
    "bmi": "bmi1",
    "bmi2": "bmi2",
    "f16c": "f16c",
    "fma": "fma",
    "fma4": "fma4",
    "gfni": "gfni",
    "lzcnt": "abm",
    "movbe": "movbe",
    "pclmul": "pclmulqdq",
    "popcnt": "popcnt",
    "sha": "sha_ni",
    "sse3": "pni",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    "sse4a": "sse4a",
    "ssse3": "ssse3",
    "vaes": "vaes",
    "vpclmulqdq": "vpclmulqdq",
    "xop": "xop",
}

_AARCH64 = {
    "aes": "aes",
    "bf16": "bf16",
    "crc": "crc32",
    "dotprod": "asimddp",
    "fp-armv8": "fp",
    "fp16fml": "asimdfhm",
    "fullfp16": "asimdhp",
    "i8mm": "i8mm",
    "lse": "atomics",
    "neon": "asimd",
    "rdm": "asimdrdm",
    "sha2": "sha2",
    "sve": "sve",
    "sve2": "sve2",
}

_TABLES: Mapping[str, Mapping[str, str]] = {"x86_64": _X86, "aarch64": _AARCH64}


def required_flags(llvm_features: Iterable[str], architecture: str) -> tuple[str, ...]:
    """The flags that ``/proc/cpuinfo`` must show before code with these LLVM features may run."""
    table = _TABLES.get(architecture, {})
    return tuple(sorted(table[name] for name in set(llvm_features) if name in table))


def check_cpu(flags: Iterable[str], device: Device) -> None:
    """Raise JobFailed if code that needs these flags can't run on the device.

    An emulated device shows the flags of the CPU below it, and a replay device runs nothing.
    """
    if device.emulated or not device.cpu_features:
        return
    missing = sorted(set(simd_features(flags)) - set(device.cpu_features))
    if missing:
        raise JobFailed(
            f"code for the target {device.target_json} needs {', '.join(missing)}, which the CPU "
            f"of device {device.name} ({device.cpu_model}) lacks; give the target that it has, or "
            "auto on the device itself"
        )


def hidden_features(
    llvm_features: Iterable[str], flags: Iterable[str], architecture: str
) -> tuple[str, ...]:
    """LLVM's names of the features that the CPU's model has and this host does not show."""
    table = _TABLES.get(architecture, {})
    shown = set(flags)
    return tuple(
        sorted(name for name in set(llvm_features) if name in table and table[name] not in shown)
    )


def host_flags() -> tuple[str, ...]:
    """The flags of this host's first CPU; empty where the system does not tell."""
    path = Path(os.sep, "proc", "cpuinfo")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return tuple(sorted(set(value.split())))
    return ()


def vector_lanes(target: Any) -> int:
    """float32 elements in the widest vector of a CPU target.

    TVM says 512 bits of every x86, so there the target's features are asked.
    """
    from tvm.target import codegen

    features = {str(name) for name in codegen.llvm_get_cpu_features(target)}
    by_feature = next((count for name, count in _X86_LANES if name in features), None)
    return by_feature or max(1, int(codegen.llvm_get_vector_width(target)) // 32)


_X86_LANES = (("avx512f", 16), ("avx", 8), ("sse2", 4))
