"""What a model is compiled for: one canonical text per target."""

from __future__ import annotations

import difflib
import json
import os
import platform
import re
from collections.abc import Iterable, Mapping
from typing import Any

from protos.boards import BOARDS
from protos.errors import BadTarget
from protos.records import canonical_json

from .cpu_features import hidden_features, host_flags, required_flags, vector_lanes

AUTO = "auto"

_FAMILIES = ("arm", "thumb", "i386", "i686", "amd64", "riscv", "powerpc", "mips")
"""Beginnings of triples whose exact names (armv8l …) LLVM's list of back ends does not have."""


def resolve_target(text: str, threads: int | None = None) -> str:
    """The canonical JSON of the target that ``text`` means; equal targets give equal text.

    ``text`` is ``auto`` (this host), a board's name, a tag of TVM's, or a JSON object. ``threads``
    becomes ``num-cores``; without it the target's own stands, or, for this host's architecture, the
    number of CPUs this process may use. Raises BadTarget with the nearest known names.
    """
    if threads is not None and threads < 1:
        raise BadTarget(f"{threads} threads make no sense; give 1 or more")
    text = text.strip()
    if text == AUTO:
        config = _host_config()
    elif text.startswith("{"):
        config = _parse(text)
    else:
        config = _tag_config(text)
    return canonical_json(_canonical(config, threads))


def architecture(target_json: str) -> str:
    """The first part of the target's triple, as the kernel calls it: x86_64, aarch64 … A target
    without one is built for this machine's."""
    triple = str(json.loads(target_json).get("mtriple", ""))
    name = triple.partition("-")[0] or platform.machine()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def num_threads(target_json: str) -> int:
    """How many threads the target's kernels are made for."""
    return int(json.loads(target_json)["num-cores"])


def vector_lanes_of(target_json: str) -> int:
    """float32 elements in the target's widest vector; raises BadTarget if TVM does not know it."""
    from tvm.target import Target

    try:
        return vector_lanes(Target(json.loads(target_json)))
    except Exception as error:  # TVM's errors share no narrower base
        raise BadTarget(f"TVM refuses the target {target_json}: {error}") from error


def cpu_flags(target_json: str) -> tuple[str, ...]:
    """The flags of ``/proc/cpuinfo`` without which code for this target may not run."""
    from tvm.target import Target
    from tvm.target.codegen import llvm_get_cpu_features

    features = llvm_get_cpu_features(Target(json.loads(target_json)))
    return required_flags((str(name) for name in features), architecture(target_json))


def _host_config() -> dict[str, Any]:
    from tvm.target import Target, codegen

    config: dict[str, Any] = {
        "kind": "llvm",
        "mtriple": _host_triple(),
        "mcpu": str(codegen.llvm_get_system_cpu()),
    }
    arch = architecture(canonical_json(config))
    features = [str(name) for name in codegen.llvm_get_cpu_features(Target(config))]
    flags = host_flags()
    # LLVM knows the CPU by its model name; a hypervisor may have masked some of its features, and
    # code that uses one of those dies with SIGILL.
    hidden = hidden_features(features, flags, arch) if flags else ()
    if hidden:
        config["mattr"] = [f"-{name}" for name in hidden]
    return config


def _host_triple() -> str:
    from tvm.target.codegen import llvm_get_system_triple

    return _plain_triple(str(llvm_get_system_triple()))


def _plain_triple(triple: str) -> str:
    """Without the vendor, which says who built the compiler and not what it builds for."""
    return re.sub(r"^([^-]+)-(?:conda|unknown|pc|none)-linux-", r"\1-linux-", triple)


