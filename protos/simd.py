"""Which of a CPU's flags, as Linux names them, ``Device.cpu_features`` has."""

from __future__ import annotations

from collections.abc import Iterable

_PREFIXES = ("sse", "ssse", "avx", "amx", "fma", "f16c", "bmi", "asimd", "neon", "sve")
_FEATURES = {"popcnt", "abm", "fphp", "i8mm", "bf16", "fcma", "sme", "sme2", "vfpv4"}


def simd_features(flags: Iterable[str]) -> tuple[str, ...]:
    """Those that decide which kernels run and how fast."""
    return tuple(flag for flag in flags if flag in _FEATURES or flag.startswith(_PREFIXES))
