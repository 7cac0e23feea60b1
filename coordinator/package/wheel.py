"""A compiled model as a wheel that a stranger installs with pip."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import io
import json
import keyword
import re
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protos.engines import ENGINES, ONEDNN, engine
from protos.errors import BadTarget, JobFailed
from protos.plain_text import one_line
from protos.records import OWN, TensorSpec, sha256_hex

from ..frontend.target import architecture, num_threads
from .manifest import Manifest, manifest_json
from .runtimes import LIBRARY, RuntimeLibrary, runtime_for

_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
"""Equal content must give equal bytes."""

_REQUIRED = ("apache-tvm-ffi", "apache-tvm-ffi-orcjit")
_TAKEN = frozenset(
    (
        "numpy",
        "tvm",
        "tvm_ffi",
        "tvm_ffi_orcjit",
        "onnx",
        *(one.module for one in ENGINES if one.module),
    )
)
_ONEDNN_SOURCES = ("onednn_part.py", "onednn_builder.py", "onednn_steps.py", "onednn_api.py")


def import_name(model_file: str) -> str:
    """The Python module, in lower case, that a model's file name becomes.

    ``ch_ppocr_mobile_v2.0_cls_infer.onnx`` gives ``ch_ppocr_mobile_v2_0_cls_infer``. A name that
    would hide another module gets ``_model`` after it.
    """
    stem = re.sub(r"\.onnx$", "", Path(model_file).name, flags=re.IGNORECASE)
    name = re.sub(r"_+", "_", re.sub(r"[^a-z0-9]", "_", stem.lower())).strip("_")
    if not name or not name[0].isalpha():
        name = f"model_{name}".rstrip("_")
    taken = name in _TAKEN or name in sys.stdlib_module_names or keyword.iskeyword(name)
    return f"{name}_model" if taken else name


@dataclass(frozen=True)
class PartFiles:
    """One part as the wheel keeps it: who runs it, what it reads and writes by ONNX name, its code.

    Of a part of ours (``engine`` is OWN) ``data`` is what ``compile_model`` gave and ``arguments``
    are the specs of ``inputs``; of an engine's, ``data`` is an ONNX file with fixed shapes, or for
    oneDNN a program (``frontend/onednn/program``), and ``operators`` is how many operators of the
    model it runs.
    """

    engine: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    data: bytes = field(repr=False)
    arguments: tuple[TensorSpec, ...] = ()
    operators: int = 0

    @property
    def ours(self) -> bool:
        """Whether it is code of the farm's."""
        return self.engine == OWN


def write_wheel(
    parts: Sequence[PartFiles], manifest: Manifest, runtime: RuntimeLibrary | None = None
) -> tuple[str, bytes]:
    """The wheel's file name and bytes: the same for the same arguments and tools.

    Raises BadTarget if a part is ours and ``runtime`` (by default the pinned one) is not for the
    target's architecture, what ``runtime_for`` raises, and JobFailed if a part's engine is not
    among ``manifest.engines``.
    """
    required = _engines_required(parts, manifest)
    files = {"_runtime.py": _source("runtime.py")}
    papers: dict[str, bytes] = {}
    platform = "any"
    if any(part.ours for part in parts):
        runtime = runtime or runtime_for(architecture(manifest.target_json))
        _check_architecture(manifest.target_json, runtime)
        platform = runtime.platform_tag
        files["compiled_part.py"] = _source("compiled_part.py")
        files[LIBRARY] = runtime.data
        papers = {f"licenses/tvm/{name}": data for name, data in runtime.licenses.items()}
        required |= {name: importlib.metadata.version(name) for name in _REQUIRED}
    if not all(part.ours for part in parts):
        files["engine_part.py"] = _source("engine_part.py")
    if any(part.engine == ONEDNN.name for part in parts):
        files |= {name: _source(name) for name in _ONEDNN_SOURCES}
    described = []
    for number, part in enumerate(parts):
        where = f"part{number}{_suffix(part)}"
        found = _object_files(part.data) if part.ours else [("", part.data)]
        files.update({f"{where}/{name}".rstrip("/"): data for name, data in found})
        described.append(_described(part, where))
    name = import_name(manifest.model_file)
    version = f"1.0+m{manifest.model_sha256[:10]}.{_local_version(parts, manifest)}"
    info, tag = f"{name}-{version}.dist-info", f"py3-none-{platform}"
    filename = f"{name}-{version}-{tag}.whl"
    module = {**_common(name, manifest, described), **files}
    members = {f"{name}/{path}": data for path, data in module.items()}
    members[f"{info}/METADATA"] = _metadata(name, version, manifest, parts, required).encode()
    members[f"{info}/WHEEL"] = _wheel_file(tag).encode()
    members[f"{info}/top_level.txt"] = f"{name}\n".encode()
    members.update((f"{info}/{path}", content) for path, content in papers.items())
    return filename, pack(filename, members)


def _suffix(part: PartFiles) -> str:
    """Of the part's file; a part of ours is a folder."""
    known = engine(part.engine)
    return known.suffix if known is not None else ""


def _local_version(parts: Sequence[PartFiles], manifest: Manifest) -> str:
    """Packages of different code have different versions: pip would not replace an equal one."""
    if not any(part.ours for part in parts):
        used = manifest.engines[0]
        return f"{used.name}{re.sub(r'[^0-9a-zA-Z.]', '.', used.version)}"
    code = parts[0].data if len(parts) == 1 else "".join(sha256_hex(p.data) for p in parts).encode()
    return f"o{sha256_hex(code)[:10]}"