def _parse(text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except ValueError as error:
        raise BadTarget(f"the target is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise BadTarget("the target's JSON must be an object, for example " + _example())
    return config


def _example() -> str:
    return '{"kind":"llvm","mtriple":"aarch64-linux-gnu","mcpu":"cortex-a76","num-cores":4}'


def _near(name: str, known: Iterable[str]) -> str:
    names = difflib.get_close_matches(name, sorted(known), n=4, cutoff=0.5)
    return f"; near it: {', '.join(names)}" if names else ""


def _tag_config(tag: str) -> dict[str, Any]:
    from tvm.target import Target, list_tags

    if tag in BOARDS:
        return dict(BOARDS[tag])
    tags = sorted({*BOARDS, *(str(name) for name in list_tags())})
    if tag not in tags:
        near = _near(tag, tags)
        raise BadTarget(
            f"unknown target {tag!r}{near}. Give {AUTO!r}, a board's name, a tag of TVM's, or a "
            "JSON object like " + _example()
        )
    return dict(Target(tag).export())


def _canonical(config: Mapping[str, Any], threads: int | None) -> dict[str, Any]:
    from tvm.target import Target

    _check_kind(config)
    config = dict(config)
    _drop_own_host(config)
    config["mtriple"] = _plain_triple(str(config.get("mtriple") or _host_triple()))
    config["mcpu"] = str(config.get("mcpu") or "generic")
    _check_cpu(config["mcpu"], config["mtriple"])
    config["num-cores"] = _num_cores(config, threads)
    explicit_keys = config.pop("keys", None)
    config = {name: _plain(value) for name, value in config.items() if _is_given(name)}
    derived = _exported(Target, config)
    if explicit_keys is not None and sorted(explicit_keys) != sorted(derived["keys"]):
        config["keys"] = sorted(str(key) for key in explicit_keys)
        derived = _exported(Target, config)
    else:
        derived.pop("keys")
    result = {name: _plain(value) for name, value in derived.items() if _is_given(name)}
    if "mattr" in result:
        result["mattr"] = sorted(set(result["mattr"]))
    return result


def _exported(target_class: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return dict(target_class(dict(config)).export())
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise BadTarget(
            f"TVM refuses the target {canonical_json(dict(config))}: {reason}"
        ) from None


def _is_given(name: str) -> bool:
    """False for what TVM works out itself."""
    return name not in ("tag", "host") and not name.startswith("feature.")


def _plain(value: Any) -> Any:
    if isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value]


def _check_kind(config: Mapping[str, Any]) -> None:
    from tvm.target import Target

    kind = config.get("kind")
    kinds = [str(name) for name in Target.list_kinds()]
    if kind not in kinds:
        raise BadTarget(
            f"the target's kind {kind!r} is unknown{_near(str(kind), kinds)}; a CPU's is 'llvm'"
        )
    if kind != "llvm":
        raise BadTarget(f"targets of kind {kind!r} are not supported yet, only CPUs ('llvm')")


def _drop_own_host(config: dict[str, Any]) -> None:
    host = config.pop("host", None)
    if host is None:
        return
    kind = host.get("kind") if isinstance(host, Mapping) else getattr(host, "kind", None)
    if str(getattr(kind, "name", kind)) != "llvm":
        raise BadTarget("a CPU target needs no host; leave 'host' out")


def _check_cpu(cpu: str, triple: str) -> None:
    from tvm.target import Target, codegen

    arch = triple.partition("-")[0]
    known = {str(name) for name in codegen.llvm_get_targets()}
    if arch not in known and not arch.startswith(_FAMILIES):
        raise BadTarget(f"the target's triple {triple!r} is unknown{_near(arch, known)}")
    if not codegen.llvm_is_valid_cpu(cpu, triple):
        cpus = codegen.llvm_get_cpu_archlist(Target({"kind": "llvm", "mtriple": triple}))
        near = _near(cpu, (str(name) for name in cpus))
        raise BadTarget(f"LLVM knows no CPU {cpu!r} for {triple}{near}")


def _num_cores(config: Mapping[str, Any], threads: int | None) -> int:
    if threads is not None:
        return threads
    given = config.get("num-cores")
    if given is None:
        if architecture(canonical_json({"mtriple": config["mtriple"]})) != _host_architecture():
            raise BadTarget(
                f"the target for {config['mtriple']} does not say how many cores to use: add "
                '"num-cores" to it, or give --threads'
            )
        return len(os.sched_getaffinity(0))
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise BadTarget(f'the target\'s "num-cores" is {given!r}; it must be 1 or more')
    return given


def _host_architecture() -> str:
    return architecture(canonical_json({"mtriple": _host_triple()}))