def _engines_required(parts: Sequence[PartFiles], manifest: Manifest) -> dict[str, str]:
    """Distributions with their versions."""
    versions = {used.name: used.version for used in manifest.engines}
    found = {}
    for part in parts:
        if not part.ours:
            known = engine(part.engine)
            if known is None or part.engine not in versions:
                raise JobFailed(f"there is no engine for a part of the package: {part.engine!r}")
            found[known.distribution] = versions[part.engine]
    return found


def _described(part: PartFiles, where: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "engine": part.engine,
        "inputs": list(part.inputs),
        "outputs": list(part.outputs),
        "files": where,
    }
    if not part.ours:
        found["operators"] = part.operators
    else:
        found["arguments"] = [
            {"shape": list(spec.shape), "dtype": spec.dtype} for spec in part.arguments
        ]
    return found


def _check_architecture(target_json: str, runtime: RuntimeLibrary) -> None:
    needed = architecture(target_json)
    if not runtime.platform_tag.endswith(needed):
        raise BadTarget(
            f"a package for {needed} needs TVM's runtime for {needed}; there is one for "
            f"{runtime.platform_tag}"
        )


def _source(name: str) -> bytes:
    return importlib.resources.files(__package__).joinpath(name).read_bytes()


def _common(name: str, manifest: Manifest, parts: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """What every package has, by its path below the module."""
    described = manifest_json(
        manifest,
        parts,
        name=name,
        architecture=architecture(manifest.target_json),
        num_threads=num_threads(manifest.target_json),
        created_by=f"tunefarm {importlib.metadata.version('tunefarm')}",
    )
    doc = f'"""{name}, packaged by tunefarm: ``Model().run(inputs)``; see manifest.json."""\n\n'
    init = f'{doc}from ._runtime import Model\n\n__all__ = ["Model"]\n'
    return {
        "__init__.py": init.encode(),
        "manifest.json": json.dumps(described, indent=2, ensure_ascii=False).encode(),
    }


def _object_files(objects: bytes) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(objects)) as archive:
        members = [member for member in archive.getmembers() if member.isfile()]
        if not members:
            raise JobFailed("the compiled model has no object files")
        for member in sorted(members, key=lambda item: item.name):
            content = archive.extractfile(member)
            assert content is not None
            yield Path(member.name).name, content.read()


def _metadata(
    name: str,
    version: str,
    manifest: Manifest,
    parts: Sequence[PartFiles],
    required: Mapping[str, str],
) -> str:
    engines = " and ".join(sorted({part.engine for part in parts if not part.ours}))
    runs = "compiled by tunefarm for one kind of CPU"
    licences = ["The model's own license applies to the model."]
    if not any(part.ours for part in parts):
        runs = f"for {engines}, its fastest engine on one kind of CPU"
    else:
        runs += f", parts of it for {engines}" if engines else ""
        licences.append("TVM's is under licenses/tvm.")
    licences += [f"{used.name}'s is {used.licence}." for used in manifest.engines]
    return "\n".join(
        [
            "Metadata-Version: 2.1",
            f"Name: {name.replace('_', '-')}",
            f"Version: {version}",
            f"Summary: {one_line(manifest.model_file)} {runs}",
            "Requires-Python: >=3.10",
            "Requires-Dist: numpy>=1.23",
            *(f"Requires-Dist: {package}=={pinned}" for package, pinned in required.items()),
            "",
            f"`from {name} import Model; Model().run(inputs)`: see `Model().inputs`.",
            " ".join(licences),
            "",
        ]
    )


def _wheel_file(tag: str) -> str:
    python, abi, platforms = tag.split("-")
    tags = [f"Tag: {python}-{abi}-{platform}" for platform in platforms.split(".")]
    version = importlib.metadata.version("tunefarm")
    pure = str(platforms == "any").lower()
    lines = ["Wheel-Version: 1.0", f"Generator: tunefarm {version}", f"Root-Is-Purelib: {pure}"]
    return "\n".join([*lines, *tags, ""])


def pack(filename: str, files: Mapping[str, bytes]) -> bytes:
    """A wheel of these files, but for its RECORD, that depends on nothing else."""
    from wheel.wheelfile import WheelFile

    class TimelessWheelFile(WheelFile):  # type: ignore[misc]
        """Writes the date of no day, into the RECORD that it adds itself, too."""

        def writestr(self, entry: Any, data: Any, compress_type: int | None = None) -> None:
            if isinstance(entry, str):
                entry = zipfile.ZipInfo(entry)
                entry.compress_type = self.compression
                entry.external_attr = 0o100644 << 16
            entry.date_time = _ZIP_TIME
            super().writestr(entry, data, compress_type)

    # WheelFile reads the wheel's name off the file it writes, and keeps RECORD's hashes.
    with tempfile.TemporaryDirectory(prefix="tunefarm-wheel-") as directory:
        path = Path(directory) / filename
        with TimelessWheelFile(path, "w") as archive:
            for name in sorted(files, key=lambda name: (".dist-info/" in name, name)):
                archive.writestr(name, files[name])
        return path.read_bytes()
